//! Unusual knocks on the wire: tags, copies, fragments, several CPUs and interfaces.

use knock_common::sequence::{Protocol, Step};
use knock_lab::clients::xknock_steps;
use knock_lab::packet::tagged;
use knock_lab::{Agent, ConfigText, Lab, Packet, wire};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::{SSH, STEPS};

const SEQUENCE: [Step; 3] = [
    Step::new(Protocol::Tcp, 7000),
    Step::new(Protocol::Udp, 8000),
    Step::new(Protocol::Tcp, 9000),
];

#[test]
fn knocks_in_one_and_two_vlan_tags_are_seen() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    for (source, tags) in [
        ("10.77.0.50", vec![0x8100]),
        ("10.77.0.51", vec![0x88a8, 0x8100]),
        ("fd77::50", vec![0x8100]),
        ("fd77::51", vec![0x8100, 0x8100]),
    ] {
        let source = source.parse().unwrap();
        let frames =
            SEQUENCE.map(|step| tagged(&Packet::to(&lab.server, source).knock(step), &tags));
        wire::send(&lab.client, frames.to_vec());
        agent.await_opened(source, SSH);
    }
}

#[test]
fn every_frame_may_come_twice() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    let frames = SEQUENCE.map(|step| Packet::to(&lab.server, lab.client.v4).knock(step));
    let twice = frames.into_iter().flat_map(|frame| [frame.clone(), frame]).collect();
    wire::send(&lab.client, twice);
    agent.await_opened(lab.client.v4, SSH);
    let counters = agent.stop();
    assert_eq!((counters.get("completed"), counters.get("stayed")), (1, 1));
}

#[test]
fn steps_of_one_source_may_reach_different_cpus() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    let sources: Vec<std::net::IpAddr> = (0..200).map(|n| [10, 77, 1, n].into()).collect();
    let frames: Vec<Vec<Vec<u8>>> = sources
        .iter()
        .map(|&source| SEQUENCE.map(|step| Packet::to(&lab.server, source).knock(step)).to_vec())
        .collect();
    // veth delivers on the CPU that sends.
    lab.client.run(move || {
        let this_thread = Pid::from_raw(0);
        let allowed = sched_getaffinity(this_thread).expect("affinity");
        let cpus: Vec<_> =
            (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
        for frames in frames {
            for (step, frame) in frames.into_iter().enumerate() {
                let mut one = CpuSet::new();
                one.set(cpus[step % cpus.len()]).expect("a cpu");
                sched_setaffinity(this_thread, &one).expect("move to a cpu");
                wire::send_here(&[frame]);
            }
        }
    });
    for source in sources {
        agent.await_opened(source, SSH);
    }
}

#[test]
fn fragments_are_never_knocks() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    for (port, flag) in [(7000, "-S"), (8000, "-2"), (9000, "-S")] {
        let server = lab.server.v4;
        lab.client.shell(&format!("hping3 -c 1 {flag} -f -d 64 -p {port} {server}"));
    }
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    agent.await_opened(lab.stranger.v4, SSH);
    assert!(!agent.has_opened_for(lab.client.v4));
    assert!(agent.stop().get("fragment") >= 3);
}

#[test]
fn several_interfaces_share_progress_and_the_guard() {
    let lab = Lab::new();
    let other = knock_lab::netns::Netns::new("other");
    lab.server.ip(&format!("link add eth1 type veth peer name eth0 netns {}", other.name()));
    lab.server.ip("address add 10.78.0.1/24 dev eth1");
    lab.server.ip("link set eth1 up");
    other.ip("address add 10.78.0.2/24 dev eth0");
    other.ip("link set eth0 up");
    let _ssh = knock_lab::services::Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().interfaces(["eth0", "eth1"]));
    let server = "10.78.0.1".parse().unwrap();
    assert!(!knock_lab::services::tcp_open(&other, server, 22));
    other.sh("for p in 7000:tcp 8000:udp 9000:tcp; do knock 10.78.0.1 $p; done");
    agent.await_opened("10.78.0.2".parse().unwrap(), SSH);
    assert!(knock_lab::services::tcp_open(&other, server, 22));
    assert!(!knock_lab::services::tcp_open(&lab.client, lab.server.v4, 22));
}
