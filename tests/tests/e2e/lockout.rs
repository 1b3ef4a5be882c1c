//! Protection of the owner of a host from being locked out by accident.

use knock_lab::agent::xknockd;
use knock_lab::clients::xknock_steps;
use knock_lab::process::seconds;
use knock_lab::services::{Echo, eventually, tcp_open};
use knock_lab::{Agent, Config, ConfigText, Lab};

use crate::{SSH, STEPS, assert_no_trace, refused, verb};

/// Returns `SSH_CONNECTION` as sshd sets it for a session of the client on the server.
fn session(lab: &Lab) -> String {
    format!("{} 50000 {} 22", lab.client.v4, lab.server.v4)
}

fn observing() -> ConfigText {
    ConfigText::ssh().open_for("10m").observing()
}

#[test]
fn a_trial_ends_by_itself_even_if_the_agent_is_killed() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = Agent::start(&lab.server, observing());
    assert!(verb(&lab.server, &["try", &seconds(3)]).contains("xknockd confirm"));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    agent.kill();
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    eventually("the end of the trial", || tcp_open(&lab.stranger, lab.server.v4, 22));
}

#[test]
fn a_trial_goes_on_with_the_next_agent_and_can_be_confirmed_there() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = Agent::start(&lab.server, observing());
    verb(&lab.server, &["try", "10m"]);
    let agent = Agent::start_again(&lab.server, agent.kill());
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    let status = verb(&lab.server, &["status"]);
    assert!(status.contains("enforce, on trial for "), "{status}");
    assert!(verb(&lab.server, &["confirm"]).contains("mode = \"enforce\""));
    // The next agent enforces what was confirmed, although its config still says observe.
    let agent = Agent::start_again(&lab.server, agent.terminate());
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    assert!(verb(&lab.server, &["status"]).contains("confirmed"));
    agent.stop();
}

#[test]
fn the_end_of_an_unconfirmed_trial_is_logged_and_another_may_begin() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, observing());
    assert!(refused(&lab.server, &["confirm"]).contains("nothing is being tried"));
    for _ in 0..2 {
        verb(&lab.server, &["try", "1s"]);
        agent.await_message("observing again");
        assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    }
    agent.rewrite_config(ConfigText::ssh());
    verb(&lab.server, &["reload"]);
    assert!(refused(&lab.server, &["try", "1m"]).contains("enforcing already"));
}

#[test]
fn a_start_that_would_lock_out_its_caller_says_what_to_do_instead() {
    let lab = Lab::new();
    let file = Config::new(ConfigText::ssh());
    let run = |extra: &str| {
        let path = knock_lab::agent::program("xknockd");
        // As with sudo, only an ancestor knows of the session.
        let line = format!(
            "env -u SSH_CONNECTION {} run --config {} {extra}; true",
            path.display(),
            file.path().display()
        );
        let mut command = lab.server.command("sh");
        command.args(["-c", &line]).env("SSH_CONNECTION", session(&lab));
        command.env("XKNOCKD_INSTANCE", lab.server.name());
        command
    };
    let said = run("").output().expect("sh runs");
    let said = String::from_utf8_lossy(&said.stderr);
    let client = lab.client.v4.to_string();
    for part in ["lock you out", &client, "always_allow", "xknockd open ssh", "xknockd try 2m"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert_no_trace(&lab.server);

    let mut forced = knock_lab::process::Process::start(&mut run("--force"));
    forced.await_line("ready", |line| line.contains("\"ready\"").then_some(()));
    verb(&lab.server, &["off"]);
    forced.wait();
}

#[test]
fn a_reload_that_would_lock_out_its_caller_is_refused_until_they_have_a_grant() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, observing());
    agent.rewrite_config(ConfigText::ssh().open_for("10m"));
    let reload = |arguments: &[&str]| {
        let mut command = xknockd(&lab.server);
        command.args(arguments).env("SSH_CONNECTION", session(&lab));
        command.output().expect("xknockd runs")
    };
    let refusal = reload(&["reload"]);
    assert!(!refusal.status.success());
    assert!(String::from_utf8_lossy(&refusal.stderr).contains("lock you out"));
    assert!(verb(&lab.server, &["status"]).contains("observe"));
    verb(&lab.server, &["open", "ssh", &lab.client.v4.to_string(), "--for", "1h"]);
    assert!(reload(&["reload"]).status.success());
    assert!(verb(&lab.server, &["status"]).contains("enforce"));
}

