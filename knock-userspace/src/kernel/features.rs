//! What xknock needs of the kernel, and which of it a kernel has. Features are probed for;
//! versions are never compared, because vendors bring features to older ones.

mod probe;

use aya::maps::MapType;
use aya::sys::BpfHelper;

use self::Probe::{Anywhere, Apart};
use self::probe::Answer;
use crate::firewall::{Ability, has};

/// The oldest kernel whose releases have everything that the detector needs.
pub(super) const FLOOR: &str = if cfg!(target_arch = "aarch64") { "5.18" } else { "5.15" };

/// Since when there is compare-and-swap; each architecture's compiler had to learn it.
const SWAP: (&str, &str) =
    if cfg!(target_arch = "aarch64") { ("5.18", "1902472b4fa9") } else { ("5.12", "5ffa25502b5a") };

/// Which part of xknock asks for a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The program in the kernel.
    Detector,
    /// The firewall table.
    Guard,
    /// The process in user space.
    Agent,
    /// What tests and benchmark do with the program.
    Tests,
}

/// Something that not every kernel has.
#[derive(Debug)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// Who needs it.
    pub part: Part,
    /// What for.
    pub needed_for: &'static str,
    /// First version of Linux that has it.
    pub since: &'static str,
    /// The commit that brought it.
    pub commit: &'static str,
    /// What is done where it is missing; none if nothing can take its place.
    pub instead: Option<&'static str>,
    probe: Probe,
}

/// How the running kernel is asked.
#[derive(Debug)]
enum Probe {
    /// By a call that touches nothing.
    Anywhere(fn() -> Answer),
    /// By trying it in a network namespace made for that.
    Apart(fn() -> Answer),
}

/// Whether the running kernel has a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Present,
    /// It has not.
    Absent,
    /// It did not tell, for this reason.
    Unknown(String),
}

impl Feature {
    /// Asks the running kernel.
    pub fn presence(&self) -> Presence {
        let answer = match self.probe {
            Anywhere(ask) => ask(),
            Apart(ask) => probe::apart(ask),
        };
        match answer {
            Ok(true) => Presence::Present,
            Ok(false) => Presence::Absent,
            Err(why) => Presence::Unknown(why),
        }
    }
}

