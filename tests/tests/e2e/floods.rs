//! Floods at line rate, which cost little, stay bounded and open nothing.

use knock_common::sequence::{Protocol, Step};
use knock_common::traffic::{IPV4, Pattern, TRANSPORT, ipv4_header, transport_header};
use knock_detector::run_program;
use knock_lab::clients::xknock_steps;
use knock_lab::lab::{SERVER_PORT, template};
use knock_lab::netns::Netns;
use knock_lab::services::{Echo, eventually, tcp_open};
use knock_lab::table::await_table;
use knock_lab::{Agent, Config, ConfigText, Host, Lab};
use nix::sys::signal::Signal;

use crate::{SSH, STEPS};

const A: Step = Step::new(Protocol::Tcp, 7000);
const B: Step = Step::new(Protocol::Udp, 8000);
const C: Step = Step::new(Protocol::Tcp, 9000);
/// 16.0.0.0/4.
const STRANGERS: u32 = 0x1000_0000;
const ALL: u32 = 0x0fff_ffff;

/// Packets of an interface, by the driver's counts.
struct Wire {
    /// Received by the server.
    received: u64,
    /// Lost at the switch's port, because the server's queue was full.
    dropped: u64,
}

fn wire(lab: &Lab) -> Wire {
    let statistics = |netns: &Netns, interface: &str| -> serde_json::Value {
        let text = netns.ip(&format!("-statistics -json link show dev {interface}"));
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")[0]["stats64"].clone()
    };
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    Wire {
        received: number(&statistics(&lab.server, "eth0")["rx"]["packets"]),
        dropped: number(&statistics(lab.switch(), SERVER_PORT)["tx"]["dropped"]),
    }
}

/// Runs the attached detector on frames from `clients` sources, each with all `steps`, as if
/// they had come over the wire, where a full queue could lose some.
fn deliver(lab: &Lab, clients: u32, steps: &[Step]) {
    let link = lab.server.ip("-json link show dev eth0");
    let link: serde_json::Value = serde_json::from_str(&link).expect("JSON");
    let program = link[0]["xdp"]["prog"]["id"].as_u64().expect("the detector is attached");
    let program = u32::try_from(program).expect("an identifier");
    let mut frame = template([2; 6]);
    let before: [u8; 20] = frame[IPV4..TRANSPORT].try_into().expect("an IPv4 header");
    for source in STRANGERS..STRANGERS + clients {
        for &step in steps {
            let network = ipv4_header(&before, source, step.protocol);
            frame[IPV4..TRANSPORT].copy_from_slice(&network);
            let transport = transport_header(step, source, 0x0a4d_0001, 40_000);
            frame[TRANSPORT..TRANSPORT + 20].copy_from_slice(&transport);
            run_program(program, &frame, 1).expect("a test run").expect("it stays loaded");
        }
    }
}

/// Returns the number of IPv4 grants in the table.
fn grants(host: &Host) -> usize {
    host.sh("nft -n list set inet xknock open4").matches("expires").count()
}

#[test]
fn a_flood_from_a_million_sources_stays_bounded_and_the_client_still_knocks() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent =
        Agent::start(&lab.server, ConfigText::ssh().top("knocks", "drop").open_for("10m"));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    let (memory, before) = (agent.resident(), wire(&lab));

    let first = Pattern::new(STRANGERS, ALL, true, &[A]);
    let wrong = Pattern::new(STRANGERS, ALL, true, &[C, Step::new(Protocol::Tcp, 7001)]);
    for pattern in [first, wrong, first] {
        lab.generate(pattern, 400_000);
    }

    assert!(agent.resident() < memory + (2 << 20), "{} from {memory}", agent.resident());
    assert!(agent.log().lines().count() < 50, "{}", agent.log());
    assert_eq!(grants(&lab.server), 1, "no other source got in");
    let after = wire(&lab);
    let lost = after.dropped - before.dropped;
    let arrived = after.received - before.received;
    assert!(arrived + lost >= 1_200_000, "no frame was lost unseen: {arrived} and {lost}");
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    let counters = agent.stop();
    let seen = wire(&lab).received;
    let flood = counters.get("first") + counters.get("unexpected") + counters.get("ignored");
    // Decoys and steps of sources that happen to have begun are among the others.
    assert!(flood + lost >= 1_190_000, "{counters:?} and {lost} lost");
    // Packets from before the agent was attached, and after, are not in its counters.
    assert!(counters.packets() <= seen && counters.packets() + 100 > seen, "{seen}: {counters:?}");
}

