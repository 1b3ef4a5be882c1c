//! Mistakes of different kinds in one config are shown together, each with its place.

use knock_policy::compile::Served;
use knock_policy::config::Draft;

const SCANNABLE: &str = r#"sequence = ["tcp/7000", "tcp/7001", "tcp/7002"]"#;
const SAFE: &str = r#"sequence = ["tcp/7100", "tcp/7050", "tcp/7075"]"#;
const SCAN: &str = "a port scan in ascending order would open it";

/// A door on `opens`, with more lines after its first two.
fn door(name: &str, opens: &str, rest: &[&str]) -> String {
    format!("[[door]]\nname = \"{name}\"\nopens = [\"{opens}\"]\n{}\n", rest.join("\n"))
}

/// Returns the output of `xknockd check` for `text`, without line breaks and drawing.
fn shown(text: &str) -> String {
    let draft = Draft::parse("test.toml", text);
    let error = draft.compile(&Served::default(), [7; 32]).expect_err("a mistake");
    let shown = format!("{:?}", miette::Report::new(error));
    let words = |c: char| c.is_whitespace() || "│·╭─╰╯▲┬×".contains(c);
    shown.split(words).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Asserts that `text` has as many mistakes as `expected`, and that each is shown.
#[track_caller]
fn assert_shown(what: &str, text: &str, expected: &[&[&str]]) {
    let shown = shown(text);
    let count = match expected.len() {
        1 => "has a mistake".to_owned(),
        n => format!("has {n} mistakes"),
    };
    assert!(shown.contains(&count), "{what}: not {count:?} in: {shown}");
    for part in expected.iter().copied().flatten() {
        assert!(shown.contains(part), "{what}: no {part:?} in: {shown}");
    }
}

#[test]
fn a_wrong_value_does_not_hide_a_scannable_sequence() {
    assert_shown(
        "in the same door",
        &door("ssh", "tcp/22", &[SCANNABLE, "open_for = \"0s\""]),
        &[&["test.toml:4:12", SCAN], &["test.toml:5:12", "no time at all"]],
    );
    assert_shown(
        "in another door",
        &(door("ssh", "tcp/22", &[SCANNABLE])
            + &door("web", "tcp/443", &[SAFE, "within = \"1h\""])),
        &[&["test.toml:4:12", SCAN], &["test.toml:9:10", "out of range"]],
    );
    assert_shown(
        "at the top",
        &format!("mode = \"on\"\n{}", door("ssh", "tcp/22", &[SCANNABLE])),
        &[&["test.toml:1:8", "`on`"], &["test.toml:5:12", SCAN]],
    );
}

#[test]
fn every_scannable_door_is_shown() {
    let other = r#"sequence = ["udp/9002", "udp/9001", "udp/9000"]"#;
    assert_shown(
        "two doors",
        &(door("ssh", "tcp/22", &[SCANNABLE]) + &door("web", "tcp/443", &[other])),
        &[
            &["test.toml:4:12", SCAN, "not in ascending order"],
            &["test.toml:8:12", "descending order would open it"],
        ],
    );
}

#[test]
fn unknown_fields_hide_nothing_and_are_all_shown() {
    assert_shown(
        "a field, a value and a sequence",
        &format!(
            "mod = \"observe\"\nstrays = 99\n{}",
            door("ssh", "tcp/22", &[SCANNABLE, "open_four = \"1m\"", "within = \"soon\""])
        ),
        &[
            &["test.toml:1:1", "unknown field `mod`", "did you mean `mode`?"],
            &["test.toml:2:10", "99 is out of range"],
            &["test.toml:6:12", SCAN],
            &["test.toml:7:1", "unknown field `open_four`", "did you mean `open_for`?"],
            &["test.toml:8:10", "`soon`"],
        ],
    );
}

#[test]
fn a_misspelt_field_is_not_reported_missing_too() {
    let misspelt = SAFE.replace("sequence", "sequense");
    let text = door("ssh", "tcp/22", &[&misspelt]).replace("name", "nam").replace("opens", "open");
    assert_shown(
        "three required fields",
        &text,
        &[&["did you mean `name`?"], &["did you mean `opens`?"], &["did you mean `sequence`?"]],
    );
}

#[test]
fn fields_in_the_wrong_table_are_sent_to_the_right_one() {
    assert_shown(
        "both ways",
        &format!("within = \"5s\"\n{}", door("ssh", "tcp/22", &[SAFE, "mode = \"enforce\""])),
        &[
            &["test.toml:1:1", "`within` belongs to a door"],
            &["test.toml:6:1", "`mode` belongs above the first [[door]]"],
        ],
    );
}

#[test]
fn clashes_are_shown_beside_what_else_is_wrong() {
    let late = door("web", "tcp/443", &[SAFE, "open_for = \"0s\""]);
    assert_shown(
        "one sequence for two doors",
        &(door("ssh", "tcp/22", &[SAFE]) + &late + &door("vpn", "udp/500", &[SCANNABLE])),
        &[
            &["test.toml:8:12", "has the same sequence as door `ssh`"],
            &["test.toml:9:12", "no time at all"],
            &["test.toml:13:12", SCAN],
        ],
    );
    assert_shown(
        "a sequence that begins with two others",
        &[
            door("a", "tcp/22", &[r#"sequence = ["tcp/7100", "tcp/7050"]"#]),
            door("b", "tcp/23", &[r#"sequence = ["tcp/7050", "tcp/7100"]"#]),
            door("c", "tcp/24", &[SAFE, "reorder = true"]),
        ]
        .concat(),
        &[&["test.toml:12:12", "sequence of door `a`"], &["sequence of door `b`"]],
    );
    assert_shown(
        "one name for three doors",
        &[
            door("ssh", "tcp/22", &[SAFE]),
            door("ssh", "tcp/23", &[r#"sequence = ["tcp/8100", "tcp/8050"]"#]),
            door("ssh", "tcp/24", &[r#"sequence = ["tcp/9100", "tcp/9050"]"#]),
        ]
        .concat(),
        &[&["test.toml:6:8", "two doors called `ssh`"], &["test.toml:10:8"]],
    );
}

#[test]
fn a_door_without_a_name_is_checked_like_any_other() {
    let nameless = door("", "tcp/22", &[SCANNABLE, "max_grants = 0"]).replace("name = \"\"\n", "");
    assert_shown(
        "no name",
        &(nameless + &door("web", "tcp/7001", &[r#"sequence = ["tcp/22", "tcp/9"]"#])),
        &[
            &["test.toml:1:1", "has no `name`"],
            &["test.toml:3:12", SCAN],
            &["test.toml:3:25", "tcp/7001 is a step, but door `web` opens it"],
            &["test.toml:4:14", "0 is out of range"],
            &["test.toml:8:13", "tcp/22 is a step, but door number 1 opens it"],
        ],
    );
}

#[test]
fn values_of_another_type_hide_nothing() {
    assert_shown(
        "several types",
        "decoys = \"many\"\nmode = 1\ninterfaces = [1, \"a/b\"]\n[door]\nname = \"ssh\"\n\
         opens = \"tcp/22\"\nsequence = [\"tcp/0\", 7]\ncut = \"yes\"\nwithin = 10\n",
        &[
            &["test.toml:1:10", "`decoys` takes a whole number, not text"],
            &["test.toml:2:8", "`mode` takes text, not a whole number", "write \"1\""],
            &["test.toml:3:15", "`interfaces` takes text"],
            &["test.toml:3:18", "`a/b`"],
            &["test.toml:4:1", "[[door]]"],
            &["test.toml:6:9", "`opens` takes a list", "[\"tcp/22\"]"],
            &["test.toml:7:13", "port 0"],
            &["test.toml:7:22", "`sequence` takes text"],
            &["test.toml:8:7", "`cut` takes `true` or `false`, not text"],
            &["test.toml:9:10", "write \"10\""],
        ],
    );
}

#[test]
fn an_unknown_method_does_not_make_its_fields_mistakes() {
    assert_shown(
        "a method and a value",
        &door("ssh", "tcp/22", &["method = \"roling\"", "ports = \"1024-9000\"", "steps = 99"]),
        &[&["test.toml:4:10", "`roling`"], &["test.toml:6:9", "99 is out of range"]],
    );
}

#[test]
fn a_limit_that_could_not_be_read_accuses_no_sequence() {
    // A scan opens this door with the most strays that a config allows, and does not with none.
    let sequence = r#"sequence = ["tcp/7000", "tcp/7003", "tcp/7004"]"#;
    let text = |strays: &str| format!("{strays}\n{}", door("ssh", "tcp/22", &[sequence]));
    assert_shown("fifteen", &text("strays = 15"), &[&[SCAN]]);
    assert_shown("sixteen", &text("strays = 16"), &[&["16 is out of range"]]);
}

#[test]
fn what_is_not_toml_is_shown_with_the_values_of_other_lines() {
    assert_shown(
        "two lines",
        &format!(
            "mode = observe\nattach =\nstrays = 99\n{}",
            door("ssh", "tcp/22", &[SCANNABLE, "open_for = \"0s\"", "open_four = \"1m\""])
        ),
        &[
            &["test.toml:1:8", "must be quoted"],
            &["test.toml:2:9"],
            &["test.toml:3:10", "99 is out of range"],
            &["test.toml:8:12", "no time at all"],
        ],
    );
}

#[test]
fn a_sequence_that_is_far_too_long_costs_no_more_than_its_text() {
    let steps: Vec<_> = (1024..9024).map(|port| format!("\"udp/{port}\"")).collect();
    let sequence = format!("sequence = [{}]", steps.join(", "));
    let text = door("ssh", "tcp/22", &[&sequence, "reorder = true"]);
    assert_shown("8,000 steps", &text, &[&["test.toml:4:12", "8000 steps are more"]]);
}

#[test]
fn a_config_without_mistakes_is_a_policy_and_what_it_compiles_to() {
    let text = door("ssh", "tcp/22", &[SAFE]);
    let served = Served::default();
    let (policy, compiled) =
        Draft::parse("test.toml", &text).compile(&served, [7; 32]).expect("no mistake");
    assert_eq!(policy.doors[0].name, "ssh");
    assert_eq!(compiled, knock_policy::compile::compile(&policy, &served, [7; 32]).unwrap());
}
