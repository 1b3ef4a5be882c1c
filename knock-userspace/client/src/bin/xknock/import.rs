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
    /// The line that `xknockd key add` printed, in single quotes.
    ///
    /// Without it, the line is read from standard input, where other users of this machine cannot
    /// see it.
    line: Option<String>,
    /// Set the name of the host here. The default is its name or address.
    #[arg(long = "as", value_name = "NAME")]
    alias: Option<String>,
    /// Set the name or address of the host, without a user.
    ///
    /// This is needed if the line does not say where the host is, and is not a newer line for a
    /// host that is known.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Replace another key for this host, or its address.
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
