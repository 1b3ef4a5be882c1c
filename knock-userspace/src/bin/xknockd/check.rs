//! `xknockd check`.

use anyhow::Result;
use comfy_table::{Table, presets};
use knock_common::sequence::{PortClass, Protocol};
use knock_output::out;
use knock_policy::compile::Served;
use knock_policy::{Door, Method};
use knock_userspace::sockets;

use crate::PolicyArgs;
use crate::policy::load_compiled;

pub(crate) fn check(args: &PolicyArgs) -> Result<()> {
    // What listens here changes the decoys. A config may be checked on another host,
    // or where procfs cannot be read, and its doors are the same there.
    let served = sockets::served().unwrap_or_else(|_| Served::default());
    let (policy, compiled) = load_compiled(args, &served)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["DOOR", "OPENS", "KNOCK", "WITHIN", "OPEN FOR", "CUT", "REORDER"]);
    for door in &policy.doors {
        table.add_row([
            door.name.clone(),
            join(&door.opens),
            knocked(door),
            match door.method {
                Method::Sealed { .. } => String::new(),
                _ => humantime::format_duration(door.within).to_string(),
            },
            humantime::format_duration(door.open_for).to_string(),
            yes_or_no(door.cut),
            yes_or_no(door.reorder),
        ]);
    }
    let decoys = Protocol::ALL.map(|protocol| {
        let is_decoy = |entry: &&u8| PortClass::of(**entry, protocol).has(PortClass::DECOY);
        compiled.classes.iter().filter(is_decoy).count()
    });
    out!("{}", table.trim_fmt())?;
    out!(
        "\nmode {}, connections {}, interfaces {}\n{} doors, {} transitions, {} TCP and {} UDP decoys",
        policy.mode,
        policy.connections,
        if policy.interfaces.is_empty() { "none yet".into() } else { policy.interfaces.join(", ") },
        policy.doors.len(),
        compiled.trie.edges.len(),
        decoys[0],
        decoys[1],
    )?;
    Ok(())
}

/// Describes how to knock on a door.
fn knocked(door: &Door) -> String {
    match &door.method {
        Method::Sequence => join(&door.sequence),
        Method::Rolling { ports, steps, mixed } => {
            let protocols = if *mixed { "TCP and UDP" } else { "UDP" };
            format!("rolling: {steps} steps, {protocols} {}-{}", ports.start(), ports.end())
        }
        Method::Sealed { port, addresses } => {
            format!("sealed: udp/{port}, addresses {}", addresses.name())
        }
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
