//! The client with keys, as a user runs it, against a host on loopback that opens a port
//! once it was knocked on.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use knock_keys::{
    Action, Address, DoorTag, Key, KeyLine, KeyMethod, Kind, Opener, Request, Roller, Verifier,
    slot_of, wall_clock_s,
};
use tempfile::TempDir;

/// A user with a home of their own.
struct User(TempDir);

impl User {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xknock"));
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.0.path()).env("XDG_CONFIG_HOME", self.0.path().join("config"));
        command.env("XDG_STATE_HOME", self.0.path().join("state"));
        command
    }

    fn xknock(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("xknock runs")
    }

    /// Runs xknock, which must succeed, and returns its output.
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.xknock(arguments);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    /// Runs xknock, which must fail, and returns its output.
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.xknock(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    }

    fn import(&self, line: &KeyLine) {
        self.succeed(&["import", &line.to_text(), "--as", "host"]);
    }

    fn key_file(&self) -> PathBuf {
        self.0.path().join("config/xknock/keys/host")
    }
}

fn said(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// A port that nothing uses at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// A host with one sealed door.
struct Host {
    udp: UdpSocket,
    port: u16,
    opener: Opener,
    line: KeyLine,
}

impl Host {
    fn new(kind: Kind, addresses: &str, open_for: u64) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        udp.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        let (port, at) = (free_port(), udp.local_addr().expect("an address").port());
        let door = format!("ssh:sealed:{at}:{addresses}:{open_for}:tcp/{port}");
        let doors = vec![door.parse().expect("a door")];
        let (key, line) =
            Key::draw("laptop".into(), "127.0.0.1".into(), kind, doors, wall_clock_s(), None, None)
                .expect("random bytes");
        Self { udp, port, opener: Opener::new(&key.current.verifier).expect("a key"), line }
    }

    fn request(&self) -> Request {
        let mut packet = [0; 200];
        // A process that was stopped and goes on finds its system call interrupted.
        let length = loop {
            match self.udp.recv(&mut packet) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("a knock"),
            }
        };
        self.opener.open(packet[..length].try_into().expect("the size")).expect("of this key")
    }

    /// Opens the port after `knocks` knocks, which are returned, and echoes one connection.
    fn serve(self, knocks: usize) -> JoinHandle<(Self, Vec<Request>)> {
        thread::spawn(move || {
            let requests: Vec<_> = (0..knocks).map(|_| self.request()).collect();
            let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("the port");
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("text");
            let _ = stream.write_all(text.to_uppercase().as_bytes());
            (self, requests)
        })
    }
}

#[test]
fn an_imported_key_opens_the_door_with_a_sealed_knock() {
    for kind in [Kind::Shared, Kind::Public] {
        let (user, host) = (User::new(), Host::new(kind, "seen", 30));
        user.import(&host.line);
        let serving = host.serve(1);
        assert!(user.succeed(&["host"]).contains("answers after"));
        let (_, requests) = serving.join().unwrap();
        let [request] = &requests[..] else { panic!("{requests:?}") };
        assert_eq!(request.doors, [DoorTag::of("ssh")]);
        assert_eq!(request.action, Action::Open);
        assert_eq!(request.address, Address::Named("127.0.0.1".parse().unwrap()));
        assert!((request.time_ns / 1_000_000_000).abs_diff(wall_clock_s()) < 20);
    }
}

#[test]
fn a_key_comes_in_through_standard_input_too() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    let mut import =
        user.command(&["import"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = import.stdin.take().unwrap();
    writeln!(stdin, "{}", *host.line.to_text()).unwrap();
    drop(stdin);
    assert!(import.wait().unwrap().success());
    let serving = host.serve(1);
    user.succeed(&["127.0.0.1"]);
    serving.join().unwrap();
}

#[test]
fn a_lost_knock_is_made_again_with_a_newer_time() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    user.import(&host.line);
    let serving = host.serve(2);
    user.succeed(&["host"]);
    let (_, requests) = serving.join().unwrap();
    assert!(requests[0].time_ns < requests[1].time_ns);
    assert_eq!(requests[1].address, Address::Seen, "there may be NAT on the way");
}

#[test]
fn a_proxy_knocks_and_joins_both_ends() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "own", 30));
    user.import(&host.line);
    let port = host.port.to_string();
    let serving = host.serve(1);
    let mut proxy = user
        .command(&["proxy", "127.0.0.1", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    proxy.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = proxy.wait_with_output().unwrap();
    assert_eq!((output.status.success(), &*output.stdout), (true, &b"THROUGH"[..]));
    serving.join().unwrap();
    assert!(user.fail(&["proxy", "host", "1"]).contains("opens no door to tcp/1"));
    let unknown = user.fail(&["proxy", "elsewhere", "22"]);
    assert!(unknown.contains("xknock import`; there are keys for host"), "{unknown}");
}

#[test]
fn the_door_is_kept_open_for_a_command_and_closed_after_it() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    user.import(&host.line);
    let serving = host.serve(1);
    let flag = user.0.path().join("done");
    let wait = format!("while ! [ -e {} ]; do sleep 0.05; done; exit 7", flag.display());
    let arguments = ["host", "--for", "2s", "--keep", "--close", "--then", "sh", "-c", &wait];
    let command = user.command(&arguments).spawn().unwrap();
    let (host, first) = serving.join().unwrap();
    let kept = [host.request(), host.request()];
    assert!(kept.iter().all(|request| request.action == Action::Open && request.wanted_s == 2));
    let named = Address::Named("127.0.0.1".parse().unwrap());
    assert!(kept.iter().all(|request| request.address == named), "as the knock that was answered");
    assert!(first[0].time_ns < kept[0].time_ns && kept[0].time_ns < kept[1].time_ns);
    fs::write(flag, "").unwrap();
    while host.request().action != Action::Close {}
    let output = command.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "the command's own status");
}

