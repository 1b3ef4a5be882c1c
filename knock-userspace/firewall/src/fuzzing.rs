//! Entry points for fuzzers: everything that reads answers of the kernel.

use super::{conntrack, sets, socket, status, wire};

/// Reads one datagram in all ways in which answers are read, and returns how much was found in it.
pub fn read(datagram: &[u8]) -> usize {
    socket::answers(datagram)
        .map(|answer| {
            let error = usize::from(matches!(answer.error("fuzz"), Ok(Some(_))));
            error.max(answer.attributes().map_or(0, attributes))
        })
        .sum()
}

/// Reads the attributes of one answer in all ways, whatever it is about.
fn attributes(bytes: &[u8]) -> usize {
    let elements = sets::Element::parse(bytes).filter(|element| {
        let service = sets::service_of(&element.key).is_some();
        let grant = sets::grant_of(&element.key).is_some();
        service || grant || wire::as_text(&element.key).is_some()
    });
    let rule = [
        status::has_drop(bytes),
        status::prefix(bytes).is_some(),
        conntrack::is_ours(bytes),
        conntrack::tracks(bytes),
    ];
    let found = elements.count() + rule.into_iter().filter(|found| *found).count();
    found + usize::from(status::counted(bytes).is_some())
}
