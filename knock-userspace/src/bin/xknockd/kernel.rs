//! `xknockd check --kernel`.

use anyhow::{Context as _, Result, bail};
use comfy_table::{Table, presets};
use knock_detector::{Component, Detector, Presence, Settings, VerifierStats};
use knock_output::out;
use knock_policy::compile::{Served, compile};
use knock_userspace::kernel_features::features;
use nix::sys::utsname::uname;

use crate::policy::built_in;

pub(crate) fn check() -> Result<()> {
    let system = uname().context("cannot read the kernel's release")?;
    out!("Linux {}, {}\n", system.release().to_string_lossy(), system.machine().to_string_lossy())?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FEATURE", "NEEDED FOR", "SINCE", "COMMIT", "HERE", "IN ITS PLACE"]);
    let mut missed = Vec::new();
    for feature in features() {
        let presence = feature.presence();
        if presence == Presence::Absent
            && feature.instead.is_none()
            && feature.component != Component::Tests
        {
            missed.push(feature.name);
        }
        let here = match presence {
            Presence::Present => "yes".to_owned(),
            Presence::Absent => "no".to_owned(),
            Presence::Unknown(why) => format!("unknown: {why}"),
        };
        table.add_row([
            feature.name,
            feature.needed_for,
            feature.since,
            feature.commit,
            &here,
            feature.instead.unwrap_or("nothing can"),
        ]);
    }
    out!("{}\n", table.trim_fmt())?;
    // Any policy will do: doors are data to the program.
    let policy = built_in();
    let compiled = compile(&policy, &Served::default(), rand::random())?;
    let settings = Settings {
        strays: policy.strays,
        max_sources: 1,
        knocks: policy.knocks,
        trace: false,
        hash_key: rand::random(),
    };
    let figures = Detector::load(&compiled, settings)?.verifier_stats()?;
    out!("{}", describe(&figures))?;
    // What the detector lacks was an error above.
    if !missed.is_empty() {
        bail!("this kernel lacks {}", missed.join(", "));
    }
    Ok(())
}

fn describe(figures: &VerifierStats) -> String {
    let VerifierStats { program, verified, translated, machine_code } = figures;
    let read = match verified {
        Some(read) => format!(
            "{read} of {} instructions for `{program}`, budget {}",
            VerifierStats::LIMIT,
            VerifierStats::BUDGET
        ),
        None => format!("`{program}` is taken; this kernel does not tell how much was read of it"),
    };
    format!("verifier: {read}; {translated} bytes, {machine_code} of machine code")
}