#[test]
fn a_door_that_opened_for_the_address_that_is_seen_is_kept_open_for_it() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 2));
    user.import(&host.line);
    let serving = host.serve(2);
    let command = user.command(&["host", "--keep", "--then", "sleep", "2"]).spawn().unwrap();
    let (host, first) = serving.join().unwrap();
    assert_ne!(first[0].address, Address::Seen);
    assert_eq!((first[1].address, host.request().address), (Address::Seen, Address::Seen));
    assert!(command.wait_with_output().unwrap().status.success());
}

#[test]
fn a_time_that_the_door_does_not_allow_is_not_asked_for() {
    for (asked, wanted) in [("1h", 0), ("30s", 0), ("29s", 29), ("10ms", 1)] {
        let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
        user.import(&host.line);
        let serving = host.serve(1);
        user.succeed(&["host", "--for", asked]);
        assert_eq!(serving.join().unwrap().1[0].wanted_s, wanted, "{asked}");
    }
    for option in ["--for", "--timeout"] {
        let output = User::new().xknock(&["host", option, "0s"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains("no time at all"), "{}", said(&output));
    }
}

#[test]
fn closing_takes_one_packet() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    user.import(&host.line);
    user.succeed(&["host", "--close"]);
    let close = host.request();
    assert_eq!((close.action, close.address), (Action::Close, Address::Seen), "there may be NAT");
    let (user, host) = (User::new(), Host::new(Kind::Shared, "own", 30));
    user.import(&host.line);
    user.succeed(&["host", "--close"]);
    assert_ne!(host.request().address, Address::Seen);
}

/// Runs a command behind the door and returns its exit status and output.
fn behind_the_door(then: &[&str]) -> (Option<i32>, String) {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    user.import(&host.line);
    let serving = host.serve(1);
    let output = user.xknock(&[&["host", "--close", "--then"], then].concat());
    let (host, _) = serving.join().unwrap();
    while host.request().action != Action::Close {}
    (output.status.code(), said(&output))
}

#[test]
fn however_a_command_ends_the_door_is_closed_and_its_status_returned() {
    assert_eq!(behind_the_door(&["--", "sh", "-c", "exit 3"]).0, Some(3));
    assert_eq!(behind_the_door(&["sh", "-c", "kill -9 $$"]).0, Some(128 + 9));
    let (code, said) = behind_the_door(&["/nosuchprogram"]);
    assert_eq!(code, Some(127));
    assert!(said.contains("cannot run `/nosuchprogram`"), "{said}");
    assert_eq!(behind_the_door(&["/dev/null"]).0, Some(126));
    // A signal for the client is for the command as well.
    for (signal, number) in [("TERM", 15), ("HUP", 1)] {
        let script = format!("kill -{signal} $PPID; while :; do sleep 0.1; done");
        assert_eq!(behind_the_door(&["sh", "-c", &script]).0, Some(128 + number));
    }
}

#[test]
fn rolling_steps_are_those_that_the_host_expects() {
    let user = User::new();
    let door = "ssh:rolling:20000-32767::5:udp:30:udp/9".parse().unwrap();
    let made = Key::draw("phone".into(), String::new(), Kind::Shared, vec![door], 1, None, None);
    let (key, mut line) = made.unwrap();
    line.host = "127.0.0.1".into();
    user.import(&line);
    let (Verifier::Shared(secret), KeyMethod::Rolling(rolling)) =
        (&key.current.verifier, &key.doors[0].method)
    else {
        panic!("a shared rolling key")
    };
    // The slot may end while the client starts.
    let slot = || slot_of(wall_clock_s() * 1_000_000_000);
    let heard = loop {
        let before = slot();
        let steps = Roller::shared(secret).steps("ssh", before, rolling);
        let bound = steps.iter().map(|step| UdpSocket::bind(("127.0.0.1", step.port)));
        let sockets: Vec<_> = bound.collect::<Result<_, _>>().expect("free ports");
        user.succeed(&["host", "-v"]);
        if slot() == before {
            break sockets.iter().all(|socket| {
                socket.set_nonblocking(true).unwrap();
                socket.recv(&mut [0; 8]).is_ok()
            });
        }
    };
    assert!(heard);
    for (arguments, expected) in [
        (vec!["host", "--close"], "cannot close it before its time"),
        (vec!["host", "--keep", "--then", "true"], "cannot be kept open: it opens for 30s"),
        (vec!["host", "--for", "5s"], "cannot say for how long"),
        (vec!["host", "--address", "192.0.2.1"], "cannot open for another address"),
    ] {
        assert!(user.fail(&arguments).contains(expected), "{arguments:?}");
    }
}

