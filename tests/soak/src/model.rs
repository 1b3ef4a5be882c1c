//! The expected state: the config as it was last written, and the grants with their ends. It does
//! no I/O, and time comes from the caller.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use knock_common::sequence::{Protocol, Step};
use knock_lab::ConfigText;

/// The difference of clocks and timers that a busy machine may cause.
pub(crate) const MARGIN: Duration = Duration::from_millis(1500);

/// The doors there may be: name, services, and two sequences to choose from. The first two
/// begin with the same steps.
const DOORS: [(&str, &[&str], [&str; 2]); 5] = [
    ("ssh", &["tcp/22"], ["tcp/7000,udp/8000,tcp/4500", "udp/7100,tcp/4600,udp/9400"]),
    ("admin", &["tcp/2222"], ["tcp/7000,udp/8000,udp/15000", "tcp/7300,udp/9500,tcp/15100"]),
    ("web", &["tcp/80", "tcp/443"], ["udp/3000,tcp/5000,udp/2000", "tcp/3100,udp/5200,tcp/2300"]),
    ("vpn", &["udp/51820"], ["udp/12000,udp/17000,tcp/11000", "tcp/12100,tcp/17400,udp/11200"]),
    ("mail", &["tcp/25"], ["tcp/6100,udp/9700,tcp/1300", "udp/6200,tcp/9800,udp/1400"]),
];

/// The door that a device with a key opens with one packet.
const VAULT: Door = Door {
    name: "vault",
    opens: &["tcp/993"],
    sequences: [""; 2],
    sequence: 0,
    open_for: Duration::from_secs(16),
    there: true,
};

/// Sizes that the maps of the detector may have.
pub(crate) const SIZES: [u32; 3] = [65_536, 16_384, 4_096];

/// One door of the config.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub name: &'static str,
    pub opens: &'static [&'static str],
    sequences: [&'static str; 2],
    /// The index of the sequence that it has.
    pub sequence: usize,
    pub open_for: Duration,
    /// Whether it is in the config.
    pub there: bool,
}

impl Door {
    /// Returns its sequence as `xknock --steps` takes it.
    pub(crate) const fn steps_text(&self) -> &'static str {
        self.sequences[self.sequence]
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.steps_text().split(',').map(step).collect()
    }
}

fn step(text: &str) -> Step {
    let (protocol, port) = text.split_once('/').expect("a protocol and a port");
    let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
    Step::new(protocol, port.parse().expect("a port"))
}

/// The config.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Doors with sequences.
    pub doors: Vec<Door>,
    /// The door for sealed knocks, which is always there.
    pub vault: Door,
    /// The folder of its keys.
    keys: PathBuf,
    pub enforce: bool,
    /// Whether interfaces are named by a pattern.
    pub pattern: bool,
    pub max_sources: u32,
    pub strays: u8,
}

impl Plan {
    fn new(keys: PathBuf) -> Self {
        let doors = DOORS.into_iter().enumerate().map(|(index, (name, opens, sequences))| Door {
            name,
            opens,
            sequences,
            sequence: 0,
            open_for: Duration::from_secs(12 + 9 * index as u64),
            there: true,
        });
        Self {
            doors: doors.collect(),
            vault: VAULT,
            keys,
            enforce: true,
            pattern: false,
            max_sources: SIZES[0],
            strays: 2,
        }
    }

    /// Returns whether an interface of this name is watched.
    pub(crate) fn watches(&self, interface: &str) -> bool {
        if self.pattern {
            interface.starts_with("eth")
        } else {
            matches!(interface, "eth0" | "eth1")
        }
    }

    /// Returns the doors with sequences that are in the config.
    pub(crate) fn present(&self) -> Vec<Door> {
        self.doors.iter().filter(|door| door.there).cloned().collect()
    }

    /// Returns every service that is guarded.
    pub(crate) fn guarded(&self) -> Vec<&'static str> {
        let doors = self.present().into_iter().chain([self.vault.clone()]);
        doors.flat_map(|door| door.opens).copied().collect()
    }

    fn gives(&self, service: &str) -> bool {
        self.guarded().contains(&service)
    }

    /// Returns the text of the config.
    pub(crate) fn toml(&self) -> String {
        let text = ConfigText::new().top("mode", if self.enforce { "enforce" } else { "observe" });
        let text = match self.pattern {
            true => text.interfaces(["eth*"]),
            false => text.interfaces(["eth0", "eth1"]),
        };
        let text = text.top("max_sources", self.max_sources).top("strays", u32::from(self.strays));
        let text = text.top("late_grants", "1m").top("keys", self.keys.display().to_string());
        let door = |text: ConfigText, door: &Door| {
            let time = format!("{}s", door.open_for.as_secs());
            text.door(door.name, []).in_door("opens", door.opens.to_vec()).open_for(&time)
        };
        let text = self
            .present()
            .iter()
            .fold(text, |text, one| door(text, one).sequence(one.steps_text()).within("2m"));
        door(text, &self.vault).method("sealed").to_string()
    }
}

