//! Knocks with keys: the cost of a forged one, and of thousands of keys.

use std::time::Instant;

use knock_common::sealed::{SIZE, set_tag, set_time};
use knock_detector::run_program;
use knock_keys::{Folder, KeyDoor, Opener};
use knock_lab::keys::Keys;
use knock_lab::{Agent, ConfigText, Lab, Packet};

use crate::memory;
use crate::report::{Report, Unit, Value};
use crate::stats::lower_half;

pub(crate) const SECTION: &str = "Sealed knocks";
pub(crate) const MANY: &str = "Ten thousand keys";
pub(crate) const FORGED: &str = "known key, forged";
pub(crate) const OLD: &str = "known key, right tag, old";
pub(crate) const SWAP: &str = "a new time slot, until the detector knows it";
pub(crate) const SUBJECT: &str = "xknock";
const NO_KNOCK: &str = "packet that is no knock, all of it";

/// A sealed and a rolling door, as keys know them.
const KEY_DOORS: [&str; 2] =
    ["ssh:sealed:62201:seen:30:tcp/22", "web:rolling:20000-32767::5:udp:30:tcp/443"];
/// Makes the agent log how long a new slot takes it.
const TELLING: [(&str, &str); 1] = [("RUST_LOG", "info,knock_userspace::agent::keys=debug")];
const ROUNDS: usize = 21;

/// A server whose agent knows some keys.
struct Site {
    /// Ends before its host goes.
    agent: Agent,
    lab: Lab,
    keys: Keys,
    /// The secret that packets of the last key are made with.
    id: [u8; 8],
    prefilter: knock_common::siphash::SipKey,
    program: u32,
}

impl Site {
    /// Starts an agent with `count` keys for the config's doors.
    fn new(count: usize, config: ConfigText, key_doors: &[&str]) -> Self {
        let (lab, keys) = (Lab::new(), Keys::new(config.top("decoys", 0)));
        let door = |door: &&str| door.parse().expect("a door");
        let doors: Vec<KeyDoor> = key_doors.iter().map(door).collect();
        let line = keys.draw(&lab.server, count, &doors);
        let key = Folder::new(keys.folder()).read(&format!("device-{}", count - 1));
        let verifier = key.expect("the last key").current.verifier;
        let prefilter = Opener::new(&verifier).expect("a key").prefilter();
        let agent = keys.start_with(&lab.server, &TELLING);
        let program = program(&lab.server.ip("-d link show eth0"));
        Self { lab, keys, agent, id: line.id.0, prefilter, program }
    }

    fn packet(&self, id: [u8; 8]) -> [u8; SIZE] {
        let mut packet: [u8; SIZE] = std::array::from_fn(|at| at as u8);
        packet[..8].copy_from_slice(&id);
        set_time(&mut packet, self.prefilter, 1);
        set_tag(&mut packet, self.prefilter);
        packet
    }

    /// Returns the nanoseconds that `frame` takes.
    fn run(&self, frame: &[u8], repeat: u32) -> f64 {
        let took = run_program(self.program, frame, repeat).expect("a test run");
        took.expect("the program stays loaded").as_secs_f64() * 1e9
    }
}