#[test]
fn a_reload_after_a_confirmed_trial_does_not_lock_out_its_caller() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, observing());
    verb(&lab.server, &["try", "2m"]);
    let as_client = |arguments: &[&str]| {
        let mut command = xknockd(&lab.server);
        command.args(arguments).env("SSH_CONNECTION", session(&lab));
        command.output().expect("xknockd runs")
    };
    assert!(!as_client(&["confirm"]).status.success());
    agent.rewrite_config(observing().top("always_allow", vec![lab.client.v4.to_string()]));
    verb(&lab.server, &["reload"]);
    assert!(as_client(&["confirm"]).status.success());
    agent.rewrite_config(observing());
    let refusal = as_client(&["reload"]);
    assert!(!refusal.status.success(), "it says observe, and would enforce");
    assert!(String::from_utf8_lossy(&refusal.stderr).contains("lock you out"));
    agent.stop();
}

#[test]
fn a_refused_reload_leaves_a_confirmed_trial_confirmed_for_the_next_agent() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = Agent::start(&lab.server, observing());
    verb(&lab.server, &["try", "10m"]);
    verb(&lab.server, &["confirm"]);
    // It would enforce by itself, but no kernel has memory for that many sources.
    agent.rewrite_config(ConfigText::ssh().top("max_sources", 1 << 29));
    assert!(refused(&lab.server, &["reload"]).contains("would fit"));
    agent.rewrite_config(observing());
    let agent = Agent::start_again(&lab.server, agent.kill());
    assert!(verb(&lab.server, &["status"]).contains("enforce, confirmed"));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    agent.stop();
}

#[test]
fn doors_are_opened_and_grants_ended_by_hand_with_and_without_an_agent() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    let client = lab.client.v4.to_string();
    let open = |extra: &[&str]| {
        verb(&lab.server, &[&["open", "ssh", &client, "--for", "10m"], extra].concat())
    };
    let opened = open(&[]);
    // It shows the time that is left, of which a slow machine has used a second or two.
    assert!(opened.contains("10m") || opened.contains("9m 5"), "{opened}");
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    assert!(refused(&lab.server, &["open", "shh", &client]).contains("there are: ssh"));
    assert!(refused(&lab.server, &["open", "ssh", "0.0.0.0"]).contains("no packet comes from"));
    assert!(
        refused(&lab.server, &["open", "ssh", "::1", "--for", "99days"]).contains("1s to 30days")
    );
    assert!(verb(&lab.server, &["revoke", &client]).contains("tcp/22"));
    assert!(!tcp_open(&lab.client, lab.server.v4, 22));
    assert!(verb(&lab.server, &["revoke", &client]).contains("no such grant"));

    let file = agent.kill();
    let path = file.path().display().to_string();
    open(&["--config", &path]);
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    // The next agent knows of it: it is on record like any other.
    let agent = Agent::start_again(&lab.server, file);
    let grants = verb(&lab.server, &["grants"]);
    assert!(grants.contains(&client) && grants.contains("ssh"), "{grants}");
    let file = agent.kill();
    assert!(verb(&lab.server, &["revoke", "--door", "ssh"]).contains(&client));
    assert!(!tcp_open(&lab.client, lab.server.v4, 22));
    let agent = Agent::start_again(&lab.server, file);
    assert!(!verb(&lab.server, &["grants"]).contains(&client), "ended for good");
    agent.stop();
}

#[test]
fn off_removes_every_trace_with_and_without_an_agent() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    for killed in [false, true] {
        let mut agent = Agent::start(&lab.server, ConfigText::ssh());
        xknock_steps(&lab.client, lab.server.v4, STEPS);
        agent.await_opened(lab.client.v4, SSH);
        if killed {
            agent.kill();
            verb(&lab.server, &["off"]);
        } else {
            verb(&lab.server, &["off"]);
            agent.process_ends();
        }
        assert_no_trace(&lab.server);
        assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    }
    verb(&lab.server, &["off"]);
    assert_no_trace(&lab.server);
}