#[test]
fn giving_up_says_why_as_far_as_can_be_known() {
    let silent = |change: &dyn Fn(&mut KeyLine)| {
        let (user, mut host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
        change(&mut host.line);
        user.import(&host.line);
        let said = user.fail(&["host", "--timeout", "300ms"]);
        assert!(said.contains("did not answer within 300ms"), "{said}");
        (user, host, said)
    };
    // Loopback refuses where a guard would be silent.
    let (user, host, said) = silent(&|_| ());
    assert!(said.contains("nothing listens there"), "{said}");
    let (_, _, said) = silent(&|line| line.made += 1000);
    assert!(said.contains("s slow"), "{said}");
    let (_, _, said) = silent(&|line| line.until = Some(wall_clock_s() - 100));
    assert!(said.contains("the key ended 10"), "{said}");
    // The last knock was made an hour from now.
    let memory = user.0.path().join("state/xknock").join(host.line.id.to_string());
    fs::write(&memory, format!("{}", (wall_clock_s() + 3600) * 1_000_000_000)).unwrap();
    let said = user.fail(&["host", "--timeout", "300ms"]);
    assert!(said.contains("s behind the time of the last knock"), "{said}");
    let said = user.fail(&["host", "--timeout", "300ms"]);
    assert!(!said.contains("behind"), "said once: {said}");
    let said = user.fail(&["host", "--timeout", "300ms", "--for", "5s"]);
    assert!(said.contains("may allow less"), "{said}");
    let said = user.fail(&["host", "--door", "db"]);
    assert!(said.contains("does not open door `db`; it opens ssh"), "{said}");
    let said = user.fail(&["host", "--address", "192.0.2.1"]);
    assert!(said.contains("and for no other:"), "{said}");
}

#[test]
fn what_goes_with_steps_only_is_refused_with_a_key_and_the_other_way_round() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    user.import(&host.line);
    for arguments in [
        &["host", "--wait", "tcp/22"][..],
        &["host", "--gap", "10ms"],
        &["host", "--door", "ssh", "--wait", "tcp/22"],
        &["host", "7000", "--keep"],
        &["host", "--steps", "tcp/1", "--then", "true", "--keep"],
        &["other"],
    ] {
        let output = user.xknock(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("Usage: xknock "), "{}", said(&output));
    }
    assert!(said(&user.xknock(&["other"])).contains("there are keys for host"));
}

#[test]
fn a_reason_is_given_once() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    user.import(&host.line);
    fs::remove_file(user.key_file()).unwrap();
    assert_eq!(user.fail(&["host"]).matches("No such file").count(), 1);
    let unknown = user.fail(&["host.invalid", "--steps", "tcp/1"]);
    assert_eq!(unknown.matches("lookup address").count(), 1, "{unknown}");
}

#[test]
fn a_broken_output_is_not_the_fault_of_the_host() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    user.import(&host.line);
    let port = host.port.to_string();
    let serving = host.serve(1);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut proxy = user
        .command(&["proxy", "host", &port])
        .stdin(Stdio::piped())
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    proxy.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = proxy.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("cannot write to standard output: No space left"), "{said}");
    assert!(!said.contains("127.0.0.1"), "{said}");
    serving.join().unwrap();
}

#[test]
fn bad_keys_are_refused_and_never_shown() {
    let (user, host) = (User::new(), Host::new(Kind::Shared, "seen", 30));
    let text = host.line.to_text();
    let secret = text.split("secret=").nth(1).unwrap()[..43].to_owned();
    let damaged = text.replace(&secret[..9], &secret[1..10]);
    for (line, expected) in [
        (&*damaged, "checksum"),
        (&text[..text.len() - 3], "checksum"),
        ("ssh://host", "xknock://"),
    ] {
        let said = user.fail(&["import", line]);
        assert!(said.contains(expected) && !said.contains(&secret[10..20]), "{said}");
    }
    user.import(&host.line);
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(user.key_file(), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o640);
    let said = user.fail(&["host"]);
    assert!(said.contains("others can read it") && said.contains("chmod 600"), "{said}");
    mode(0o600);
    fs::write(user.key_file(), &*damaged).unwrap();
    let said = user.fail(&["host"]);
    assert!(said.contains("keys/host: this key is damaged"), "{said}");
    assert!(!said.contains(&secret[10..20]), "{said}");
    fs::write(user.0.path().join("config/xknock/hosts.toml"), "host = 1").unwrap();
    assert!(user.fail(&["host"]).contains("hosts.toml:1:"));
}
