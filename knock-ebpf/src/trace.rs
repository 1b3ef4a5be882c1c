//! Messages for `--trace-kernel`. While the agent leaves `TRACE` at 0, the verifier removes all of
//! this as dead code.

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::info;
use knock_common::detect::Outcome;
use knock_common::sequence::{Protocol, Step};
use knock_common::source::Source;
use knock_common::word::Word as _;

use crate::atomic::SharedWord;

#[unsafe(no_mangle)]
static TRACE: Global<u32> = Global::new(0);

/// Writes one message. The source is an IPv6 address, mapped if it is IPv4. The logging macro takes
/// nothing but a literal, so the text comes with its place holders.
macro_rules! say {
    ($context:expr, $source:expr, $step:expr, $format:literal) => {{
        let protocol = match $step.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        info!($context, $format, $source.0, protocol, $step.port)
    }};
}

/// Reports the outcome for a candidate.
#[inline(always)]
pub(crate) fn outcome(context: &XdpContext, source: &Source, step: Step, outcome: Outcome) {
    static ALL: [Outcome; Outcome::ALL.len()] = Outcome::ALL;
    if TRACE.load() == 0 {
        return;
    }
    // The verifier would read the function below once for every value that it knows of these two.
    // Out of a table, the outcome is one unknown.
    let step = SharedWord::opaque(step.index().into()) as u32;
    if let Some(outcome) = ALL.get(SharedWord::opaque(outcome as u64) as usize) {
        write(context.ctx, source, step, *outcome);
    }
}

/// Writes the message. It is a function of its own, because its stack would be in the detector's
/// way.
#[inline(never)]
fn write(context: *mut xdp_md, source: &Source, step: u32, outcome: Outcome) {
    let context = &XdpContext::new(context);
    let step = Step::from_index(step);
    match outcome {
        Outcome::Ignored => say!(context, source, step, "{:i} {}/{} ignored"),
        Outcome::Unexpected => say!(context, source, step, "{:i} {}/{} unexpected"),
        Outcome::Stray => say!(context, source, step, "{:i} {}/{} stray"),
        Outcome::Forgotten => say!(context, source, step, "{:i} {}/{} forgotten"),
        Outcome::Wrong => say!(context, source, step, "{:i} {}/{} wrong"),
        Outcome::Late => say!(context, source, step, "{:i} {}/{} late"),
        Outcome::Stayed => say!(context, source, step, "{:i} {}/{} stayed"),
        Outcome::First => say!(context, source, step, "{:i} {}/{} first"),
        Outcome::Advanced => say!(context, source, step, "{:i} {}/{} advanced"),
        Outcome::Completed => say!(context, source, step, "{:i} {}/{} completed"),
        Outcome::EventLost => say!(context, source, step, "{:i} {}/{} event_lost"),
        Outcome::InsertFailed => say!(context, source, step, "{:i} {}/{} insert_failed"),
        Outcome::Contended => say!(context, source, step, "{:i} {}/{} contended"),
    }
}
