//! Steps as they are written on a command line.

use knock_common::sequence::{Protocol, Step};

/// The error for text that is not a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a step: write tcp/7000, udp/8000, 7000:tcp or 7000 (TCP); ports go from 1 to \
     65535"
)]
pub struct StepError(String);

/// Reads one or more steps, separated by commas: `tcp/7000`, or in the form of the classic client,
/// `7000:tcp` and `7000`.
///
/// # Errors
///
/// For the first part that is not a step.
pub fn parse_steps(text: &str) -> Result<Vec<Step>, StepError> {
    text.split(',')
        .map(|part| step(part.trim()).ok_or_else(|| StepError(part.to_owned())))
        .collect()
}

fn step(text: &str) -> Option<Step> {
    let (protocol, port) = match (text.split_once('/'), text.split_once(':')) {
        (Some((protocol, port)), None) | (None, Some((port, protocol))) => (protocol, port),
        (None, None) => (Protocol::Tcp.name(), text),
        _ => return None,
    };
    let protocol = Protocol::ALL.into_iter().find(|known| known.name() == protocol)?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| port.parse().ok()).flatten().filter(|&port| port != 0)?;
    Some(Step::new(protocol, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ways_of_writing_mean_the_same() {
        let steps = [Step::new(Protocol::Udp, 7000), Step::new(Protocol::Tcp, 8000)];
        assert_eq!(parse_steps("udp/7000,tcp/8000").unwrap(), steps);
        assert_eq!(parse_steps("7000:udp, 8000").unwrap(), steps);
    }

    #[test]
    fn what_is_no_step_is_refused() {
        for text in [
            "",
            "tcp/",
            "tcp/0",
            "tcp/65536",
            "tcp/-1",
            "tcp/+1",
            "sctp/1",
            "1:2:3",
            "tcp/1:tcp",
            "1,,2",
        ] {
            let error = parse_steps(text).unwrap_err();
            assert!(error.to_string().contains("is not a step"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_step_reads_back(port in 1u16.., udp: bool) {
            let step = Step::new(if udp { Protocol::Udp } else { Protocol::Tcp }, port);
            prop_assert_eq!(parse_steps(&step.to_string()), Ok(vec![step]));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = parse_steps(&text);
        }
    }
}
