//! Summaries of many measurements.

/// Returns the mean of the lower half. Interruptions only ever add time, and because the kernel
/// gives whole nanoseconds, a median or a minimum would hide the cost of a change.
pub(crate) fn lower_half(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = &values[..values.len().div_ceil(2)];
    half.iter().sum::<f64>() / half.len() as f64
}

/// Returns the value that `share` of all are below.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

/// Returns the middle value.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}
