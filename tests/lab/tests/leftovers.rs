//! Nothing of a lab stays on the host: not after a panic, and not after SIGKILL once another
//! process has swept.
//!
//! The processes that end that way are this program once more, with one test: [`victim`].

use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use knock_lab::leftovers::{self, RUN};
use knock_lab::netns::Netns;
use knock_lab::services::eventually;
use knock_lab::unit::OwnUser;
use knock_lab::{Agent, Config, ConfigText, Lab};
use nix::libc;

/// Says how [`victim`] ends.
const END: &str = "XKNOCK_VICTIM";
const READY: &str = "the victim's agents: ";

/// Makes all that a lab can leave, in a process that the other tests start. Otherwise it does
/// nothing.
#[test]
fn victim() {
    let Ok(end) = std::env::var(END) else { return };
    // Field by field, the lab goes first, while its agent runs.
    struct Site {
        _lab: Lab,
        _own_lab: Lab,
        _side: Netns,
        _own: OwnUser,
        agents: [Agent; 2],
    }
    let (lab, own_lab) = (Lab::new(), Lab::new());
    let own_config = Config::new(ConfigText::ssh());
    let own = OwnUser::prepare(&own_lab.server, &own_config);
    let agents =
        [Agent::start(&lab.server, ConfigText::ssh()), own.start(&own_lab.server, own_config)];
    let site = Site { _lab: lab, _own_lab: own_lab, _side: Netns::new("side"), _own: own, agents };
    let [first, second] = site.agents.each_ref().map(|agent| agent.process().id());
    println!("{READY}{first} {second}");
    match end.as_str() {
        "panic" => panic!("the victim panics"),
        "return" => {}
        _ => loop {
            std::thread::park();
        },
    }
}

/// A running victim, and its agents.
struct Victim {
    child: Child,
    agents: Vec<String>,
    /// Stays open, so that the rest of what it prints goes somewhere.
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Victim {
    fn start(end: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "victim", "--nocapture"]).env(END, end).env_remove(RUN);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program runs");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let agents = lines.find_map(|line| {
            let line = line.expect("text");
            let (_, agents) = line.split_once(READY)?;
            Some(agents.split(' ').map(str::to_owned).collect())
        });
        Self { child, agents: agents.expect("the victim gets ready"), _lines: lines }
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it can be waited for")
    }

    /// What is left of it: names, mounts and processes.
    fn left(&self) -> Vec<String> {
        let id = self.child.id();
        let mut left: Vec<_> = leftovers::of_process(id).iter().map(ToString::to_string).collect();
        let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
        let own = format!("/xk{id}-");
        left.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
        // A zombie has ended: whether it is waited for depends on the first process of the host.
        let lives = |agent: &&String| leftovers::lives(agent.parse().expect("an identifier"));
        let agents = self.agents.iter().filter(lives).map(|agent| format!("process {agent}"));
        left.extend(agents);
        left
    }
}

#[test]
fn a_process_that_ends_well_or_in_a_panic_leaves_nothing() {
    for (end, code) in [("return", 0), ("panic", 101)] {
        let mut victim = Victim::start(end);
        assert_eq!(victim.wait().code(), Some(code), "{end}");
        assert_eq!(victim.left(), [""; 0], "{end}");
    }
}

#[test]
fn a_killed_process_leaves_what_the_next_sweep_removes() {
    // That of a living process stays.
    let (lab, config) = (Lab::new(), Config::new(ConfigText::ssh()));
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    let own = leftovers::of_process(std::process::id());
    let mut victim = Victim::start("kill");
    let while_it_lives = victim.left();
    for part in ["/run/netns/", "/sys/fs/bpf/", "/run/xknockd-", "/tmp", " bpf ", "process "] {
        let found = while_it_lives.iter().any(|trace| trace.contains(part));
        assert!(found, "no {part} in {while_it_lives:#?}");
    }
    leftovers::sweep();
    assert_eq!(victim.left(), while_it_lives, "a sweep takes nothing of a living process");
    victim.child.kill().expect("it runs");
    assert_eq!(victim.wait().signal(), Some(libc::SIGKILL));
    // The process that the sweep belongs to might be another one, which runs at the same time.
    eventually("a clean host", || {
        leftovers::sweep();
        victim.left().is_empty()
    });
    assert!(own.iter().all(|trace| leftovers::of_process(std::process::id()).contains(trace)));
    assert!(config.path().exists());
    agent.stop();
}
