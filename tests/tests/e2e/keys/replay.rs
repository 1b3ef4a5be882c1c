//! Replays of captured knocks, which open nothing.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use knock_keys::{Address, Request};
use knock_lab::agent::{FAKETIME, xknockd};
use knock_lab::keys::{Capture, datagrams_to};
use knock_lab::packet::from_elsewhere;
use knock_lab::process::seconds;
use knock_lab::{Agent, wire};

use super::{PORT, ROLLING, SEALED, Site, request, ssh_by};
use crate::SSH;

/// Puts frames on the wire, as they are and as if they were the stranger's own.
fn replay(site: &Site, frames: &[Vec<u8>]) {
    wire::send(&site.lab.stranger, frames.to_vec());
    let IpAddr::V4(stranger) = site.lab.stranger.v4 else { panic!("an IPv4 address") };
    let own = frames.iter().map(|frame| from_elsewhere(frame, stranger));
    wire::send(&site.lab.stranger, own.collect());
}

/// Asserts that the agent has opened only for its own device, which has knocked this many times.
fn assert_opened_only_for_device(agent: &mut Agent, site: &Site, knocks: usize) {
    assert!(!site.is_open_for_stranger());
    assert!(!agent.has_opened_for(site.lab.stranger.v4), "{}", agent.log());
    let log = agent.log();
    assert_eq!(log.matches("\"message\":\"knocked with a key\"").count(), knocks, "{log}");
}

/// Starts the agent with a clock that is `offset` off, as in `-30s`.
fn start_with_clock(site: &Site, offset: &str) -> Agent {
    let clock = [("LD_PRELOAD", FAKETIME), ("FAKETIME", offset), ("DONT_FAKE_MONOTONIC", "1")];
    site.keys.start_with(&site.lab.server, &clock)
}

#[test]
fn a_captured_sealed_knock_opens_nothing() {
    let site = Site::new(ssh_by(SEALED).open_for(&seconds(1)));
    let device = site.device("laptop", &[]);
    let mut agent = site.start();
    let capture = Capture::start(&site.lab.server);
    device.knock(&site.lab.client, &["server"]);
    agent.await_opened(site.lab.client.v4, SSH);
    let frames = datagrams_to(&capture.stop(), PORT);
    assert_eq!(frames.len(), 1, "{}", agent.log());
    // At once.
    replay(&site, &frames);
    assert_opened_only_for_device(&mut agent, &site, 1);
    // Later.
    agent.await_in_log("\"message\":\"closed\"");
    replay(&site, &frames);
    assert_opened_only_for_device(&mut agent, &site, 1);
    let counters = agent.stop();
    assert_eq!((counters.get("sealed_passed"), counters.get("sealed_replayed")), (1, 4));
    // After a restart, with the clock as it was, set back and set forward.
    for offset in ["+0s", "-30s", "+30s"] {
        let mut agent = start_with_clock(&site, offset);
        replay(&site, &frames);
        assert_opened_only_for_device(&mut agent, &site, 0);
        agent.stop();
    }
    // After a boot of the host: nothing is pinned any more.
    assert!(xknockd(&site.lab.server).arg("off").status().expect("xknockd runs").success());
    let mut agent = site.start();
    replay(&site, &frames);
    assert_opened_only_for_device(&mut agent, &site, 0);
    // And the device goes on as before.
    device.knock(&site.lab.client, &["server"]);
    agent.await_opened(site.lab.client.v4, SSH);
}

#[test]
fn a_captured_sequence_opens_nothing() {
    let site = Site::new(ssh_by(ROLLING).open_for(&seconds(1)));
    let device = site.device("laptop", &[]);
    let mut agent = site.start();
    let capture = Capture::start(&site.lab.server);
    device.knock(&site.lab.client, &["server"]);
    agent.await_opened(site.lab.client.v4, SSH);
    let frames = capture.stop();
    let steps: Vec<_> = frames.iter().filter(|frame| frame[23] == 17).cloned().collect();
    assert_eq!(steps.len(), 5);
    replay(&site, &steps);
    assert_opened_only_for_device(&mut agent, &site, 1);
    agent.await_in_log("\"message\":\"closed\"");
    replay(&site, &steps);
    assert_opened_only_for_device(&mut agent, &site, 1);
    agent.stop();
    for offset in ["+0s", "-30s", "+30s"] {
        let mut agent = start_with_clock(&site, offset);
        replay(&site, &steps);
        assert_opened_only_for_device(&mut agent, &site, 0);
        agent.stop();
    }
}

/// An attacker holds a packet back, so that it is new, and sends it from their own address.
#[test]
fn a_knock_that_names_its_address_is_worth_nothing_elsewhere() {
    for addresses in ["own", "seen"] {
        let site = Site::new(ssh_by(SEALED).in_door("addresses", addresses));
        let line = site.add("laptop", &[]);
        let mut agent = site.start();
        let named = Address::Named(site.lab.client.v4);
        site.send(&site.lab.stranger, &line, &Request { address: named, ..request() });
        let denied = agent.await_message("denied");
        let reason = denied["reason"].as_str().unwrap_or_default();
        let named = format!("it is for {}", site.lab.client.v4);
        assert!(reason.contains(&named), "{denied}");
        assert_opened_only_for_device(&mut agent, &site, 0);
    }
}

#[test]
fn a_lost_file_of_newest_times_is_logged_and_refuses_knocks_for_a_window() {
    let site = Site::new(ssh_by(SEALED));
    let device = site.device("laptop", &[]);
    site.keys.set_config(ssh_by(SEALED).top("clock_window", "20s"));
    let agent = site.start();
    device.knock(&site.lab.client, &["server"]);
    agent.stop();
    let paths = knock_userspace::instance_paths::InstancePaths::of(site.lab.server.name());
    assert!(xknockd(&site.lab.server).arg("off").status().expect("xknockd runs").success());
    std::fs::remove_file(paths.newest()).expect("the file is there");
    let lost = Instant::now();
    let mut agent = site.start();
    assert!(agent.log().contains("refusing keyed knocks for 20s"), "{}", agent.log());
    let refused = device.xknock(&site.lab.client, &["server", "--timeout", "1s"]);
    assert!(!refused.status.success());
    device.knock(&site.lab.client, &["server", "--timeout", "60s"]);
    assert!(lost.elapsed() > Duration::from_secs(20));
    agent.await_opened(site.lab.client.v4, SSH);
}
