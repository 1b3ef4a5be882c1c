//! `xknock import`.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, Result};
use clap::Args;
use knock_client::{Hosts, Import};
use knock_keys::{KeyLine, KeyMethod};
use knock_output::{note, out};
use zeroize::Zeroizing;

#[derive(Args)]
pub(crate) struct ImportArgs {
    /// The line, in single quotes. Without it, it is read from standard input, where no
    /// other user of this machine can see it.
    line: Option<String>,
    /// What to call the host; its name or address if not given.
    #[arg(long = "as", value_name = "NAME")]
    alias: Option<String>,
    /// Where the host is: its name or address, without a user. Needed if the key does not say
    /// so and is not a newer one of a host that is known.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Replaces another key for this host, or its address.
    #[arg(long)]
    replace: bool,
}

pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    let text = match &args.line {
        Some(line) if line != "-" => Zeroizing::new(line.clone()),
        _ => from_stdin()?,
    };
    let line = KeyLine::parse(&text)?;
    let mut hosts = Hosts::of_user()?;
    let import = Import {
        alias: args.alias.as_deref(),
        address: args.host.as_deref(),
        replace: args.replace,
    };
    let alias = hosts.add(&line, import)?;
    out!("Imported the key `{}` for {alias}. To knock:", line.name)?;
    for door in &line.doors {
        let method = match door.method {
            KeyMethod::Sealed { .. } => "a sealed knock",
            KeyMethod::Rolling(_) => "a rolling sequence",
        };
        let opens: Vec<_> = door.opens.iter().map(ToString::to_string).collect();
        out!("  xknock {alias} --door {}   # {method}, opens {}", door.name, opens.join(", "))?;
    }
    Ok(())
}

fn from_stdin() -> Result<Zeroizing<String>> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        note!("Paste the line that begins with xknock:// and press Enter:");
        let mut line = Zeroizing::new(String::with_capacity(KeyLine::LONGEST));
        stdin.read_line(&mut line).context("cannot read standard input")?;
        return Ok(line);
    }
    let mut text = Zeroizing::new(String::with_capacity(KeyLine::LONGEST));
    let limited = stdin.by_ref().take(KeyLine::LONGEST as u64 + 1);
    std::io::BufReader::new(limited)
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    Ok(text)
}
