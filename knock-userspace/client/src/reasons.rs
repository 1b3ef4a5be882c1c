//! The possible reasons why a port did not answer, as far as the client can know them.

use std::fmt;
use std::time::Duration;

use knock_keys::{Addresses, KeyDoor, KeyLine, KeyMethod, SLOT, WINDOW};

use super::Target;

/// Possible reasons, the most certain first.
#[derive(Debug)]
pub struct Reasons(Vec<String>);

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// The circumstances of knocks after which the port did not answer.
pub(super) struct FailedAttempt<'a> {
    pub(super) line: &'a KeyLine,
    pub(super) door: &'a KeyDoor,
    pub(super) target: Target,
    pub(super) now_s: u64,
    /// Whether the host refused the connection.
    pub(super) refused: bool,
    /// How far the clock was behind the time of the last knock.
    pub(super) set_back: Option<Duration>,
    /// Whether the user wanted a shorter time than that of the door.
    pub(super) shorter: bool,
}

impl FailedAttempt<'_> {
    pub(super) fn reasons(&self) -> Reasons {
        let mut reasons = Vec::new();
        if self.refused {
            reasons.push("the host refused the connection: nothing listens there".to_owned());
        }
        let slow = self.line.made.saturating_sub(self.now_s);
        if slow > 0 {
            reasons.push(format!(
                "this machine's clock is at least {slow} s slow: the key was made later than now"
            ));
        }
        if let Some(until) = self.line.until
            && until <= self.now_s
        {
            reasons.push(format!("the key ended {} s ago", self.now_s - until));
        }
        // One of the reasons so far explains it all. Those that follow are guesses, which only add
        // to the common reasons.
        let certain = !reasons.is_empty();
        if let Some(back) = self.set_back {
            reasons.push(format!(
                "this machine's clock is {} s behind the time of the last knock, and if the host \
                 accepted that one, it accepts no older one",
                back.as_secs()
            ));
        }
        if self.shorter {
            reasons.push("the host may allow less than --for asks for".to_owned());
        }
        if let KeyMethod::Sealed { addresses: Addresses::Own, .. } = self.door.method {
            let what = "this door accepts no knocks through NAT (`addresses = \"own\"`)";
            reasons.push(what.to_owned());
        }
        if let Some(flag) = self.target.other_family() {
            reasons
                .push(format!("{} is not the only address of this host: try {flag}", self.target));
        }
        if !certain {
            reasons.push(self.common());
        }
        Reasons(reasons)
    }

    fn common(&self) -> String {
        let (port, off) = match self.door.method {
            KeyMethod::Sealed { port, .. } => (format!("UDP port {port}"), WINDOW),
            KeyMethod::Rolling(_) => ("UDP".to_owned(), SLOT),
        };
        format!(
            "the key was removed or rotated on the host, this machine's clock is off by more than \
             {} s (compare it with `date -u`), {port} is filtered on the way, or nothing listens \
             there",
            off.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knock_keys::{Key, Kind};

    const NOW: u64 = 1_800_000_000;

    fn said(door: &str, change: impl Fn(&mut FailedAttempt<'_>)) -> String {
        let door: KeyDoor = door.parse().unwrap();
        let drawn = Key::draw("k".into(), "h".into(), Kind::Shared, vec![door], NOW, None, None);
        let (_, line) = drawn.unwrap();
        let target = Target::resolve("127.0.0.1", super::super::Family::Any).unwrap();
        let mut attempt = FailedAttempt {
            line: &line,
            door: &line.doors[0],
            target,
            now_s: NOW,
            refused: false,
            set_back: None,
            shorter: false,
        };
        change(&mut attempt);
        attempt.reasons().to_string()
    }

    const SEALED: &str = "ssh:sealed:62201:seen:30:tcp/22";

    #[test]
    fn the_clock_may_be_off_by_what_the_method_allows() {
        assert!(said(SEALED, |_| ()).contains("off by more than 60 s"));
        let rolling = said("ssh:rolling:20000-32767::5:udp:30:tcp/22", |_| ());
        assert!(rolling.contains("off by more than 30 s"), "{rolling}");
    }

    #[test]
    fn the_other_family_is_proposed_where_there_is_one() {
        let both = |attempt: &mut FailedAttempt<'_>| {
            attempt.target = attempt.target.beside_another_family();
        };
        assert!(said(SEALED, both).contains("127.0.0.1 is not the only address"));
        assert!(said(SEALED, both).contains("try -6"));
        assert!(!said(SEALED, |_| ()).contains("try -"));
    }

    #[test]
    fn a_guess_hides_no_other_reason() {
        let back = said(SEALED, |attempt| attempt.set_back = Some(Duration::from_secs(90)));
        assert!(back.contains("90 s behind") && back.contains("rotated"), "{back}");
        let shorter = said(SEALED, |attempt| attempt.shorter = true);
        assert!(shorter.contains("may allow less") && shorter.contains("rotated"), "{shorter}");
        let own = said("ssh:sealed:62201:own:30:tcp/22", |_| ());
        assert!(own.contains("through NAT") && own.contains("rotated"), "{own}");
        let ended = said(SEALED, |attempt| attempt.now_s = NOW - 9);
        assert_eq!(
            ended,
            "this machine's clock is at least 9 s slow: the key was made later than now"
        );
    }
}
