//! The hosts, the agent on one of them, and the operations on both from outside.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use knock_lab::agent::{program, xknockd};
use knock_lab::lab::SERVER_PORT;
use knock_lab::netns::Netns;
use knock_lab::process::{PATIENCE, Process};
use knock_lab::services::Echo;
use knock_lab::{Config, Lab};
use knock_userspace::instance_paths::InstancePaths;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::probe::OPEN_PORT;

/// Ports with a service behind them.
const SERVED: [u16; 8] = [22, 25, 80, 443, 993, 2222, 51820, OPEN_PORT];
/// The number of addresses of each family that the client has besides its own.
pub(crate) const ALIASES: u8 = 12;
/// Lines of the log that are shown when something is wrong.
const TAIL: usize = 40;

pub(crate) struct World {
    pub lab: Arc<Lab>,
    /// A host on a second interface of the server, which comes and goes.
    pub side: Netns,
    /// The present name of that interface, if it is there.
    pub second: Option<&'static str>,
    /// The packets that it had received when it was removed, over all removals.
    pub gone_packets: u64,
    agent: Option<Process>,
    pub config: Config,
    tail: VecDeque<String>,
    _services: Vec<Echo>,
}

/// The packets that the server's interfaces have received, as their drivers count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wire {
    pub first: u64,
    pub all: u64,
}

