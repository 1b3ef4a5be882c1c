//! The config: any text is either a policy that keeps its promises, or an error that can be shown.

use knock_policy::compile::{Served, compile};
use knock_policy::config::{ConfigError, Draft, parse};
use knock_policy::{Method, Policy};

/// Reads a config.
///
/// # Panics
///
/// If an accepted text is not a policy, or a refused one has no reason.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match parse("fuzz.toml", text) {
        Ok(policy) => check(&policy),
        Err(error) => {
            show(error);
            // The doors that could be read are compiled too, which adds to the mistakes.
            let draft = Draft::parse("fuzz.toml", text).compile(&Served::default(), [7; 32]);
            show(draft.expect_err("the mistakes that parsing found"));
        }
    }
}

fn check(policy: &Policy) {
    assert!(!policy.doors.is_empty(), "a door at least");
    for door in &policy.doors {
        assert!(!door.name.is_empty() && !door.opens.is_empty(), "{door:?}");
        assert!(door.method != Method::Sequence || door.sequence.len() >= 2, "{door:?}");
        assert!(door.sequence.iter().all(|step| step.port != 0), "{door:?}");
        assert!(!door.within.is_zero() && !door.open_for.is_zero(), "{door:?}");
    }
    // A door that a scan would open is refused here, with its name.
    match compile(policy, &Served::default(), [7; 32]) {
        Ok(compiled) => {
            let doors = policy.doors.iter().filter(|door| door.method == Method::Sequence);
            assert!(compiled.trie.edges.len() >= doors.count());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Shows the error as the agent does: with the wrong lines, marked.
fn show(error: ConfigError) {
    if let ConfigError::Mistakes { total, mistakes, .. } = &error {
        assert!(*total >= 1 && !mistakes.is_empty(), "{error}");
    }
    let shown = format!("{:?}", miette::Report::new(error));
    assert!(shown.contains("fuzz.toml"), "{shown}");
}
