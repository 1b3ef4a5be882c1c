//! Knocks and floods.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use knock_common::sequence::{Protocol, Step};
use knock_common::traffic::Pattern;
use knock_lab::process::PATIENCE;
use knock_lab::{Packet, wire};
use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use crate::model::Door;
use crate::{Soak, check, one_in};

/// Sources of floods: 16.0.0.0/4, 32.0.0.0/4 and so on, one for each kind of flood. Otherwise
/// one flood's second steps and the next one's third would be knocks.
const FLOODS: [u32; 4] = [0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000];
/// Bits of these that vary.
const VARYING: u32 = 0x0fff_ffff;
/// The time by which a grant may seem to end sooner than expected.
const TOLERANCE: Duration = Duration::from_millis(200);
/// Attempts while a flood may fill queues.
const ATTEMPTS: usize = 12;

/// A knock: its source, its door, and when it began.
#[derive(Clone, Debug)]
pub(super) struct Knock {
    pub source: IpAddr,
    pub door: Door,
    pub since: Instant,
}

impl Soak {
    pub(super) fn a_door(&mut self) -> Result<Door> {
        let doors = self.model.plan.present();
        doors.choose(&mut self.rng).cloned().context("there is always a door")
    }

    fn a_source(&mut self) -> Result<IpAddr> {
        self.client_sources().choose(&mut self.rng).copied().context("there are sources")
    }

    /// Returns knocks of several sources, each at a door of its own.
    pub(super) fn some_knocks(&mut self, most: usize) -> Result<Vec<Knock>> {
        let mut sources = self.client_sources();
        sources.shuffle(&mut self.rng);
        sources.truncate(self.rng.random_range(1..=most));
        let since = Instant::now();
        sources
            .into_iter()
            .map(|source| Ok(Knock { source, door: self.a_door()?, since }))
            .collect()
    }

    /// Returns the frames of all these knocks, first steps first, so that they interleave.
    pub(super) fn frames(&self, knocks: &[Knock]) -> Vec<Vec<u8>> {
        let longest = knocks.iter().map(|knock| knock.door.steps().len()).max().unwrap_or(0);
        (0..longest).flat_map(|at| self.frames_of_step(knocks, at)).collect()
    }

    fn frames_of_step(&self, knocks: &[Knock], at: usize) -> Vec<Vec<u8>> {
        let server = &self.world.lab.server;
        let frame = |knock: &Knock| {
            Some(Packet::to(server, knock.source).knock(*knock.door.steps().get(at)?))
        };
        knocks.iter().filter_map(frame).collect()
    }

    /// Counts complete sequences that were sent and cannot have been lost.
    pub(super) fn count_certain(&mut self, knocks: usize) {
        self.model.sent += knocks as u64;
        self.model.certain += knocks as u64;
        self.tally.knocks += knocks as u64;
    }

    fn count_uncertain(&mut self, knocks: usize) {
        self.model.sent += knocks as u64;
        self.tally.knocks += knocks as u64;
    }

    /// Waits until the agent lists the grants of these knocks. Returns false if it does not in
    /// time.
    pub(super) fn granted_within(&mut self, knocks: &[Knock], limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let asked = Instant::now();
            let grants = self.world.asked("grants")?;
            let grants: Vec<_> =
                grants.as_array().into_iter().flatten().filter_map(check::agent_grant).collect();
            let granted = |knock: &Knock| {
                let end = (knock.since + knock.door.open_for).checked_sub(TOLERANCE);
                let left = end.map(|end| end.saturating_duration_since(asked));
                knock.door.opens.iter().all(|service| {
                    grants.iter().any(|((source, opened), seconds)| {
                        *source == knock.source && opened == service && Some(*seconds) >= left
                    })
                })
            };
            if knocks.iter().all(granted) {
                let now = Instant::now();
                for Knock { source, door, since } in knocks {
                    self.model.earn(door, *source, door.open_for, (*since, now));
                }
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
        }
    }

    /// Waits for the grants of knocks of which none can have been lost.
    pub(super) fn must_be_granted(&mut self, knocks: &[Knock]) -> Result<()> {
        if self.granted_within(knocks, PATIENCE)? {
            return Ok(());
        }
        let grants = self.world.asked("grants")?;
        bail!("not all of these opened: {knocks:?}; there are {grants}")
    }

    fn knocked(&mut self, knocks: &[Knock]) -> Result<String> {
        self.must_be_granted(knocks)?;
        let text = knocks.iter().map(|knock| format!("{} by {}", knock.door.name, knock.source));
        Ok(text.collect::<Vec<_>>().join(", "))
    }

    pub(super) fn knock_with_client(&mut self) -> Result<String> {
        let client = &self.world.lab.client;
        let source = if one_in(&mut self.rng, 2) { client.v4 } else { client.v6 };
        let knock = Knock { source, door: self.a_door()?, since: Instant::now() };
        let client = &self.world.lab.client;
        self.world.xknock(client, self.server_of(source), knock.door.steps_text())?;
        self.count_certain(1);
        self.knocked(&[knock])
    }

