//! The running kernel: its features, its verdict on the program, and the agent's words where it
//! will not do. The runner of other kernels says which of the two it boots.

use std::time::Duration;

use knock_common::sequence::{Protocol, Step};
use knock_detector::{Component, Detector, Presence, Settings, VerifierStats};
use knock_lab::agent::{Config, xknockd, xknockd_output};
use knock_lab::{Agent, ConfigText, Lab};
use knock_policy::compile::{Served, compile};
use knock_policy::{Door, Knocks, Policy, Service};
use knock_userspace::instance_paths::InstancePaths;
use knock_userspace::kernel_features::features;

/// Returns whether this kernel is one that the agent must refuse.
fn is_too_old() -> bool {
    std::env::var("XKNOCK_TEST_KERNEL").is_ok_and(|expected| expected == "refusal")
}

#[test]
fn the_agent_starts_or_says_what_the_kernel_lacks_and_leaves_nothing() {
    let lab = Lab::new();
    if !is_too_old() {
        Agent::start(&lab.server, ConfigText::ssh()).stop();
        return;
    }
    let config = Config::new(ConfigText::ssh());
    let output = xknockd(&lab.server).arg("run").arg("--config").arg(config.path()).output();
    let output = output.expect("xknockd runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("this kernel lacks "), "{said}");
    assert!(said.contains("compare-and-swap in BPF (since Linux "), "{said}");
    assert!(said.contains("the detector needs Linux "), "{said}");
    assert_eq!(lab.server.sh("nft list tables"), "");
    assert!(!lab.server.ip("-d link show").contains("xdp"));
    let InstancePaths { run, pins, state } = InstancePaths::of(lab.server.name());
    for path in [run, pins, state] {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn every_probe_has_an_answer_and_required_features_are_present() {
    for feature in features() {
        let presence = feature.presence();
        assert!(!matches!(presence, Presence::Unknown(_)), "{}: {presence:?}", feature.name);
        let needed = feature.component == Component::Detector && feature.instead.is_none();
        if needed && !is_too_old() {
            assert_eq!(presence, Presence::Present, "{}", feature.name);
        }
    }
    let absent = |name: &str| {
        let feature = features().find(|feature| feature.name == name).expect("a feature");
        feature.presence() == Presence::Absent
    };
    assert_eq!(absent("compare-and-swap in BPF"), is_too_old());
}

#[test]
fn probing_leaves_nothing_behind() {
    let lab = Lab::new();
    // A link that is not pinned goes with the process that made it. An interface would show one.
    let look = || ["nft list ruleset", "ip -d link show"].map(|line| lab.server.sh(line));
    let before = look();
    let output = xknockd_output(&lab.server, &["check", "--kernel"]);
    assert_eq!(output.status.success(), !is_too_old());
    assert_eq!(look(), before);
    assert!(!InstancePaths::of(lab.server.name()).pins.exists());
}

#[test]
fn check_shows_the_table_and_what_the_verifier_read() {
    let lab = Lab::new();
    let output = xknockd_output(&lab.server, &["check", "--kernel"]);
    let (shown, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for feature in features() {
        assert!(shown.contains(feature.name) && shown.contains(feature.commit), "{shown}");
    }
    assert!(!shown.contains("unknown"), "{shown}");
    if is_too_old() {
        assert!(said.contains("this kernel lacks "), "{said}");
    } else {
        assert!(shown.contains("verifier: "), "{shown}{said}");
    }
}

#[test]
fn the_verifier_reads_at_most_a_third_of_its_limit() {
    if is_too_old() {
        assert!(load(false).is_err(), "a kernel that is too old takes the program");
        return;
    }
    // With `trace`, the verifier also reads the code of the messages.
    for trace in [false, true] {
        let figures = load(trace).expect("the kernel takes the program").verifier_stats().unwrap();
        let verified = figures.verified.expect("kernels since 5.16 tell");
        println!("{verified} instructions with trace {trace}");
        assert!(verified <= VerifierStats::BUDGET, "{verified} instructions with trace {trace}");
        assert!(figures.translated > 0 && figures.machine_code > 0, "{figures:?}");
    }
}

/// Loads a detector, or returns the kernel's error.
fn load(trace: bool) -> Result<Detector, String> {
    let sequence = [7000, 8000, 9000].map(|port| Step::new(Protocol::Tcp, port));
    let door = Door {
        within: Duration::from_secs(10),
        ..Door::new("ssh", vec![Service::new(Protocol::Tcp, 22)], sequence.to_vec())
    };
    let policy = Policy { doors: vec![door], ..Policy::default() };
    let compiled = compile(&policy, &Served::default(), [7; 32]).expect("the door compiles");
    let settings = Settings {
        strays: policy.strays,
        max_sources: 1024,
        knocks: Knocks::Pass,
        trace,
        hash_key: [1, 2],
    };
    Detector::load(&compiled, settings).map_err(|error| error.to_string())
}
