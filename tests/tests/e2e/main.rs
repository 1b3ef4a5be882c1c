//! The whole of it, with real clients, in throwaway networks.

mod clients;
mod connections;
mod floods;
mod grants;
mod keys;
mod modes;
mod scans;
mod startup;
mod stop;
mod wire;

/// One door: ssh on tcp/22, three steps, with whatever a test adds at the top or in
/// the door.
fn config(top: &str, door: &str) -> String {
    format!(
        "interfaces = [\"eth0\"]\nmode = \"enforce\"\n{top}\n\
         [[door]]\nname = \"ssh\"\nopens = [\"tcp/22\"]\n\
         sequence = [\"tcp/7000\", \"udp/8000\", \"tcp/9000\"]\n{door}\n"
    )
}

/// Asserts that nothing of any agent is left on `host`: no table, no program, no file.
fn assert_no_trace(host: &knock_tests::Host) {
    assert_eq!(host.sh("nft list tables"), "");
    let links = host.ip("-d link show");
    assert!(!links.contains("xdp"), "{links}");
    let knock_userspace::places::Places { run, pins, state } =
        knock_userspace::places::Places::of(host.name());
    for folder in [run, pins, state] {
        assert!(!folder.exists(), "{}", folder.display());
    }
}

/// The steps of that door, as `xknock` takes them.
const STEPS: &str = "tcp/7000,udp/8000,tcp/9000";
/// The same as `knock` takes them.
const CLASSIC: &str = "7000:tcp 8000:udp 9000:tcp";
/// What it opens.
const SSH: &str = "tcp/22";