/// Source and service.
pub(crate) type Grant = (IpAddr, String);

/// When a grant or a trial ends: not before the one, not after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub earliest: Instant,
    pub latest: Instant,
}

/// The state of a grant or a trial at a moment, as far as the model can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Running,
    /// It may have ended just now, or not.
    Near,
    Over,
}

impl End {
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        if now + MARGIN < self.earliest {
            Standing::Running
        } else if now < self.latest + MARGIN {
            Standing::Near
        } else {
            Standing::Over
        }
    }

    /// Returns the least and the most time that may be left in an answer that was `asked` for and has
    /// been `answered` since, with clocks that are at most `margin` off.
    pub(crate) fn left(
        &self,
        (asked, answered): (Instant, Instant),
        margin: Duration,
    ) -> RangeInclusive<Duration> {
        let least = self.earliest.saturating_duration_since(answered + margin);
        let most = self.latest.saturating_duration_since(asked) + margin;
        least..=most
    }
}

/// The expected state.
#[derive(Debug)]
pub(crate) struct Model {
    pub plan: Plan,
    pub grants: BTreeMap<Grant, End>,
    /// When a trial ends.
    pub trial: Option<End>,
    /// Whether a trial was confirmed.
    pub confirmed: bool,
    /// The number of complete sequences that were sent, and of those that cannot have been lost.
    pub sent: u64,
    pub certain: u64,
}

impl Model {
    /// Expects an agent that looks for keys in the folder `keys`.
    pub(crate) fn new(keys: PathBuf) -> Self {
        Self {
            plan: Plan::new(keys),
            grants: BTreeMap::new(),
            trial: None,
            confirmed: false,
            sent: 0,
            certain: 0,
        }
    }

    /// Notes that `source` was granted what `door` opens, at a moment between `since` and `seen`.
    pub(crate) fn earn(
        &mut self,
        door: &Door,
        source: IpAddr,
        lasts: Duration,
        (since, seen): (Instant, Instant),
    ) {
        for service in door.opens {
            let new = End { earliest: since + lasts, latest: seen + lasts };
            let end = self.grants.entry((source, (*service).to_owned())).or_insert(new);
            end.earliest = end.earliest.max(new.earliest);
            end.latest = end.latest.max(new.latest);
        }
    }

    /// Notes such a grant in place of what was running before.
    pub(crate) fn replace(
        &mut self,
        door: &Door,
        source: IpAddr,
        lasts: Duration,
        between: (Instant, Instant),
    ) {
        for service in door.opens {
            self.grants.remove(&(source, (*service).to_owned()));
        }
        self.earn(door, source, lasts, between);
    }

    /// Removes grants that the config does not give any more.
    pub(crate) fn forget_disallowed(&mut self) {
        let plan = &self.plan;
        self.grants.retain(|(_, service), _| plan.gives(service));
    }

    /// Removes grants and trials that ended long ago.
    pub(crate) fn forget_ended(&mut self, now: Instant) {
        self.trial = self.trial.filter(|end| end.standing(now) != Standing::Over);
        self.grants.retain(|_, end| end.standing(now) != Standing::Over);
    }

    /// Returns whether ports are closed to strangers, or `None` if that may be about to change.
    pub(crate) fn enforcing(&self, now: Instant) -> Option<bool> {
        if self.plan.enforce || self.confirmed {
            return Some(true);
        }
        match self.trial.map_or(Standing::Over, |end| end.standing(now)) {
            Standing::Running => Some(true),
            Standing::Near => None,
            Standing::Over => Some(false),
        }
    }

    /// Returns the grants that run for certain.
    pub(crate) fn running(&self, now: Instant) -> impl Iterator<Item = &Grant> {
        let runs = move |(_, end): &(&Grant, &End)| end.standing(now) == Standing::Running;
        self.grants.iter().filter(runs).map(|(grant, _)| grant)
    }
}
