//! The kernel features that xknock needs, and which of them the running kernel has. Features are
//! probed for. Versions are never compared, because vendors bring features to older ones.

mod probe;

use aya::maps::MapType;
use aya::sys::BpfHelper;

use self::Probe::{Anywhere, Apart};

/// The oldest kernel whose releases have everything that the detector needs.
pub const FLOOR: &str = if cfg!(target_arch = "aarch64") { "5.18" } else { "5.15" };

/// First version with compare-and-swap, and its commit. The compiler of each architecture had to
/// learn it.
const SWAP: (&str, &str) =
    if cfg!(target_arch = "aarch64") { ("5.18", "1902472b4fa9") } else { ("5.12", "5ffa25502b5a") };

/// The part of xknock that needs a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The XDP program.
    Detector,
    /// The firewall table.
    Guard,
    /// The agent.
    Agent,
    /// The tests and the benchmark.
    Tests,
}

/// A feature that not every kernel has.
#[derive(Debug)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The part that needs it.
    pub component: Component,
    /// The use that the part has for it.
    pub needed_for: &'static str,
    /// First version of Linux that has it.
    pub since: &'static str,
    /// The commit that brought it.
    pub commit: &'static str,
    /// What is done where it is missing. `None` if nothing can take its place.
    pub instead: Option<&'static str>,
    /// The question to the kernel.
    pub probe: Probe,
}

/// The result of a probe: whether the feature is there, or why that cannot be determined.
pub type ProbeResult = Result<bool, String>;

/// A question to the running kernel.
#[derive(Debug)]
pub enum Probe {
    /// A call that touches nothing.
    Anywhere(fn() -> ProbeResult),
    /// An attempt in a network namespace made for it.
    Apart(fn() -> ProbeResult),
}

/// Whether the running kernel has a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has the feature.
    Present,
    /// It lacks the feature.
    Absent,
    /// It did not say, for this reason.
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

/// The detector's features in the order in which Linux got them, then the sandbox's and those that
/// only tests use. The guard's are not here, because they are features of nftables.
pub static FEATURES: [Feature; 11] = [
    Feature {
        name: "LRU hash maps",
        component: Component::Detector,
        needed_for: "progress past the first step",
        since: "4.10",
        commit: "29ba732acbee",
        instead: None,
        probe: Anywhere(|| probe::map(MapType::LruHash)),
    },
    Feature {
        name: "arrays that begin at a page",
        component: Component::Detector,
        needed_for: "first steps, one cache line each",
        since: "5.5",
        commit: "fc9702273e2e",
        instead: None,
        probe: Anywhere(probe::mappable_array),
    },
    Feature {
        name: "jiffies for BPF",
        component: Component::Detector,
        needed_for: "the age of progress",
        since: "5.6",
        commit: "5576b991e9c1",
        instead: None,
        probe: Anywhere(|| probe::helper(BpfHelper::BPF_FUNC_jiffies64)),
    },
    Feature {
        name: "the BPF ring buffer",
        component: Component::Detector,
        needed_for: "completed knocks, on their way to the agent",
        since: "5.8",
        commit: "457f44363a88",
        instead: None,
        probe: Anywhere(|| probe::map(MapType::RingBuf)),
    },
    Feature {
        name: "XDP links",
        component: Component::Detector,
        needed_for: "a detector that goes on without the agent, and gives way to the next one",
        since: "5.9",
        commit: "aa8d3a716b59",
        instead: None,
        probe: Apart(probe::xdp_link),
    },
    Feature {
        name: "the coarse clock for BPF",
        component: Component::Detector,
        needed_for: "when a knock was completed",
        since: "5.11",
        commit: "d05512618056",
        instead: None,
        probe: Anywhere(|| probe::helper(BpfHelper::BPF_FUNC_ktime_get_coarse_ns)),
    },
    Feature {
        name: "compare-and-swap in BPF",
        component: Component::Detector,
        needed_for: "packets of one source on several CPUs",
        since: SWAP.0,
        commit: SWAP.1,
        instead: None,
        probe: Anywhere(probe::compare_and_swap),
    },
    Feature {
        name: "XDP for frames in several buffers",
        component: Component::Detector,
        needed_for: "jumbo frames in the driver",
        since: "5.18",
        commit: "c2f2cdbeffda",
        instead: Some(
            "a program for one buffer; drivers refuse it at large MTUs, generic mode does not",
        ),
        probe: Anywhere(probe::frags),
    },
    Feature {
        name: "Landlock",
        component: Component::Agent,
        needed_for: "an agent that reaches no files but its own",
        since: "5.13",
        commit: "385975dca53e",
        instead: Some("an agent that is restricted to fewer system calls and capabilities only"),
        probe: Anywhere(probe::landlock),
    },
    Feature {
        name: "test runs with a context",
        component: Component::Tests,
        needed_for: "floods in tests: by which interface",
        since: "5.15",
        commit: "47316f4a3053",
        instead: Some("nothing: those tests fail"),
        probe: Anywhere(probe::context),
    },
    Feature {
        name: "test runs that send frames",
        component: Component::Tests,
        needed_for: "floods in tests: the frames",
        since: "5.18",
        commit: "b530e9e1063e",
        instead: Some("nothing: those tests fail"),
        probe: Apart(probe::live_frames),
    },
];

/// Returns what the detector needs and the running kernel lacks, each with the version that brought
/// it. A probe without an answer does not count as a lack, because the kernel's own error says more
/// then.
///
/// An agent that has given up its rights must not even try to make a namespace, so probes that need
/// one are left out. Of these, the detector needs XDP links alone, and a kernel without them has no
/// compare-and-swap either.
pub(super) fn missing() -> Vec<String> {
    let needed = FEATURES.iter().filter(|feature| {
        let harmless = matches!(feature.probe, Anywhere(_));
        feature.component == Component::Detector && feature.instead.is_none() && harmless
    });
    let lacking = needed.filter(|feature| feature.presence() == Presence::Absent);
    let named = |feature: &Feature| {
        format!("{} (since Linux {}, {})", feature.name, feature.since, feature.commit)
    };
    lacking.map(named).collect()
}
