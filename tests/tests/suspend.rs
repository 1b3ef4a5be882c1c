//! A host that is suspended to memory and woken by its clock.
//!
//! Only a guest may be treated like that, so `cargo test` leaves this out, and
//! `cargo xtask test --kernel` runs it.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use knock_lab::agent::xknockd_output;
use knock_lab::clients::xknock_steps;
use knock_lab::services::{Echo, eventually, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};

/// Each door with its steps.
const SHORT: (&str, &str) = ("tcp/22", "tcp/7000,udp/8000,tcp/9000");
const LONG: (&str, &str) = ("tcp/443", "tcp/7100,udp/8100,tcp/9100");
/// Longer than the short grant.
const ASLEEP: Duration = Duration::from_secs(61);

/// A machine sleeps once at a time.
static AWAKE: Mutex<()> = Mutex::new(());

/// Suspends this machine and returns when it has woken up.
fn sleep_to_memory() {
    assert!(
        std::env::var_os("XKNOCK_TEST_KERNEL").is_some(),
        "this would suspend your host: run `cargo xtask test --kernel 6.1 suspend`"
    );
    let alarm = "/sys/class/rtc/rtc0/wakealarm";
    fs::write(alarm, "0").expect("no alarm is set");
    fs::write(alarm, format!("+{}", ASLEEP.as_secs())).expect("an alarm");
    fs::write("/sys/power/state", "mem").expect("the machine sleeps and wakes up");
}

#[test]
fn the_time_of_a_suspend_counts_for_grants() {
    let _alone = AWAKE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new();
    let _services = [22, 443].map(|port| Echo::start(&lab.server, port));
    let text = ConfigText::new().door("short", [SHORT.0]).sequence(SHORT.1).open_for("1m");
    let text = text.within("1m").door("long", [LONG.0]).sequence(LONG.1).open_for("10m");
    let mut agent = Agent::start(&lab.server, text.within("1m"));
    // It stands still while the host sleeps, as the time-outs of the kernel do.
    let awake = Instant::now();
    for (service, steps) in [SHORT, LONG] {
        xknock_steps(&lab.client, lab.server.v4, steps);
        agent.await_opened(lab.client.v4, service);
    }
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    sleep_to_memory();
    agent.await_closed(lab.client.v4, "tcp/22");
    assert!(!tcp_open(&lab.client, lab.server.v4, 22));
    assert!(tcp_open(&lab.client, lab.server.v4, 443));
    assert!(awake.elapsed() < ASLEEP, "the kernel would have ended it by now");
    let listed = lab.server.sh("nft --json list set inet xknock open4");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let sets = listed["nftables"].as_array().expect("a list");
    let elements = sets.iter().find_map(|one| one["set"]["elem"].as_array()).expect("elements");
    let expires: Vec<_> =
        elements.iter().filter_map(|element| element["elem"]["expires"].as_u64()).collect();
    let [left] = expires[..] else { panic!("{listed}") };
    assert!(left <= 600 - ASLEEP.as_secs(), "{left} s are left");
}

#[test]
fn the_time_of_a_suspend_counts_for_a_trial_without_its_agent_too() {
    /// Longer than the sleep.
    const TRIAL: Duration = Duration::from_secs(600);
    let _alone = AWAKE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, ConfigText::ssh().observing());
    let tried = xknockd_output(&lab.server, &["try", "10m"]);
    assert!(tried.status.success(), "{tried:?}");
    let left = || {
        let listed = lab.server.sh("nft --json list set inet xknock trial");
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let sets = listed["nftables"].as_array().expect("a list");
        let elements = sets.iter().find_map(|one| one["set"]["elem"].as_array()).expect("elements");
        let left = elements.iter().filter_map(|element| element["elem"]["expires"].as_u64());
        Duration::from_secs(left.max().expect("an element"))
    };
    assert!(left() > TRIAL - ASLEEP, "{:?} are left", left());
    sleep_to_memory();
    eventually("a shorter trial in the table", || left() <= TRIAL - ASLEEP);
    agent.kill();
    assert!(left() <= TRIAL - ASLEEP, "{:?} are left", left());
}
