//! `cargo xtask bench`: what a packet that is no knock costs, and how long a door takes
//! to open. Figures of one run compare with each other, not with those of another
//! machine.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use knock_common::sequence::{PortClass, Protocol, Step};
use knock_tests::services::Echo;
use knock_tests::{Agent, Lab};
use knock_userspace::compile::{Compiled, Served, compile, draw_sequence};
use knock_userspace::kernel::{Detector, Settings};
use knock_userspace::policy::{Door, Policy, Service};

fn main() {
    cost_per_packet();
    knock_to_open();
}

/// A frame to a port, and whether it is for the program that does nothing.
struct Row {
    what: &'static str,
    frame: Vec<u8>,
    empty: bool,
    rounds: Vec<f64>,
}

fn cost_per_packet() {
    const ROUNDS: usize = 41;
    const REPEAT: u32 = 500_000;
    println!(
        "Cost of a packet, BPF_PROG_TEST_RUN, mean of the middle half of {ROUNDS} alternating rounds of {REPEAT}:\n"
    );
    println!("| packet | doors | ns | over the empty program |\n|---|---|---|---|");
    for doors in [1, 10_000] {
        let (mut detector, compiled) = detector(doors);
        let mut rows = rows(&compiled);
        for _ in 0..ROUNDS {
            for row in &mut rows {
                let run = if row.empty { Detector::test_run_empty } else { Detector::test_run };
                let (_, took) = run(&mut detector, &row.frame, REPEAT).expect("a test run");
                row.rounds.push(took.as_secs_f64() * 1e9);
            }
        }
        let means: Vec<f64> = rows.iter_mut().map(|row| middle(&mut row.rounds)).collect();
        for (row, ns) in rows.iter().zip(&means) {
            println!("| {} | {doors} | {ns:.1} | {:+.1} |", row.what, ns - means[0]);
        }
    }
}

fn detector(doors: usize) -> (Detector, Compiled) {
    let mut rng = rand::rng();
    let door = |index: usize| Door {
        name: format!("door{index}"),
        opens: vec![Service::new(Protocol::Tcp, 22)],
        sequence: draw_sequence(&mut rng, 4),
        within: Duration::from_secs(10),
        open_for: Duration::from_secs(30),
        cut: false,
    };
    let policy = Policy { doors: (0..doors).map(door).collect(), ..Policy::default() };
    let compiled = compile(&policy, &Served::default(), rand::random()).expect("doors compile");
    let Policy { strays, max_sources, knocks, .. } = policy;
    let settings = Settings { strays, max_sources, knocks, trace: false, hash_key: rand::random() };
    (Detector::load(&compiled, settings).expect("the kernel takes the program"), compiled)
}

fn rows(compiled: &Compiled) -> Vec<Row> {
    let class = |step: Step| PortClass::of(compiled.classes[usize::from(step.port)], step.protocol);
    let all = |protocol| (1..=u16::MAX).map(move |port| Step::new(protocol, port));
    let quiet = |protocol| all(protocol).find(|&step| class(step).is_none()).expect("a quiet port");
    let decoy = all(Protocol::Tcp).find(|&step| class(step) == PortClass::DECOY).expect("a decoy");
    let first =
        all(Protocol::Tcp).chain(all(Protocol::Udp)).find(|&step| class(step) == PortClass::FIRST);
    let row = |what, frame, empty| Row { what, frame, empty, rounds: Vec::new() };
    let (udp, tcp) = (quiet(Protocol::Udp), quiet(Protocol::Tcp));
    let mut data = frame(false, tcp);
    data[47] = 0x10;
    vec![
        row("any, to the empty program", frame(false, udp), true),
        row("UDP, no knock", frame(false, udp), false),
        row("TCP data", data, false),
        row("SYN to a port of no interest", frame(false, tcp), false),
        row("UDP over IPv6, no knock", frame(true, udp), false),
        row("decoy, no progress", frame(false, decoy), false),
        row("first step, again and again", frame(false, first.expect("a first step")), false),
    ]
}

fn frame(v6: bool, step: Step) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = if v6 {
        ethernet.ipv6([0xfd; 16], [0xfc; 16], 64)
    } else {
        ethernet.ipv4([198, 51, 100, 7], [192, 0, 2, 1], 64)
    };
    let mut frame = Vec::new();
    match step.protocol {
        Protocol::Tcp => ip.tcp(40_000, step.port, 1, 1000).syn().write(&mut frame, &[]),
        Protocol::Udp => ip.udp(40_000, step.port).write(&mut frame, &[0; 22]),
    }
    .expect("a frame in memory");
    frame
}

/// From the last knock to the first answer of the service, over and over from addresses
/// that have no grant yet.
fn knock_to_open() {
    const KNOCKS: u8 = 200;
    let lab = Lab::new();
    let _service = Echo::start(&lab.server, 5353);
    let _unguarded = Echo::start(&lab.server, 5454);
    lab.server.ip("route add 10.77.1.0/24 dev eth0");
    for n in 0..KNOCKS {
        lab.client.ip(&format!("address add 10.77.1.{n}/32 dev eth0"));
    }
    let _agent = Agent::start(
        &lab.server,
        "interfaces = [\"eth0\"]\nmode = \"enforce\"\n[[door]]\nname = \"dns\"\n\
         opens = [\"udp/5353\"]\nsequence = [\"udp/7000\", \"udp/8000\", \"udp/4500\"]\n",
    );
    let server = lab.server.v4;
    let mut times =
        lab.client.run(move || (0..KNOCKS).map(|n| open_one(n, server)).collect::<Vec<_>>());
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("\nLast knock to first answer, {KNOCKS} knocks over veth, idle:\n");
    println!("| | ms |\n|---|---|\n| median | {:.3} |\n| p99 | {:.3} |", at(0.5), at(0.99));
}

/// Milliseconds until the door answers to 10.77.1.`n`.
fn open_one(n: u8, server: IpAddr) -> f64 {
    let source: IpAddr = [10, 77, 1, n].into();
    let socket = UdpSocket::bind((source, 0)).expect("an address of this host");
    let to = |port| SocketAddr::new(server, port);
    let mut answer = [0; 16];
    // Both hosts learn each other's hardware address first.
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
    socket.send_to(b"warm", to(5454)).expect("a datagram leaves");
    socket.recv_from(&mut answer).expect("the unguarded port answers");
    socket.set_nonblocking(true).expect("a socket option");
    for port in [7000, 8000, 4500] {
        socket.send_to(&[], to(port)).expect("a datagram leaves");
    }
    let started = Instant::now();
    let limit = Duration::from_secs(5);
    let mut next_probe = started;
    while started.elapsed() < limit {
        if Instant::now() >= next_probe {
            // Errors are answers of the closed knock ports, reported late.
            let _ = socket.send_to(b"ping", to(5353));
            next_probe = Instant::now() + Duration::from_micros(20);
        }
        if socket.recv_from(&mut answer).is_ok_and(|(_, from)| from == to(5353)) {
            return started.elapsed().as_secs_f64() * 1000.0;
        }
    }
    panic!("the door did not open for {source}");
}

/// Mean of the middle half: the kernel tells whole nanoseconds only, so a median would
/// hide what a change costs, and a plain mean would take in every interruption.
fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    let middle = &values[quarter..values.len() - quarter];
    middle.iter().sum::<f64>() / middle.len() as f64
}