impl World {
    pub(crate) fn new(config: &str) -> Self {
        let lab = Arc::new(Lab::new());
        let side = Netns::new("side");
        for netns in [&side, &*lab.server] {
            netns.sh("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        }
        for number in 0..ALIASES {
            lab.client.ip(&format!("address add {}/24 dev eth0", alias4(number)));
            // Deprecated, so that the client chooses its own address by itself.
            let address = alias6(number);
            lab.client.ip(&format!("address add {address}/64 dev eth0 nodad preferred_lft 0"));
        }
        let services = SERVED.map(|port| Echo::start(&lab.server, port)).into();
        let mut world = Self {
            lab,
            side,
            second: None,
            gone_packets: 0,
            agent: None,
            config: Config::new(config),
            tail: VecDeque::new(),
            _services: services,
        };
        world.add_second(None);
        world
    }

    // The second interface.

    /// Adds the second interface, with this index if one is given.
    pub(crate) fn add_second(&mut self, index: Option<u64>) {
        let peer = format!("peer name eth0 netns {}", self.side.name());
        let index = index.map_or(String::new(), |index| format!("index {index}"));
        self.lab.server.ip(&format!("link add eth1 {index} type veth {peer}"));
        self.second = Some("eth1");
        self.raise_second();
    }

    /// Sets the second interface up, and its addresses, which some changes take away.
    pub(crate) fn raise_second(&self) {
        let Some(name) = self.second else { return };
        let ends = [(&*self.lab.server, name, vec![1]), (&self.side, "eth0", vec![2, 3])];
        for (netns, name, numbers) in ends {
            for number in numbers {
                netns.ip(&format!("address replace 10.78.0.{number}/24 dev {name}"));
                let preferred = if number == 3 { "preferred_lft 0" } else { "" };
                let address = format!("fd78::{number}/64 dev {name} nodad {preferred}");
                netns.ip(&format!("address replace {address}"));
            }
            netns.ip(&format!("link set {name} up"));
        }
    }

    /// Removes the second interface and returns its index.
    pub(crate) fn remove_second(&mut self) -> Option<u64> {
        let name = self.second.take()?;
        let found = self.interfaces().into_iter().find(|(_, found)| found == name);
        self.lab.server.ip(&format!("link set {name} down"));
        self.gone_packets += self.received(name);
        self.lab.server.ip(&format!("link delete {name}"));
        found.map(|(index, _)| index)
    }

    /// Renames the second interface.
    pub(crate) fn rename_second(&mut self, name: &'static str) {
        let Some(before) = self.second else { return };
        self.lab.server.ip(&format!("link set {before} down"));
        self.lab.server.ip(&format!("link set {before} name {name}"));
        self.second = Some(name);
        self.raise_second();
    }

    // What the drivers count.

    fn received(&self, name: &str) -> u64 {
        statistics(&self.lab.server, name)["rx"]["packets"].as_u64().unwrap_or(0)
    }

    pub(crate) fn wire(&self) -> Wire {
        let first = self.received("eth0");
        let second = self.second.map_or(0, |name| self.received(name));
        Wire { first, all: first + second + self.gone_packets }
    }

    /// Returns the number of frames that the server's queue had no room for.
    pub(crate) fn dropped(&self) -> u64 {
        statistics(self.lab.switch(), SERVER_PORT)["tx"]["dropped"].as_u64().unwrap_or(0)
    }

    /// Returns index and name of each interface of the server.
    pub(crate) fn interfaces(&self) -> Vec<(u64, String)> {
        let all = json(&self.lab.server.ip("-json link show")).unwrap_or_default();
        let one =
            |link: &Value| Some((link["ifindex"].as_u64()?, link["ifname"].as_str()?.to_owned()));
        all.as_array().into_iter().flatten().filter_map(one).collect()
    }

    /// Returns the identifier of the program at the first interface.
    pub(crate) fn attached_program(&self) -> Result<u32> {
        let link = json(&self.lab.server.ip("-json link show dev eth0"))?;
        let id = link[0]["xdp"]["prog"]["id"].as_u64().context("no program at eth0")?;
        Ok(u32::try_from(id)?)
    }

    // The agent.

    pub(crate) fn paths(&self) -> InstancePaths {
        InstancePaths::of(self.lab.server.name())
    }

    pub(crate) const fn runs(&self) -> bool {
        self.agent.is_some()
    }

    pub(crate) fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("the agent does not run")
    }

    pub(crate) fn write_config(&self, text: &str) -> Result<()> {
        fs::write(self.config.path(), text).context("the config is written")
    }

    fn launch(&self) -> Process {
        let mut command = xknockd(&self.lab.server);
        Process::start(command.arg("run").arg("--config").arg(self.config.path()))
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_while(PATIENCE, |_| {})
    }

    /// Starts the agent, and does `work` again and again until the agent is ready, with waits of at
    /// most `pause` in between.
    pub(crate) fn start_while(
        &mut self,
        pause: Duration,
        mut work: impl FnMut(&mut Self),
    ) -> Result<()> {
        let mut process = self.launch();
        let deadline = Instant::now() + PATIENCE;
        loop {
            work(self);
            let error = loop {
                match process.next_line(pause) {
                    Ok(line) if line.contains("\"message\":\"ready\"") => {
                        self.agent = Some(process);
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            if error == RecvTimeoutError::Disconnected || Instant::now() > deadline {
                self.keep_tail(process.seen());
                bail!("the agent does not get ready: {error}");
            }
        }
    }

    /// Starts the agent with a wrong config and checks that it refuses to run.
    pub(crate) fn start_in_vain(&mut self) -> Result<()> {
        let (status, log) = self.launch().wait();
        self.keep_tail(&log);
        ensure!(status.code() == Some(1), "with a wrong config the agent ends with 1: {status}");
        Ok(())
    }

    /// Starts the agent and ends it after `jitter`, in whatever stage it is then.
    pub(crate) fn start_and_end(&mut self, jitter: Duration, signal: Signal) {
        let mut process = self.launch();
        let deadline = Instant::now() + jitter;
        while process.next_line(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        process.signal(signal);
        let (_, log) = process.wait();
        self.keep_tail(&log);
    }

    /// Ends the agent with a signal and returns all that it logged.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<Vec<String>> {
        let process = self.agent.take().context("the agent does not run")?;
        process.signal(signal);
        self.after_end(process, signal == Signal::SIGTERM)
    }

    /// Waits for the end of the agent, which something else has caused.
    pub(crate) fn await_end(&mut self) -> Result<()> {
        let process = self.agent.take().context("the agent does not run")?;
        self.after_end(process, true).map(drop)
    }

    fn after_end(&mut self, process: Process, well: bool) -> Result<Vec<String>> {
        let (status, log) = process.wait();
        self.keep_tail(&log);
        ensure!(!well || status.success(), "the agent ends with {status}");
        Ok(log)
    }

    fn keep_tail(&mut self, log: &[String]) {
        self.tail.extend(log.iter().skip(log.len().saturating_sub(TAIL)).cloned());
        self.tail.push_back("--- the agent ended".to_owned());
        self.tail.drain(..self.tail.len().saturating_sub(2 * TAIL));
    }

    /// Returns the last lines of the logs of all agents.
    pub(crate) fn tail(&mut self) -> Vec<String> {
        let mut tail: Vec<_> = self.tail.iter().cloned().collect();
        if let Some(agent) = &mut self.agent {
            tail.extend(agent.seen().iter().cloned());
        }
        tail.split_off(tail.len().saturating_sub(2 * TAIL))
    }

    // The command lines.

    /// Runs `xknockd` with these words and returns its output.
    pub(crate) fn xknockd(&self, words: &[&str]) -> Result<Output> {
        let server = &self.lab.server;
        let mut command = server.command("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(program("xknockd")).args(words);
        command.env_remove("RUST_LOG").env_remove("SSH_CONNECTION");
        let output = command.env("XKNOCKD_INSTANCE", server.name()).output();
        output.context("timeout(1) runs")
    }

    /// Runs `xknockd`, which must succeed, and returns what it printed.
    pub(crate) fn verb(&self, words: &[&str]) -> Result<String> {
        let output = self.xknockd(words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`xknockd {}` fails: {said}", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a verb with `--json` and returns its answer.
    pub(crate) fn asked(&self, what: &str) -> Result<Value> {
        json(&self.verb(&[what, "--json"])?)
    }

    pub(crate) fn config_path(&self) -> String {
        let path: PathBuf = self.config.path();
        path.display().to_string()
    }

    /// Sends `steps` with the project's own client.
    pub(crate) fn xknock(&self, from: &Netns, to: IpAddr, steps: &str) -> Result<()> {
        let mut command = from.command(program("xknock"));
        command.arg(to.to_string()).args(["--steps", steps, "--gap", "5ms"]);
        let output = command.output().context("xknock runs")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "xknock fails: {said}");
        Ok(())
    }

    /// Returns the indices of interfaces for which a link is pinned.
    pub(crate) fn links(&self) -> BTreeSet<u64> {
        let folder = fs::read_dir(self.paths().pins.join("links"));
        let name = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        folder.into_iter().flatten().flatten().filter_map(name).collect()
    }
}

pub(crate) fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))
}

fn statistics(netns: &Netns, interface: &str) -> Value {
    let text = netns.ip(&format!("-statistics -json link show dev {interface}"));
    json(&text).map_or(Value::Null, |value| value[0]["stats64"].clone())
}

/// Returns a further IPv4 address of the client.
pub(crate) fn alias4(number: u8) -> IpAddr {
    [10, 77, 0, 10 + number].into()
}

/// Returns a further IPv6 address of the client.
pub(crate) fn alias6(number: u8) -> IpAddr {
    [0xfd77, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number)].into()
}
