//! Knocks of devices with keys.

mod changes;
mod replay;
mod slots;
mod ssh;

use std::net::UdpSocket;
use std::time::{SystemTime, UNIX_EPOCH};

use knock_keys::{Action, Address, DoorTag, KeyLine, Request, Sealer};
use knock_lab::keys::{Device, Keys};
use knock_lab::process::seconds;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{Agent, ConfigText, Host, Lab};
use nix::sys::signal::Signal;

use crate::SSH;

/// Returns a config whose door `ssh` has this method: [`SEALED`] or [`ROLLING`].
fn ssh_by(method: &str) -> ConfigText {
    ConfigText::new().door("ssh", ["tcp/22"]).method(method)
}

const SEALED: &str = "sealed";
const ROLLING: &str = "rolling";
const PORT: u16 = 62_201;
/// The agent's message when the detector has the keys.
const RENEWED: &str = "keys renewed in the detector";

/// A lab whose server has one door for keys.
struct Site {
    lab: Lab,
    keys: Keys,
    _ssh: Echo,
}

impl Site {
    fn new(config: ConfigText) -> Self {
        let lab = Lab::new();
        let ssh = Echo::start(&lab.server, 22);
        Self { keys: Keys::new(config), lab, _ssh: ssh }
    }

    /// Adds a key for the door `ssh` and returns its line.
    fn add(&self, name: &str, more: &[&str]) -> String {
        self.keys.key(&self.lab.server, &[&["add", name, "--door", "ssh"], more].concat())
    }

    /// Adds a key, and returns a device on the client that has it.
    fn device(&self, name: &str, more: &[&str]) -> Device {
        let line = self.add(name, more);
        Device::new(&self.lab.client, &line, &self.lab.server.v4.to_string())
    }

    fn start(&self) -> Agent {
        self.keys.start(&self.lab.server)
    }

    /// Starts an agent that logs each time that it gives keys to the detector.
    fn start_telling_of_renewals(&self) -> Agent {
        let log = [("RUST_LOG", "info,knock_userspace::agent::keys=debug")];
        self.keys.start_with(&self.lab.server, &log)
    }

    fn is_open_for_stranger(&self) -> bool {
        tcp_open(&self.lab.stranger, self.lab.server.v4, 22)
    }

    /// Sends a sealed knock that a client would not make.
    fn send(&self, from: &Host, line: &str, request: &Request) {
        let line = KeyLine::parse(line).expect("a line");
        let sealer = Sealer::new(line.id, &line.credential).expect("a key");
        let packet = sealer.seal(request).expect("random bytes");
        let to = (self.lab.server.v4, PORT);
        from.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.send_to(&packet, to).expect("sent");
        });
    }
}

fn request() -> Request {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Request {
        action: Action::Open,
        time_ns: u64::try_from(now.as_nanos()).expect("before 2554"),
        doors: vec![DoorTag::of("ssh")],
        wanted_s: 0,
        address: Address::Seen,
    }
}

#[test]
fn one_command_adds_a_device_that_opens_the_door_for_itself_alone() {
    for (door, more) in [(SEALED, &[][..]), (SEALED, &["--public"]), (ROLLING, &[])] {
        let site = Site::new(ssh_by(door));
        let device = site.device("laptop", more);
        let mut agent = site.start();
        assert!(!tcp_open(&site.lab.client, site.lab.server.v4, 22));
        let said = device.knock(&site.lab.client, &["server"]);
        let answers = format!("tcp/22 on {} answers after", site.lab.server.v4);
        assert!(said.contains(&answers), "{said}");
        agent.await_opened(site.lab.client.v4, SSH);
        let knocked = agent.log();
        assert!(knocked.contains("\"key\":\"laptop\""), "{knocked}");
        assert!(!site.is_open_for_stranger());
    }
}

#[test]
fn a_device_knocks_over_the_address_family_that_it_connects_with() {
    for door in [SEALED, ROLLING] {
        let site = Site::new(ssh_by(door));
        let line = site.add("laptop", &[]);
        let device = Device::new(&site.lab.client, &line, &site.lab.server.v6.to_string());
        let mut agent = site.start();
        device.knock(&site.lab.client, &["server"]);
        agent.await_opened(site.lab.client.v6, SSH);
        assert!(!tcp_open(&site.lab.client, site.lab.server.v4, 22));
    }
}