#[test]
fn a_knock_opens_while_the_flood_goes_on() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().top("knocks", "drop"));
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for _ in 0..4 {
                lab.generate(Pattern::new(STRANGERS, ALL, true, &[A]), 250_000);
            }
        });
        // A full queue may lose a step, whatever the detector does. So users knock again.
        eventually("an open door", || {
            xknock_steps(&lab.client, lab.server.v4, STEPS);
            agent.has_opened_for(lab.client.v4)
        });
        flood.join().expect("the flood ends");
    });
    assert!(agent.stop().get("first") >= 100_000);
}

#[test]
fn knocks_that_come_faster_than_they_are_read_count_with_their_next_step() {
    const CLIENTS: u32 = 60_000;
    let lab = Lab::new();
    // The limits allow for a slow machine while the agent sleeps.
    let text = ConfigText::ssh().top("knocks", "drop").top("max_sources", 524_288);
    let text = text.top("late_grants", "10m").open_for("10m").within("2m");
    let mut agent = Agent::start(&lab.server, text);
    // The ring buffer holds 52,428 completed knocks.
    agent.process().signal(Signal::SIGSTOP);
    deliver(&lab, CLIENTS, &[A, B, C]);
    agent.process().signal(Signal::SIGCONT);
    agent.await_message("knocks came faster than they were read");
    await_table(&lab.server, "first grants", || grants(&lab.server) > 50_000);
    assert!(grants(&lab.server) < CLIENTS as usize);
    deliver(&lab, CLIENTS, &[C]);
    await_table(&lab.server, "other grants", || grants(&lab.server) == CLIENTS as usize);
    let counters = agent.stop();
    assert_eq!(counters.get("completed"), u64::from(CLIENTS), "{counters:?}");
    assert!(counters.get("event_lost") > 5_000, "{counters:?}");
}

#[test]
fn a_source_that_holds_max_grants_is_refused_with_the_reason() {
    let lab = Lab::new();
    let _web = Echo::start(&lab.server, 80);
    let web = "udp/3000,tcp/5000,udp/2000";
    let text = ConfigText::ssh().top("max_grants", 1).door("web", ["tcp/80"]).sequence(web);
    let mut agent = Agent::start(&lab.server, text);
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    xknock_steps(&lab.client, lab.server.v4, web);
    let refused = agent.await_message("refused");
    assert_eq!(refused["door"], "web");
    assert!(refused["reason"].as_str().is_some_and(|why| why.contains("`max_grants`")));
    assert!(!tcp_open(&lab.client, lab.server.v4, 80));
    xknock_steps(&lab.stranger, lab.server.v4, web);
    agent.await_opened(lab.stranger.v4, "tcp/80");
}

#[test]
fn steps_that_overtook_each_other_open_a_door_with_reorder() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().in_door("reorder", true));
    xknock_steps(&lab.client, lab.server.v4, "udp/8000,tcp/7000,tcp/9000");
    agent.await_opened(lab.client.v4, SSH);
    xknock_steps(&lab.stranger, lab.server.v4, "tcp/9000,udp/8000,tcp/7000");
    xknock_steps(&lab.client, lab.server.v4, "tcp/7000,tcp/9000,udp/8000");
    agent.await_opened(lab.client.v4, SSH);
    assert!(!agent.has_opened_for(lab.stranger.v4));
}

#[test]
fn more_sources_than_there_is_memory_for_are_refused_with_what_would_fit() {
    let lab = Lab::new();
    let config = Config::new(ConfigText::ssh().top("max_sources", 536_870_912));
    let path = config.path();
    let arguments = ["run", "--config", path.to_str().expect("a path of this test")];
    let output = knock_lab::agent::xknockd_output(&lab.server, &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("max_sources = 536870912") && said.contains("would fit"), "{said}");
    assert!(!lab.server.shell("nft list table inet xknock").status.success());
}