/// All of them: the detector's in the order in which Linux got them, then the guard's and
/// those that only tests use.
pub static FEATURES: [Feature; 16] = [
    Feature {
        name: "LRU hash maps",
        part: Part::Detector,
        needed_for: "progress past the first step",
        since: "4.10",
        commit: "29ba732acbee",
        instead: None,
        probe: Anywhere(|| probe::map(MapType::LruHash)),
    },
    Feature {
        name: "arrays that begin at a page",
        part: Part::Detector,
        needed_for: "first steps, one cache line each",
        since: "5.5",
        commit: "fc9702273e2e",
        instead: None,
        probe: Anywhere(probe::mappable_array),
    },
    Feature {
        name: "jiffies for BPF",
        part: Part::Detector,
        needed_for: "the age of progress",
        since: "5.6",
        commit: "5576b991e9c1",
        instead: None,
        probe: Anywhere(|| probe::helper(BpfHelper::BPF_FUNC_jiffies64)),
    },
    Feature {
        name: "the BPF ring buffer",
        part: Part::Detector,
        needed_for: "completed knocks, on their way to the agent",
        since: "5.8",
        commit: "457f44363a88",
        instead: None,
        probe: Anywhere(|| probe::map(MapType::RingBuf)),
    },
    Feature {
        name: "XDP links",
        part: Part::Detector,
        needed_for: "a detector that goes on without the agent, and gives way to the next one",
        since: "5.9",
        commit: "aa8d3a716b59",
        instead: None,
        probe: Apart(probe::xdp_link),
    },
    Feature {
        name: "the coarse clock for BPF",
        part: Part::Detector,
        needed_for: "when a knock was completed",
        since: "5.11",
        commit: "d05512618056",
        instead: None,
        probe: Anywhere(|| probe::helper(BpfHelper::BPF_FUNC_ktime_get_coarse_ns)),
    },
    Feature {
        name: "compare-and-swap in BPF",
        part: Part::Detector,
        needed_for: "packets of one source on several CPUs",
        since: SWAP.0,
        commit: SWAP.1,
        instead: None,
        probe: Anywhere(probe::compare_and_swap),
    },
    Feature {
        name: "XDP for frames in several buffers",
        part: Part::Detector,
        needed_for: "jumbo frames in the driver",
        since: "5.18",
        commit: "c2f2cdbeffda",
        instead: Some(
            "a program for one buffer; drivers refuse it at large MTUs, generic mode does not",
        ),
        probe: Anywhere(probe::frags),
    },
    Feature {
        name: "nftables for both families",
        part: Part::Guard,
        needed_for: "the guard",
        since: "3.14",
        commit: "1d49144c0aaa",
        instead: None,
        probe: Apart(|| has(Ability::Tables)),
    },
    Feature {
        name: "new time-outs for set elements",
        part: Part::Guard,
        needed_for: "grants that are extended",
        since: "6.12",
        commit: "4201f3938914",
        instead: Some("adding, deleting and adding again in one transaction, on every kernel"),
        probe: Apart(|| has(Ability::NewTimeouts)),
    },
    Feature {
        name: "tables with an owner",
        part: Part::Guard,
        needed_for: "nothing yet: a table that others cannot flush",
        since: "5.12",
        commit: "6001a930ce03",
        instead: Some("the agent restores a table that was flushed"),
        probe: Apart(|| has(Ability::Owner)),
    },
    Feature {
        name: "owned tables that persist",
        part: Part::Guard,
        needed_for: "nothing yet: the same, and the ports stay closed without the agent",
        since: "6.9",
        commit: "da5141bbe0c2",
        instead: Some("a table without an owner, which outlives the agent"),
        probe: Apart(|| has(Ability::Persist)),
    },
    Feature {
        name: "reject before routing",
        part: Part::Guard,
        needed_for: "nothing yet: a guard that answers as a closed port does",
        since: "5.9",
        commit: "f53b9b0bdc59",
        instead: Some("a guard that drops"),
        probe: Apart(|| has(Ability::Reject)),
    },
    Feature {
        name: "Landlock",
        part: Part::Agent,
        needed_for: "an agent that reaches no files but its own",
        since: "5.13",
        commit: "385975dca53e",
        instead: Some("an agent that is restricted to fewer system calls and capabilities only"),
        probe: Anywhere(probe::landlock),
    },
    Feature {
        name: "test runs with a context",
        part: Part::Tests,
        needed_for: "floods in tests: by which interface",
        since: "5.15",
        commit: "47316f4a3053",
        instead: Some("nothing: those tests fail"),
        probe: Anywhere(probe::context),
    },
    Feature {
        name: "test runs that send frames",
        part: Part::Tests,
        needed_for: "floods in tests: the frames",
        since: "5.18",
        commit: "b530e9e1063e",
        instead: Some("nothing: those tests fail"),
        probe: Apart(probe::live_frames),
    },
];

/// What the detector needs and the running kernel lacks, each with the version that
/// brought it. A probe that fails to answer does not count as a lack: the kernel's own
/// error then says more.
///
/// An agent that has given up its rights must not even try to make a namespace, so what
/// takes one is left out. Of that, the detector needs XDP links alone, and a kernel without
/// them has no compare-and-swap either.
pub(super) fn missing() -> Vec<String> {
    let needed = FEATURES.iter().filter(|feature| {
        let harmless = matches!(feature.probe, Anywhere(_));
        feature.part == Part::Detector && feature.instead.is_none() && harmless
    });
    let lacking = needed.filter(|feature| feature.presence() == Presence::Absent);
    let named = |feature: &Feature| {
        format!("{} (since Linux {}, {})", feature.name, feature.since, feature.commit)
    };
    lacking.map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> (u32, u32) {
        let (major, minor) = text.split_once('.').expect("major.minor");
        (major.parse().unwrap(), minor.parse().unwrap())
    }

    #[test]
    fn what_has_no_substitute_is_at_the_floor_or_below_it() {
        for feature in FEATURES.iter().filter(|feature| feature.instead.is_none()) {
            assert!(version(feature.since) <= version(FLOOR), "{}", feature.name);
        }
    }

    #[test]
    fn every_commit_can_be_looked_up() {
        for feature in &FEATURES {
            let hex = feature.commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(hex && feature.commit.len() == 12, "{}", feature.name);
        }
    }
}
