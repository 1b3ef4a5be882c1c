//! The messages to systemd (sd_notify(3)).

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use knock_lab::agent::xknockd;
use knock_lab::leftovers;
use knock_lab::process::PATIENCE;
use knock_lab::{Agent, Config, ConfigText, Lab};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

/// The socket that a supervisor listens on.
struct Supervisor {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let folder = leftovers::folder();
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        Self { socket, folder }
    }

    /// Starts an agent that may be silent for as long as `watchdog`.
    fn start(&self, lab: &Lab, watchdog: Option<Duration>) -> Agent {
        let config = Config::new(ConfigText::ssh());
        let mut command = xknockd(&lab.server);
        command.arg("run").arg("--config").arg(config.path());
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Agent::spawn(command, config)
    }

    /// Returns the lines of the next message.
    fn next_message(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = loop {
            match self.socket.recv(&mut buffer) {
                // A socket with a time limit does not restart after a stop (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.expect("a message in time"),
            }
        };
        let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }
}

fn monotonic_usec() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock")).as_micros()
}

#[test]
fn systemd_hears_of_start_reload_and_stop() {
    let lab = Lab::new();
    let supervisor = Supervisor::new();
    let agent = supervisor.start(&lab, None);
    assert_eq!(supervisor.next_message(), ["READY=1"]);
    // A config that is wrong is a reload too: otherwise systemd would wait until a time-out.
    for text in [ConfigText::ssh().open_for("1m").to_string(), String::new()] {
        agent.rewrite_config(&text);
        let before = monotonic_usec();
        agent.process().signal(Signal::SIGHUP);
        let reloading = supervisor.next_message();
        assert_eq!(reloading[0], "RELOADING=1");
        let began = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("when it began");
        let began: u128 = began.parse().expect("a number");
        assert!((before..=monotonic_usec()).contains(&began), "{began} is after {before}");
        assert_eq!(supervisor.next_message(), ["READY=1"]);
    }
    agent.process().signal(Signal::SIGTERM);
    assert_eq!(supervisor.next_message(), ["STOPPING=1"]);
    agent.process_ends();
}

#[test]
fn the_watchdog_hears_from_an_agent_that_lives_and_not_from_one_that_hangs() {
    const LIMIT: Duration = Duration::from_secs(1);
    let lab = Lab::new();
    let supervisor = Supervisor::new();
    let agent = supervisor.start(&lab, Some(LIMIT));
    assert_eq!(supervisor.next_message(), ["READY=1"]);
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(supervisor.next_message(), ["WATCHDOG=1"]);
    }
    assert!(begun.elapsed() < LIMIT * 3, "{:?}", begun.elapsed());
    agent.process().signal(Signal::SIGSTOP);
    supervisor.socket.set_nonblocking(true).expect("a socket option");
    while supervisor.socket.recv(&mut [0; 64]).is_ok() {}
    supervisor.socket.set_nonblocking(false).expect("a socket option");
    supervisor.socket.set_read_timeout(Some(LIMIT)).expect("a socket option");
    assert!(supervisor.socket.recv(&mut [0; 64]).is_err(), "who hangs says nothing");
    agent.process().signal(Signal::SIGCONT);
    supervisor.socket.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    assert_eq!(supervisor.next_message(), ["WATCHDOG=1"]);
    agent.stop();
}
