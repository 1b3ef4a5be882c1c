//! The control socket, used by other programs.

use std::os::unix::fs::PermissionsExt as _;

use knock_lab::{Agent, ConfigText, Host, Lab};
use knock_userspace::instance_paths::InstancePaths;
use serde_json::{Value, json};

use crate::refused;

/// Sends a request with curl, and returns the HTTP status and the JSON.
fn curl(host: &Host, arguments: &[&str]) -> (u32, Value) {
    let socket = InstancePaths::of(host.name()).socket();
    let mut command = host.command("curl");
    command.arg("--silent").arg("--unix-socket").arg(socket).args(["-w", "\n%{http_code}"]);
    let output = command.args(arguments).output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, status) = text.rsplit_once('\n').expect("a status");
    let value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    (status.parse().expect("a number"), value)
}

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

#[test]
fn curl_can_use_the_control_socket() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    let (status, answer) = curl(&lab.server, &["http://x/v1/status"]);
    assert_eq!(
        (status, &answer["mode"], &answer["pinned"]),
        (200, &json!("enforce"), &json!(true))
    );
    assert_eq!(answer["process"], agent.process().id());
    let client = lab.client.v4.to_string();
    let request = json!({ "door": "ssh", "address": client, "for": "1m" }).to_string();
    let body = ["-d", &request, "http://x/v1/open"];
    let (status, opened) = curl(&lab.server, &[&JSON[..], &body].concat());
    assert_eq!((status, &opened[0]["service"]), (200, &json!("tcp/22")));
    let (_, grants) = curl(&lab.server, &["http://x/v1/grants"]);
    assert_eq!((&grants[0]["source"], &grants[0]["door"]), (&json!(client), &json!("ssh")));
    let (_, doors) = curl(&lab.server, &["http://x/v1/doors"]);
    assert_eq!((&doors[0]["name"], &doors[0]["grants"]), (&json!("ssh"), &json!(1)));
}

#[test]
fn malformed_requests_are_refused_with_a_reason() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    let long = format!(r#"{{"door":"{}"}}"#, "x".repeat(100_000));
    let rows: [(&[&str], u32, &str); 8] = [
        (&["http://x/v1/stauts"], 404, "docs/operations.md"),
        (&["-X", "POST", "http://x/v1/status"], 405, "use GET"),
        (&["-d", "{", "http://x/v1/open"], 400, "EOF"),
        (&["-d", "{}", "http://x/v1/open"], 422, "missing field `door`"),
        (&["-d", r#"{"door":"ssh","address":"here"}"#, "http://x/v1/open"], 422, "IP address"),
        (&["-d", r#"{"addres":"::1"}"#, "http://x/v1/revoke"], 422, "unknown field `addres`"),
        (&["-d", r#"{"for":"soon"}"#, "http://x/v1/try"], 422, "no length of time"),
        (&["-d", &long, "http://x/v1/open"], 413, ""),
    ];
    for (arguments, expected, part) in rows {
        let (status, answer) = curl(&lab.server, &[&JSON[..], arguments].concat());
        let said = answer["error"].as_str().unwrap_or_default();
        assert!(status == expected && said.contains(part), "{arguments:?}: {status} {said}");
    }
    agent.stop();
}

#[test]
fn only_the_agents_user_can_reach_the_socket() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    let paths = InstancePaths::of(lab.server.name());
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!((mode(&paths.run), mode(&paths.socket())), (0o700, 0o600));
    assert_eq!((mode(&paths.lock()), mode(&paths.pins)), (0o600, 0o700));
    agent.stop();
}

#[test]
fn verbs_that_need_an_agent_say_that_there_is_none() {
    let lab = Lab::new();
    for arguments in [&["status"][..], &["doors"], &["reload"], &["try", "1m"], &["confirm"]] {
        assert!(refused(&lab.server, arguments).contains("no agent is running"), "{arguments:?}");
    }
    assert!(refused(&lab.server, &["grants"]).contains("there is no table inet xknock"));
    assert!(
        refused(&lab.server, &["revoke", &lab.client.v4.to_string()]).contains("there is no table")
    );
}
