//! Memory and processor time of a process and its maps.

use std::collections::HashMap;
use std::fs;

/// Returns the mebibytes of all BPF maps that a process has open, as the kernel accounts for them
/// (`memlock` in `/proc/PID/fdinfo`).
pub(crate) fn maps(process: u32) -> f64 {
    let folder = format!("/proc/{process}/fdinfo");
    let mut maps = HashMap::new();
    for entry in fs::read_dir(folder).expect("the process runs").flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum::<u64>() as f64 / f64::from(1 << 20)
}

/// Returns the mebibytes that are resident.
pub(crate) fn resident(process: u32) -> f64 {
    status(process, "VmRSS:") / 1024.0
}

/// Returns how often a process has gone to sleep.
pub(crate) fn sleeps(process: u32) -> f64 {
    status(process, "voluntary_ctxt_switches:")
}

/// Returns the seconds of CPU time of all threads, in user and kernel mode (proc_pid_stat(5)).
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    let fields: Vec<_> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<f64>().expect("a number");
    (ticks(14) + ticks(15)) / TICKS_A_SECOND
}

fn status(process: u32, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a known field");
    line.split_whitespace().nth(1).expect("a number").parse().expect("digits")
}
