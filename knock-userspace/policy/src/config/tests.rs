use std::path::PathBuf;
use std::time::{Duration, Instant};

use knock_common::sequence::{Protocol, Step};
use knock_keys::Addresses;

use super::raw::{self, Table};
use super::{ConfigError, parse};
use crate::policy::{Attach, Connections, Knocks, Method, Mode, Service};

const SSH: &str = r#"[[door]]
name = "ssh"
opens = ["tcp/22"]
sequence = ["tcp/7000", "udp/8000", "tcp/9000"]
"#;

/// Returns the errors for `text` as a user reads them, without line breaks and drawing.
fn shown(text: &str) -> String {
    let error = parse("test.toml", text).expect_err("a mistake");
    let shown = format!("{:?}", miette::Report::new(error));
    let words = |c: char| c.is_whitespace() || "│·╭─╰╯▲┬×".contains(c);
    shown.split(words).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_short_config_means_the_defaults() {
    let policy = parse("test.toml", SSH).unwrap();
    assert_eq!(policy.mode, Mode::Observe);
    assert_eq!(policy.connections, Connections::Auto);
    let door = &policy.doors[0];
    assert_eq!(door.opens, [Service::new(Protocol::Tcp, 22)]);
    assert_eq!(door.sequence[1], Step::new(Protocol::Udp, 8000));
    assert_eq!((door.within, door.open_for), (Duration::from_secs(10), Duration::from_secs(30)));
    assert!(!door.cut);
}

#[test]
fn the_example_has_every_key_and_loads() {
    let text = include_str!("../../../xknockd.toml");
    let policy = parse("xknockd.toml", text).unwrap();
    assert_eq!(policy.attach, Attach::Auto);
    assert_eq!(policy.knocks, Knocks::Pass);
    assert_eq!(policy.mode, Mode::Observe, "a copy of the example must do no harm");
    let keys = <raw::Config as Table>::KEYS.iter().chain(<raw::Door as Table>::KEYS);
    for key in keys.filter(|key| **key != "door") {
        let set = text.lines().any(|line| line.starts_with(&format!("{key} = ")));
        assert!(set, "{key} is not in the example");
    }
}

#[test]
fn every_mistake_is_shown_with_its_place_and_what_would_be_right() {
    let door = |from: &str, to: &str| SSH.replace(from, to);
    let rows: Vec<(&str, String, &[&str])> = vec![
        (
            "a misspelt key",
            format!("mod = \"observe\"\n{SSH}"),
            &["test.toml:1:1", "unknown field `mod`", "did you mean `mode`?"],
        ),
        (
            "a misspelt key of a door",
            format!("{SSH}open_four = \"1m\"\n"),
            &["test.toml:5:1", "did you mean `open_for`?"],
        ),
        ("no TOML at all", "[[door\n".into(), &["test.toml:1:"]),
        (
            "an unknown mode",
            format!("mode = \"on\"\n{SSH}"),
            &["test.toml:1:8", "`on`", "\"observe\" or \"enforce\""],
        ),
        ("port 0", door("tcp/7000", "tcp/0"), &["test.toml:4:13", "port 0", "1 to 65535"]),
        (
            "port 65536",
            door("tcp/7000", "tcp/65536"),
            &["test.toml:4:13", "`65536` is not a port", "1 to 65535"],
        ),
        ("a negative port", door("tcp/7000", "tcp/-1"), &["`-1` is not a port"]),
        ("a port with a sign", door("tcp/7000", "tcp/+1"), &["`+1` is not a port"]),
        ("an unknown protocol", door("tcp/7000", "sctp/7000"), &["`sctp` is neither tcp nor udp"]),
        ("no protocol", door("tcp/7000", "7000"), &["not of the form protocol/port", "\"tcp/22\""]),
        (
            "no time",
            format!("{SSH}open_for = \"0s\"\n"),
            &["test.toml:5:12", "no time at all", "1s to 30days"],
        ),
        (
            "text that is not a time",
            format!("{SSH}within = \"soon\"\n"),
            &["test.toml:5:10", "no length of time"],
        ),
        ("an endless knock", format!("{SSH}within = \"1h\"\n"), &["out of range", "50ms to 5m"]),
        (
            "no steps",
            door("\"tcp/7000\", \"udp/8000\", \"tcp/9000\"", ""),
            &["test.toml:4:12", "would open to everyone"],
        ),
        ("one step", door(", \"udp/8000\", \"tcp/9000\"", ""), &["any port scan would open"]),
        (
            "a step twice in a row",
            door("udp/8000", "tcp/7000"),
            &["test.toml:4:25", "retransmission"],
        ),
        (
            "a step that is guarded",
            door("tcp/9000", "tcp/22"),
            &["test.toml:4:37", "tcp/22 is a step, but door `ssh` opens it"],
        ),
        ("no service", door("\"tcp/22\"", ""), &["test.toml:3:9", "opens nothing"]),
        (
            "a service twice",
            door("\"tcp/22\"", "\"tcp/22\", \"tcp/22\""),
            &["tcp/22 is here twice"],
        ),
        (
            "two doors of one name",
            format!("{SSH}{}", door("7000", "7001")),
            &["test.toml:6:8", "two doors called `ssh`", "the first"],
        ),
        ("one sequence twice", format!("{SSH}{}", door("\"ssh\"", "\"web\"")), &["same sequence"]),
        (
            "a sequence that begins another",
            format!(
                "{SSH}{}",
                door("\"ssh\"", "\"web\"").replace("\"tcp/9000\"", "\"tcp/9000\", \"tcp/1\"")
            ),
            &["can never be completed", "`ssh`"],
        ),
        ("a name with blanks", door("\"ssh\"", "\"s s h\""), &["cannot be the name of a door"]),
        ("no door", "mode = \"observe\"\n".into(), &["there is no door", "[[door]]"]),
        (
            "an interface with a slash",
            format!("interfaces = [\"a/b\"]\n{SSH}"),
            &["test.toml:1:15", "name of an interface"],
        ),
        (
            "a pattern that nftables does not know",
            format!("interfaces = [\"e*0\"]\n{SSH}"),
            &["test.toml:1:15", "`eth*` stands for all"],
        ),
        (
            "a knock that waits too long",
            format!("late_grants = \"1day\"\n{SSH}"),
            &["test.toml:1:15", "1s to 1h"],
        ),
        ("host bits", format!("always_allow = [\"192.0.2.7/24\"]\n{SSH}"), &["192.0.2.0/24"]),
        ("too many strays", format!("strays = 16\n{SSH}"), &["test.toml:1:10", "0 to 15"]),
        (
            "a number that is text",
            format!("decoys = \"many\"\n{SSH}"),
            &["test.toml:1:10", "takes a whole number, not text"],
        ),
        (
            "no sequence",
            door("sequence", "#"),
            &["test.toml:2:8", "neither a `sequence` nor a `method`", "method = \"sealed\""],
        ),
    ];
    for (what, text, expected) in rows {
        let shown = shown(&text);
        for part in expected {
            assert!(shown.contains(part), "{what}: no {part:?} in: {shown}");
        }
    }
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let text =
        SSH.replace("tcp/7000", "tcp/0").replace("udp/8000", "udp/x").replace("tcp/22", "22");
    let ConfigError::Mistakes { total, .. } = parse("test.toml", &text).unwrap_err() else {
        panic!("mistakes");
    };
    assert_eq!(total, 3);
}

#[test]
fn ten_thousand_doors_and_ten_megabytes_of_rubbish_are_read_quickly() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for n in 0..10_000u32 {
        let (a, b, c) = (1024 + n % 30_000, 1024 + n / 7, 40_000 + n % 20_000);
        write!(text, "[[door]]\nname = \"d{n}\"\nopens = [\"tcp/22\"]\nsequence = [\"tcp/{a}\", \"udp/{b}\", \"tcp/{c}\"]\n").unwrap();
    }
    let started = Instant::now();
    assert_eq!(parse("test.toml", &text).unwrap().doors.len(), 10_000);
    let rubbish = "\u{1}]=[\"".repeat(2 << 20);
    assert!(shown(&rubbish).len() < 2000);
    // A quadratic check would take minutes.
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn an_order_that_reorder_allows_may_not_be_another_doors() {
    let second = SSH
        .replace("ssh", "web")
        .replace("tcp/22", "tcp/80")
        .replace("\"tcp/7000\", \"udp/8000\"", "\"udp/8000\", \"tcp/7000\"");
    parse("test.toml", &format!("{SSH}{second}")).expect("two different sequences");
    let said = shown(&format!("{SSH}reorder = true\n{second}"));
    assert!(said.contains("has the same sequence as"), "{said}");
    assert!(said.contains("in an order that `reorder` allows"), "{said}");
}

#[test]
fn limits_are_read_and_bounded() {
    let policy = parse("test.toml", &format!("max_grants = 3\n{SSH}max_grants = 9\n")).unwrap();
    assert_eq!((policy.max_grants, policy.doors[0].max_grants), (3, 9));
    for wrong in [format!("max_grants = 0\n{SSH}"), format!("{SSH}max_grants = -1\n")] {
        assert!(shown(&wrong).contains("give a number from 1 to 10000000"));
    }
}

/// A door for devices with a key.
fn keyed(method: &str) -> String {
    format!("[[door]]\nname = \"ssh\"\nopens = [\"tcp/22\"]\nmethod = {method}\n")
}

#[test]
fn doors_for_keys_have_defaults_and_no_sequence() {
    let text = keyed("\"sealed\"") + &keyed("\"rolling\"").replace("ssh", "web");
    let policy = parse("test.toml", &text).unwrap();
    let [sealed, rolling] = &policy.doors[..] else { panic!("two doors") };
    let expected = Method::Sealed { port: 62_201, addresses: Addresses::Seen };
    assert_eq!((&sealed.method, &sealed.sequence[..]), (&expected, &[][..]));
    let expected = Method::Rolling { ports: 20_000..=32_767, steps: 5, mixed: false };
    assert_eq!((&rolling.method, &rolling.sequence[..]), (&expected, &[][..]));
    assert_eq!(policy.clock_window, Duration::from_secs(60));
    assert_eq!(policy.keys, PathBuf::from("/etc/xknock/keys"));
    let text = keyed("\"sealed\"\nport = 4500\naddresses = \"own\"");
    let door = &parse("test.toml", &text).unwrap().doors[0];
    assert_eq!(door.method, Method::Sealed { port: 4500, addresses: Addresses::Own });
    let text = keyed("\"rolling\"\nports = \"1024-9000\"\nsteps = 8\nmixed = true");
    let door = &parse("test.toml", &text).unwrap().doors[0];
    assert_eq!(door.method, Method::Rolling { ports: 1024..=9000, steps: 8, mixed: true });
}

#[test]
fn mistakes_about_keys_are_shown_with_their_place() {
    let rows: Vec<(&str, String, &[&str])> = vec![
        (
            "an unknown method",
            keyed("\"static\""),
            &["test.toml:4:10", "\"sequence\" or \"rolling\" or \"sealed\""],
        ),
        (
            "a sequence without a use",
            format!("{SSH}method = \"sealed\"\n"),
            &["test.toml:4:12", "`sequence` has no meaning", "method = \"sequence\""],
        ),
        ("a port of steps", keyed("\"rolling\"\nport = 1"), &["test.toml:5:8", "`port`"]),
        ("steps in one packet", keyed("\"sealed\"\nsteps = 4"), &["test.toml:5:9", "`steps`"]),
        (
            "a time for one packet",
            keyed("\"sealed\"\nwithin = \"5s\""),
            &["test.toml:5:10", "`within`", "\"sequence\"` or `\"rolling\""],
        ),
        ("port 0", keyed("\"sealed\"\nport = 0"), &["test.toml:5:8", "1 to 65535"]),
        (
            "an unknown word for addresses",
            keyed("\"sealed\"\naddresses = \"all\""),
            &["test.toml:5:13", "\"seen\" or \"own\" or \"any\""],
        ),
        (
            "no range",
            keyed("\"rolling\"\nports = \"30000\""),
            &["test.toml:5:9", "not a range of ports"],
        ),
        (
            "too small a range",
            keyed("\"rolling\"\nports = \"30000-30009\""),
            &["test.toml:5:9", "too few", "1024"],
        ),
        ("two steps", keyed("\"rolling\"\nsteps = 2"), &["test.toml:5:9", "3 to 16"]),
        (
            "a sealed port that is served",
            keyed("\"sealed\"").replace("tcp/22", "udp/62201"),
            &["udp/62201 takes sealed knocks, but door `ssh` opens it"],
        ),
        (
            "a step that is a sealed port",
            keyed("\"sealed\"") + &SSH.replace("ssh", "web").replace("udp/8000", "udp/62201"),
            &["test.toml:8:25", "takes the sealed knocks of door `ssh`"],
        ),
        (
            "half a path",
            format!("keys = \"keys\"\n{SSH}"),
            &["test.toml:1:8", "\"/etc/xknock/keys\""],
        ),
        (
            "a window out of range",
            format!("clock_window = \"1d\"\n{SSH}"),
            &["test.toml:1:16", "1s to 1h"],
        ),
    ];
    for (what, text, expected) in rows {
        let shown = shown(&text);
        for part in expected {
            assert!(shown.contains(part), "{what}: no {part:?} in: {shown}");
        }
    }
}