    pub(super) fn knock_at_second(&mut self) -> Result<String> {
        if !self.second_is_watched() {
            return Ok("it is not there".to_owned());
        }
        let source = *Self::side_sources().choose(&mut self.rng).context("there are two")?;
        let knock = Knock { source, door: self.a_door()?, since: Instant::now() };
        let steps = knock.door.steps_text();
        self.world.xknock(&self.world.side, self.server_of(source), steps)?;
        self.count_certain(1);
        self.knocked(&[knock])
    }

    pub(super) fn knock_with_frames(&mut self) -> Result<String> {
        let knocks = self.some_knocks(8)?;
        wire::send(&self.world.lab.client, self.frames(&knocks));
        self.count_certain(knocks.len());
        self.knocked(&knocks)
    }

    /// Sends some steps, lets something happen to the agent, and sends the rest: the knock counts.
    pub(super) fn half_a_knock(&mut self) -> Result<String> {
        let knocks = self.some_knocks(4)?;
        let first = self.rng.random_range(1..3);
        let steps: Vec<_> = (0..3).map(|at| self.frames_of_step(&knocks, at)).collect();
        wire::send(&self.world.lab.client, steps[..first].concat());
        let doors: Vec<_> = knocks.iter().map(|knock| knock.door.name).collect();
        let between = self.happen_between(&doors)?;
        let since = Instant::now();
        wire::send(&self.world.lab.client, steps[first..].concat());
        self.count_certain(knocks.len());
        let knocks: Vec<_> = knocks.into_iter().map(|knock| Knock { since, ..knock }).collect();
        Ok(format!("{between}; {}", self.knocked(&knocks)?))
    }

    /// Starts to send frames that open nothing.
    fn begin_flood(&mut self) -> Result<(Flood, u32, &'static str)> {
        let doors = self.model.plan.present();
        let steps = doors.choose(&mut self.rng).context("there is always a door")?.steps();
        let stray = Step::new(Protocol::Tcp, steps[0].port + 1);
        let [first, second, wrong, noise] = FLOODS;
        let patterns = [
            ("first steps", Pattern::new(first, VARYING, true, &steps[..1])),
            ("first and second steps", Pattern::new(second, VARYING, false, &steps[..2])),
            ("wrong steps", Pattern::new(wrong, VARYING, true, &[steps[2], stray])),
            ("noise", Pattern::new(noise, VARYING, true, &[])),
        ];
        let (name, pattern) = *patterns.choose(&mut self.rng).context("there are four")?;
        let count = self.rng.random_range(5_000..60_000);
        self.tally.frames += u64::from(count);
        let lab = Arc::clone(&self.world.lab);
        Ok((Flood::start(move || lab.generate(pattern, count)), count, name))
    }

    pub(super) fn flood(&mut self) -> Result<String> {
        let (before, dropped) = (self.world.wire(), self.world.dropped());
        let (flood, count, name) = self.begin_flood()?;
        flood.end()?;
        let lost = self.world.dropped() - dropped;
        let arrived = self.world.wire().first - before.first;
        ensure!(
            arrived + lost >= u64::from(count),
            "of {count} frames {arrived} arrived and {lost} were lost on the way"
        );
        Ok(format!("{count} frames, {name}"))
    }

    /// Lets something happen during a flood. A knock that is lost in a full queue is repeated.
    pub(super) fn flood_and_more(&mut self) -> Result<String> {
        let (flood, count, name) = self.begin_flood()?;
        let happened = if one_in(&mut self.rng, 2) {
            self.knock_until_granted()
        } else {
            self.happen_between(&[])
        };
        flood.end()?;
        Ok(format!("{count} frames, {name}; {}", happened?))
    }

    fn knock_until_granted(&mut self) -> Result<String> {
        let source = self.a_source()?;
        let knock = Knock { source, door: self.a_door()?, since: Instant::now() };
        let frames = self.frames(std::slice::from_ref(&knock));
        for attempt in 1..=ATTEMPTS {
            wire::send(&self.world.lab.client, frames.clone());
            self.count_uncertain(1);
            if self.granted_within(std::slice::from_ref(&knock), Duration::from_secs(2))? {
                return Ok(format!("{} by {source} at attempt {attempt}", knock.door.name));
            }
        }
        bail!("{ATTEMPTS} knocks on {} by {source} during a flood did not open it", knock.door.name)
    }
}

/// Frames that another thread sends. The thread holds the lab, which could not be removed if it
/// were left alone, so a drop waits for it, in a panic too.
struct Flood(Option<JoinHandle<()>>);

impl Flood {
    fn start(send: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(std::thread::spawn(send)))
    }

    /// Waits until all frames are sent.
    fn end(mut self) -> Result<()> {
        let sent = self.0.take().map_or(Ok(()), JoinHandle::join);
        sent.map_err(|_| anyhow::anyhow!("the flood failed"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}
