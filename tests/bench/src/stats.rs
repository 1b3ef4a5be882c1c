//! What is said of many measurements.

/// Mean of the lower half. Interruptions only ever add time; and since the kernel tells
/// whole nanoseconds, a median or a minimum would hide what a change costs.
pub(crate) fn lower_half(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = &values[..values.len().div_ceil(2)];
    half.iter().sum::<f64>() / half.len() as f64
}

/// The value that `share` of all are below.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

/// The middle one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}