/// Sends forged packets through the programs of two running agents, one of which has ten
/// thousand keys.
pub(crate) fn measure(report: &mut Report, packets: u32) {
    report.section(
        SECTION,
        &format!(
            "Packets to a sealed port, by `BPF_PROG_TEST_RUN` through the programs of two running \
             agents in turn; ns over a packet that is no knock. The last two columns are what \
             {packets} of them, as fast as they go, cost an agent that is their only reader."
        ),
    );
    // Without rolling doors, the first agent has nothing to do by itself.
    let sealed = ConfigText::new().door("ssh", ["tcp/22"]).method("sealed");
    let both = sealed.clone().door("web", ["tcp/443"]).method("rolling");
    let (few, many) = (Site::new(1, sealed, &KEY_DOORS[..1]), Site::new(10_000, both, &KEY_DOORS));
    let sites = [("one key", few), ("10,000 keys", many)];
    for (kind, make) in [
        (NO_KNOCK, None),
        ("unknown key", Some(unknown as fn(&Site) -> [u8; SIZE])),
        (FORGED, Some(forged)),
        (OLD, Some(old)),
    ] {
        let spent = sites.each_ref().map(|(_, site)| {
            let process = site.agent.process().id();
            (memory::cpu_seconds(process), memory::sleeps(process))
        });
        let mut costs = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for ((_, site), costs) in sites.iter().zip(&mut costs) {
                let quiet = frame(443, &[0; SIZE]);
                let repeat = packets / ROUNDS as u32;
                let cost = match make {
                    None => site.run(&quiet, repeat),
                    Some(make) => {
                        site.run(&frame(62_201, &make(site)), repeat) - site.run(&quiet, repeat)
                    }
                };
                costs.push(cost);
            }
        }
        for (((name, site), costs), before) in sites.iter().zip(&mut costs).zip(spent) {
            report.add(SECTION, kind, name, Value::ns(lower_half(costs)));
            // The other agent renews slots, which may fall into this measurement.
            if *name == sites[0].0 && make.is_some() {
                let process = site.agent.process().id();
                let cpu = (memory::cpu_seconds(process) - before.0) * 1000.0;
                report.add(SECTION, kind, "agent, CPU", Value::new(cpu, Unit::Milliseconds));
                let woken = memory::sleeps(process) - before.1;
                report.add(SECTION, kind, "agent, woken", Value::new(woken, Unit::Count));
            }
        }
    }
    let [_, (_, many)] = sites;
    hold(report, many);
}

/// Measures the memory of ten thousand keys, and the time that changes take.
fn hold(report: &mut Report, mut site: Site) {
    report.section(
        MANY,
        "Each with a sealed and a rolling door, so that 30,000 sequences of five steps are alive. \
         The slots are 30 s long.",
    );
    let process = site.agent.process().id();
    let slot = site.agent.await_message("keys renewed in the detector");
    let slot = slot["took_ms"].to_string().trim_matches('"').parse().expect("a number");
    report.add(MANY, SWAP, SUBJECT, Value::new(slot, Unit::Milliseconds));
    let begun = Instant::now();
    site.keys.key(&site.lab.server, &["add", "late", "--door", "ssh"]);
    site.agent.await_message("keys read");
    site.agent.await_message("keys renewed in the detector");
    let added = begun.elapsed().as_secs_f64() * 1000.0;
    let what = "`xknockd key add`, until the detector knows the key";
    report.add(MANY, what, SUBJECT, Value::new(added, Unit::Milliseconds));
    let resident = Value::new(memory::resident(process), Unit::Mebibytes);
    report.add(MANY, "agent, resident", SUBJECT, resident);
    let maps = Value::new(memory::maps(process), Unit::Mebibytes);
    report.add(MANY, "maps", SUBJECT, maps);
}

fn unknown(site: &Site) -> [u8; SIZE] {
    site.packet([1; 8])
}

fn old(site: &Site) -> [u8; SIZE] {
    site.packet(site.id)
}

fn forged(site: &Site) -> [u8; SIZE] {
    let mut packet = old(site);
    packet[100] ^= 1;
    packet
}

/// Returns the identifier of the program in the output of `ip` for an interface.
fn program(shown: &str) -> u32 {
    let words: Vec<_> = shown.split_whitespace().collect();
    let place = words.windows(2).position(|pair| pair == ["prog/xdp", "id"]);
    words[place.expect("an XDP program") + 2].parse().expect("a number")
}

fn frame(port: u16, payload: &[u8]) -> Vec<u8> {
    Packet::between([198, 51, 100, 7].into(), [10, 77, 0, 1].into()).datagram(port, payload)
}
