//! Every command of `xknock` with a standard output or standard error that nothing reads.

use std::io::{self, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knock_keys::{Key, KeyLine, Kind};
use knock_output::READER_GONE;
use tempfile::TempDir;

/// The length of a sealed packet.
const SEALED: usize = 184;

/// A user with a key for a door that this process opens.
struct User {
    home: TempDir,
    udp: UdpSocket,
    port: u16,
    line: KeyLine,
}

impl User {
    fn new() -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        udp.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        let knocks = udp.local_addr().expect("an address").port();
        let door = format!("ssh:sealed:{knocks}:own:30:tcp/{port}").parse().expect("a door");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let host = "127.0.0.1".to_owned();
        let drawn = Key::draw("laptop".into(), host, Kind::Shared, vec![door], now, None, None);
        let (_, line) = drawn.expect("random bytes");
        Self { home: TempDir::new().expect("a folder"), udp, port, line }
    }

    fn xknock(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xknock"));
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").expect("a path"));
        command.env("HOME", self.home.path()).env("XDG_CONFIG_HOME", self.home.path().join("c"));
        command.env("XDG_STATE_HOME", self.home.path().join("s")).stdin(Stdio::null());
        command
    }

    fn import(&self) {
        let output = self.xknock(&["import", &self.line.to_text(), "--as", "host"]).output();
        assert!(output.expect("xknock runs").status.success());
    }

    /// Opens the door after one knock, and writes a line to the first that connects and stays.
    fn serve(&self) -> JoinHandle<()> {
        let (udp, port) = (self.udp.try_clone().expect("a socket"), self.port);
        thread::spawn(move || {
            assert_eq!(udp.recv(&mut [0; 256]).expect("a knock"), SEALED);
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.write_all(b"hello\n");
        })
    }
}

/// The writing end of a pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn without_stdout(mut command: Command) -> Output {
    let child = command.stdout(closed()).stderr(Stdio::piped()).spawn().expect("xknock runs");
    child.wait_with_output().expect("its end")
}

fn without_stderr(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(closed()).spawn().expect("xknock runs");
    child.wait_with_output().expect("its end")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_command_ends_quietly_when_nothing_reads_its_output() {
    let user = User::new();
    user.import();
    let line = user.line.to_text();
    for (arguments, gone, deaf) in [
        (&["--help"][..], READER_GONE, 0),
        (&["--version"], READER_GONE, 0),
        (&["import", "--help"], READER_GONE, 0),
        (&["help", "proxy"], READER_GONE, 0),
        (&["import", &line, "--as", "host"], READER_GONE, 0),
        // These print to standard error, if anything.
        (&["127.0.0.1", "--steps", "udp/9", "--verbose"], 0, 0),
        (&["host", "--close", "--verbose"], 0, 0),
        (&["127.0.0.1", "udp/9", "--wait", "tcp/9", "--timeout", "100ms"], 1, 1),
        (&["proxy", "elsewhere", "22"], 1, 1),
        (&["127.0.0.1", "--gap", "soon"], 2, 2),
    ] {
        let output = without_stdout(user.xknock(arguments));
        assert_eq!(output.status.code(), Some(gone.into()), "{arguments:?}: {}", stderr(&output));
        let said = stderr(&output);
        assert!(!said.contains("panicked") && !said.contains("Broken"), "{arguments:?}: {said}");
        let output = without_stderr(user.xknock(arguments));
        assert_eq!(output.status.code(), Some(deaf), "{arguments:?}");
    }
}

#[test]
fn a_proxy_whose_output_nothing_reads_ends_quietly() {
    let user = User::new();
    user.import();
    let serving = user.serve();
    let output = without_stdout(user.xknock(&["proxy", "host", &user.port.to_string()]));
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(READER_GONE.into()), ""));
    serving.join().expect("a server");
}

#[test]
fn a_command_behind_the_door_meets_the_closed_pipe_itself_and_the_door_is_closed() {
    let user = User::new();
    user.import();
    for (then, expected) in [("exit 3", 3), ("echo hello; echo again; exit 3", 141)] {
        for close_stdout in [true, false] {
            let serving = user.serve();
            let xknock = user.xknock(&["host", "--verbose", "--close", "--then", "sh", "-c", then]);
            let (output, expected) = match close_stdout {
                true => (without_stdout(xknock), expected),
                false => (without_stderr(xknock), 3),
            };
            assert_eq!(output.status.code(), Some(expected), "{then}: {}", stderr(&output));
            serving.join().expect("a server");
            assert_eq!(user.udp.recv(&mut [0; 256]).expect("the packet that closes"), SEALED);
        }
    }
}
