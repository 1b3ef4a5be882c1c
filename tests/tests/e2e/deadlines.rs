//! Grants and trials that end at their time, however slow the agent is meanwhile.

use std::process::Command;
use std::time::{Duration, Instant};

use knock_common::LAYOUT;
use knock_firewall::{Firewall, Status, since_boot};
use knock_lab::agent::program;
use knock_lab::process::{seconds, slowness};
use knock_lab::services::{Echo, eventually, tcp_open};
use knock_lab::{Agent, Config, ConfigText, Host, Lab};
use knock_userspace::instance_paths::InstancePaths;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{granted, refused, verb};

/// What a slow machine may add to a promise, and much less than a start takes under [`slow`].
fn margin() -> Duration {
    Duration::from_secs(1) * slowness()
}

fn observing() -> ConfigText {
    ConfigText::ssh().open_for("10m").observing()
}

/// An agent for which every call of bpf(2) takes as long as on a machine that is very busy. It is
/// the child of the test, and strace(1) ends with it.
fn slow(host: &Host, config: Config) -> Agent {
    let mut command: Command = host.command("strace");
    let delay = format!("--inject=bpf:delay_enter={}ms", 40 * slowness());
    command.args(["--daemonize", "--follow-forks", "--trace", "bpf", "--output", "/dev/null"]);
    command.arg(delay);
    command.arg(program("xknockd")).arg("run").arg("--config").arg(config.path());
    command.env_remove("SSH_CONNECTION").env("XKNOCKD_INSTANCE", host.name());
    let begun = Instant::now();
    let agent = Agent::spawn(command, config);
    assert!(begun.elapsed() > 3 * margin(), "slow enough to tell: {:?}", begun.elapsed());
    agent
}

/// Returns the table as the kernel holds it.
fn table(host: &Host) -> Status {
    host.run(|| Firewall::open().expect("nftables").status().expect("an answer").expect("a table"))
}

/// The moments between which something ends that was promised for a time.
struct Promise {
    earliest: Instant,
    latest: Instant,
}

impl Promise {
    fn of(lasts: Duration, promise: impl FnOnce()) -> Self {
        let earliest = Instant::now() + lasts;
        promise();
        Self { earliest, latest: Instant::now() + lasts }
    }

    /// Asserts that what is `left`, as was said between `asked` and now, is what was promised.
    fn assert_kept(&self, whose: &str, asked: Instant, left: Duration) {
        let least = self.earliest.saturating_duration_since(Instant::now() + margin());
        let most = self.latest.saturating_duration_since(asked) + margin();
        assert!((least..=most).contains(&left), "{whose}: {left:?}, not {least:?} to {most:?}");
    }

    /// The same for a trial, of which agent and kernel must say the same.
    fn assert_trial(&self, host: &Host) {
        let asked = Instant::now();
        let left = table(host).trial_until.expect("a trial in the table");
        self.assert_kept("the table", asked, left - since_boot());
        let asked = Instant::now();
        let status: Value = serde_json::from_str(&verb(host, &["status", "--json"])).expect("JSON");
        let left = status["trial_seconds"].as_f64().expect("a trial");
        self.assert_kept("the agent", asked, Duration::from_secs_f64(left));
    }
}

#[test]
fn a_trial_is_no_longer_for_a_slow_start_of_the_next_agent() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, observing());
    let promise = Promise::of(Duration::from_secs(600), || {
        verb(&lab.server, &["try", "10m"]);
    });
    let next = slow(&lab.server, agent.kill());
    promise.assert_trial(&lab.server);
    next.stop();
}

#[test]
fn a_trial_is_no_longer_for_a_slow_reload() {
    let lab = Lab::new();
    let agent = slow(&lab.server, Config::new(observing()));
    let promise = Promise::of(Duration::from_secs(600), || {
        verb(&lab.server, &["try", "10m"]);
    });
    // Other sizes take another program and other maps.
    agent.rewrite_config(observing().top("max_sources", 2048));
    let begun = Instant::now();
    verb(&lab.server, &["reload"]);
    assert!(begun.elapsed() > 2 * margin(), "slow enough to tell: {:?}", begun.elapsed());
    promise.assert_trial(&lab.server);
    agent.stop();
}

#[test]
fn a_grant_that_only_the_table_knows_is_no_longer_for_a_slow_start() {
    let lab = Lab::new();
    let mut agent = None;
    let promise = Promise::of(Duration::from_secs(600), || agent = Some(granted(&lab)));
    let config = agent.expect("an agent").terminate();
    let pins = InstancePaths::of(lab.server.name()).pins;
    let (own, other) = (pins.join(format!("v{LAYOUT}")), pins.join("v0"));
    std::fs::rename(own, other).expect("a layout that this program does not know");
    let next = slow(&lab.server, config);
    let asked = Instant::now();
    let held = table(&lab.server).grants;
    let left = held.first().expect("a grant").until - since_boot();
    promise.assert_kept("the table", asked, left);
    let asked = Instant::now();
    let grants: Value =
        serde_json::from_str(&verb(&lab.server, &["grants", "--json"])).expect("JSON");
    let left = grants[0]["seconds"].as_f64().expect("a grant");
    promise.assert_kept("the agent", asked, Duration::from_secs_f64(left));
    next.stop();
}

#[test]
fn a_trial_ends_while_the_agent_stands_still_and_cannot_be_confirmed_afterwards() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, observing());
    verb(&lab.server, &["try", &seconds(2)]);
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    agent.process().signal(Signal::SIGSTOP);
    eventually("the end of the trial", || tcp_open(&lab.stranger, lab.server.v4, 22));
    agent.process().signal(Signal::SIGCONT);
    assert!(refused(&lab.server, &["confirm"]).contains("nothing is being tried"));
    assert!(verb(&lab.server, &["status"]).contains("observe"));
    agent.await_in_log("observing again");
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
}