/// Devices behind NAT have one address for the server.
#[test]
fn two_devices_behind_one_address_knock_at_the_same_time() {
    for door in [SEALED, ROLLING] {
        let site = Site::new(ssh_by(door));
        let devices = ["laptop", "phone"].map(|name| site.device(name, &[]));
        let mut agent = site.start();
        std::thread::scope(|scope| {
            for device in &devices {
                scope.spawn(|| device.knock(&site.lab.client, &["server"]));
            }
        });
        // One of them may have found the door open before its own knock was through.
        for name in ["laptop", "phone"] {
            let name = format!("\"key\":\"{name}\"");
            agent.await_in_log(&name);
        }
    }
}

#[test]
fn a_device_closes_its_door_and_keeps_it_open_while_a_command_runs() {
    let site = Site::new(ssh_by(SEALED).open_for(&seconds(2)));
    let device = site.device("laptop", &[]);
    let mut agent = site.start();
    let script = format!("sleep {}; echo still here", seconds(4));
    let arguments = ["server", "--keep", "--close", "--then", "sh", "-c", &script];
    let output = device.xknock(&site.lab.client, &arguments);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "still here\n");
    agent.await_closed(site.lab.client.v4, SSH);
    let log = agent.log();
    assert_eq!(log.matches("\"message\":\"closed\"").count(), 1, "never in between: {log}");
    assert!(log.contains("\"action\":\"close\""), "{log}");
    assert!(!tcp_open(&site.lab.client, site.lab.server.v4, 22));
}

#[test]
fn of_a_close_and_an_open_that_waited_for_the_agent_the_later_counts() {
    let site = Site::new(ssh_by(SEALED));
    let line = site.add("laptop", &[]);
    let mut agent = site.start();
    site.send(&site.lab.client, &line, &request());
    agent.await_opened(site.lab.client.v4, SSH);
    agent.process().signal(Signal::SIGSTOP);
    for action in [Action::Close, Action::Open] {
        site.send(&site.lab.client, &line, &Request { action, ..request() });
    }
    agent.process().signal(Signal::SIGCONT);
    agent.await_closed(site.lab.client.v4, SSH);
    agent.await_opened(site.lab.client.v4, SSH);
    assert!(tcp_open(&site.lab.client, site.lab.server.v4, 22));
}

#[test]
fn requests_beyond_the_rights_of_a_key_open_nothing_and_are_logged_with_its_name() {
    let site = Site::new(ssh_by(SEALED).door("admin", ["tcp/8443"]).method(SEALED));
    let line = site.add("laptop", &["--longest", "10s"]);
    let stranger = KeyLine { name: "x".into(), ..KeyLine::parse(&line).expect("a line") };
    let mut agent = site.start();
    let client = &site.lab.client;
    let elsewhere = Address::Named([203, 0, 113, 9].into());
    for (request, reason) in [
        (Request { doors: vec![DoorTag::of("admin")], ..request() }, "no such door"),
        (Request { doors: vec![DoorTag::of("nothing")], ..request() }, "no such door"),
        (Request { wanted_s: 11, ..request() }, "11 s, but 10 s are the limit"),
        (Request { address: elsewhere, ..request() }, "it is for 203.0.113.9"),
    ] {
        let request = Request { time_ns: self::request().time_ns, ..request };
        site.send(client, &line, &request);
        let denied = agent.await_message("denied");
        assert_eq!(denied["key"], "laptop");
        assert!(denied["reason"].as_str().unwrap_or("").contains(reason), "{denied}");
    }
    assert!(!agent.has_opened_for(site.lab.client.v4));
    // Packets without a valid tag, or too old, do not reach the agent.
    let mut forged = stranger;
    forged.credential =
        knock_keys::Credential::Shared(knock_keys::Secret::draw().expect("random bytes"));
    site.send(client, &forged.to_text(), &request());
    let old = Request { time_ns: request().time_ns - 120_000_000_000, ..request() };
    site.send(client, &line, &old);
    site.send(client, &line, &Request { wanted_s: 10, ..request() });
    agent.await_opened(site.lab.client.v4, SSH);
    let log = agent.log();
    assert_eq!(log.matches("\"message\":\"denied\"").count(), 4, "{log}");
    let counters = agent.stop();
    assert_eq!(counters.get("sealed_wrong_tag"), 1);
    assert_eq!(counters.get("sealed_wrong_time"), 1);
    assert_eq!(counters.get("sealed_passed"), 5);
}
