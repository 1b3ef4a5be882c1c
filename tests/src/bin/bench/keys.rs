//! Sealed knocks: what a forged one costs, and what a million of them cost the agent.

use std::path::Path;

use etherparse::PacketBuilder;
use knock_common::sealed::{SIZE, set_tag, set_time};
use knock_tests::Lab;
use knock_tests::keys::Keys;
use knock_userspace::kernel::run_program;
use knock_userspace::keys::{Folder, KeyLine, Opener};

use crate::memory;
use crate::report::{Report, Unit, Value};
use crate::stats::lower_half;

pub(crate) const SECTION: &str = "Sealed knocks";

const DOOR: &str = "[[door]]\nname = \"ssh\"\nopens = [\"tcp/22\"]\nmethod = \"sealed\"\n";
const ROUNDS: usize = 11;

/// Sends forged packets through the program of a running agent.
pub(crate) fn measure(report: &mut Report, packets: u32) {
    report.section(
        SECTION,
        &format!(
            "Packets to a sealed port, by `BPF_PROG_TEST_RUN` through the program of a running agent \
             with one key; ns over a packet that is no knock. The last two columns are what {packets} \
             of them cost the agent."
        ),
    );
    let lab = Lab::new();
    let keys = Keys::new("", DOOR);
    let line = keys.key(&lab.server, &["add", "bench", "--door", "ssh"]);
    let line = KeyLine::parse(&line).expect("a line");
    let key = Folder::new(keys.folder()).read("bench").expect("the key");
    let prefilter = Opener::new(&key.current.verifier).expect("a key").prefilter();
    let agent = keys.start(&lab.server);
    let process = agent.process().id();
    let program = program(&lab.server.ip("-d link show eth0"));
    let packet = |id: [u8; 8], time_ns: u64| {
        let mut packet: [u8; SIZE] = std::array::from_fn(|at| at as u8);
        packet[..8].copy_from_slice(&id);
        set_time(&mut packet, prefilter, time_ns);
        set_tag(&mut packet, prefilter);
        packet
    };
    let mut forged = packet(line.id.0, 1);
    forged[100] ^= 1;
    let run = |frame: &[u8]| {
        let took = run_program(program, frame, packets / ROUNDS as u32).expect("a test run");
        took.expect("the program stays loaded").as_secs_f64() * 1e9
    };
    let quiet = frame(443, &[0; SIZE]);
    for (name, packet) in [
        ("unknown key", packet([1; 8], 1)),
        ("known key, forged", forged),
        ("known key, right tag, old", packet(line.id.0, 1)),
    ] {
        let sealed = frame(62_201, &packet);
        let (cpu, sleeps) = (memory::cpu_seconds(process), memory::sleeps(process));
        let (mut of_sealed, mut of_quiet) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_quiet.push(run(&quiet));
            of_sealed.push(run(&sealed));
        }
        let ns = lower_half(&mut of_sealed) - lower_half(&mut of_quiet);
        report.add(SECTION, name, "cost", Value::ns(ns));
        let cpu = memory::cpu_seconds(process) - cpu;
        report.add(SECTION, name, "agent, CPU", Value::new(cpu * 1000.0, Unit::Milliseconds));
        let woken = memory::sleeps(process) - sleeps;
        report.add(SECTION, name, "agent, woken", Value::new(woken, Unit::Count));
    }
    assert!(Path::new("/proc").join(process.to_string()).exists(), "the agent runs");
}

/// The identifier of the program in what `ip` says of an interface.
fn program(shown: &str) -> u32 {
    let words: Vec<_> = shown.split_whitespace().collect();
    let place = words.windows(2).position(|pair| pair == ["prog/xdp", "id"]);
    words[place.expect("an XDP program") + 2].parse().expect("a number")
}

fn frame(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([198, 51, 100, 7], [10, 77, 0, 1], 64)
        .udp(40_000, port)
        .write(&mut frame, payload)
        .expect("a frame in memory");
    frame
}
