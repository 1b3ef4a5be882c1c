//! The probes after each step: strangers, sources whose grants have ended, and those that hold one.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use knock_lab::netns::Netns;
use knock_lab::process::PATIENCE;
use knock_lab::services::connect;

use crate::Soak;
use crate::model::Standing;
use crate::probe::{Target, answering, answering_before_open_ports};
use crate::world::{ALIASES, alias4, alias6};

/// The time that an answer may take at the first attempt. The next SYN would come after a second.
const ANSWER: Duration = Duration::from_millis(900);
/// Attempts, because a queue may lose a packet.
const ATTEMPTS: usize = 3;

const SIDE: [[u16; 8]; 2] = [[0xfd78, 0, 0, 0, 0, 0, 0, 2], [0xfd78, 0, 0, 0, 0, 0, 0, 3]];

impl Soak {
    /// Returns the addresses of the client from which it may knock.
    pub(super) fn client_sources(&self) -> Vec<IpAddr> {
        let client = &self.world.lab.client;
        let aliases = (0..ALIASES).flat_map(|number| [alias4(number), alias6(number)]);
        aliases.chain([client.v4, client.v6]).collect()
    }

    pub(super) fn side_sources() -> [IpAddr; 2] {
        [[10, 78, 0, 2].into(), SIDE[0].into()]
    }

    /// Returns whether the second interface is there and guarded.
    pub(super) fn second_is_watched(&self) -> bool {
        self.world.second.is_some_and(|name| self.model.plan.watches(name))
    }

    /// Returns the address of the server for a source.
    pub(super) fn server_of(&self, source: IpAddr) -> IpAddr {
        let side =
            Self::side_sources().contains(&source) || Self::side_strangers().contains(&source);
        match (side, source.is_ipv4()) {
            (false, true) => self.world.lab.server.v4,
            (false, false) => self.world.lab.server.v6,
            (true, true) => [10, 78, 0, 1].into(),
            (true, false) => [0xfd78, 0, 0, 0, 0, 0, 0, 1].into(),
        }
    }

    fn side_strangers() -> [IpAddr; 2] {
        [[10, 78, 0, 3].into(), SIDE[1].into()]
    }

    /// Checks that strangers are out and granted sources in, as far as the model is certain.
    pub(crate) fn probe(&mut self) -> Result<()> {
        match self.model.enforcing(Instant::now()) {
            Some(true) => {
                let result = self.strangers_are_out();
                // A trial that ended meanwhile let them in.
                if self.model.enforcing(Instant::now()) == Some(true) {
                    result?;
                }
            }
            Some(false) => self.all_are_in()?,
            None => {}
        }
        self.granted_are_in()
    }

    fn targets(&self, sources: impl IntoIterator<Item = IpAddr>) -> Vec<Target> {
        let guarded = self.model.plan.guarded();
        let target = |from| {
            let to = self.server_of(from);
            guarded.iter().map(move |&service| Target { from, to, service: service.to_owned() })
        };
        sources.into_iter().flat_map(target).collect()
    }

    pub(super) fn strangers_are_out(&mut self) -> Result<()> {
        let now = Instant::now();
        let stranger = &self.world.lab.stranger;
        self.are_out(&self.world.lab.stranger, self.targets([stranger.v4, stranger.v6]))?;
        // A source whose grant has ended is a stranger again.
        let mut ended = self.targets(self.client_sources());
        ended.retain(|target| {
            let grant = (target.from, target.service.clone());
            self.model.grants.get(&grant).is_none_or(|end| end.standing(now) == Standing::Over)
        });
        let mut probes = ended.len();
        self.are_out(&self.world.lab.client, ended)?;
        if self.second_is_watched() {
            let strangers = self.targets(Self::side_strangers());
            probes += strangers.len();
            self.are_out(&self.world.side, strangers)?;
        }
        self.tally.probes += probes as u64;
        Ok(())
    }

    fn are_out(&self, netns: &Netns, targets: Vec<Target>) -> Result<()> {
        let mut result = Ok(Vec::new());
        for _ in 0..ATTEMPTS {
            result = answering_before_open_ports(netns, targets.clone(), ANSWER * 2);
            if result.is_ok() {
                break;
            }
        }
        let inside = result.map_err(anyhow::Error::msg)?;
        ensure!(inside.is_empty(), "without a grant get in: {inside:?}");
        Ok(())
    }

    fn all_are_in(&mut self) -> Result<()> {
        let stranger = &self.world.lab.stranger;
        let targets = self.targets([stranger.v4, stranger.v6]);
        let missing = self.not_in(Place::Stranger, targets);
        ensure!(missing.is_empty(), "while observing, but out: {missing:?}");
        Ok(())
    }

    /// Checks that every source of a running grant on one of the hosts is in.
    pub(super) fn granted_are_in(&mut self) -> Result<()> {
        let (client, side) = (self.client_sources(), Self::side_sources());
        let held = |sources: &[IpAddr]| -> Vec<Target> {
            let running = self.model.running(Instant::now());
            let held = running.filter(|(source, _)| sources.contains(source));
            held.map(|(source, service)| Target {
                from: *source,
                to: self.server_of(*source),
                service: service.clone(),
            })
            .collect()
        };
        let (client, side) = (held(&client), held(&side));
        let mut missing = self.not_in(Place::Client, client);
        if self.second_is_watched() {
            missing.extend(self.not_in(Place::Side, side));
        }
        // A grant that ended meanwhile let them in no longer.
        let running: Vec<_> = self.model.running(Instant::now()).collect();
        missing.retain(|target| running.contains(&&(target.from, target.service.clone())));
        ensure!(missing.is_empty(), "with a grant, but out: {missing:?}");
        Ok(())
    }

    /// Returns the targets that do not answer at any of several attempts.
    fn not_in(&mut self, place: Place, targets: Vec<Target>) -> Vec<Target> {
        self.tally.probes += targets.len() as u64;
        let mut missing = targets;
        for attempt in 0..ATTEMPTS {
            if missing.is_empty() {
                break;
            }
            let netns: &Netns = match place {
                Place::Client => &self.world.lab.client,
                Place::Stranger => &self.world.lab.stranger,
                Place::Side => &self.world.side,
            };
            let answered = answering(netns, missing.clone(), ANSWER);
            missing.retain(|target| !answered.contains(target));
            if attempt == 0 {
                self.tally.slow += missing.len() as u64;
            }
        }
        missing
    }

    /// Checks that a connection that a grant let in goes on.
    pub(crate) fn hold_connection(&mut self) -> Result<()> {
        let (client, server) = (&self.world.lab.client, self.world.lab.server.v4);
        let granted = self
            .model
            .running(Instant::now())
            .any(|(source, service)| *source == client.v4 && service == "tcp/22");
        if self.connection.is_none() && granted {
            self.connection = connect(client, server, 22);
        }
        let Some(stream) = &mut self.connection else { return Ok(()) };
        let mut answer = [0; 4];
        stream.set_read_timeout(Some(PATIENCE)).context("a socket option")?;
        stream.write_all(b"ping").context("a running connection is cut")?;
        stream.read_exact(&mut answer).context("a running connection is cut")?;
        Ok(())
    }
}

/// One of the hosts.
#[derive(Clone, Copy)]
enum Place {
    Client,
    Stranger,
    Side,
}
