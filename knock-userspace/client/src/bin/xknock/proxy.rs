//! `xknock proxy`.

use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use knock_client::{Hosts, Knocker, PipeError, Target, Wishes, pipe};
use knock_output::OutputError;

use crate::with_key::{explain, patience, renew};
use crate::{FamilyArgs, known, some_time};

#[derive(Args)]
pub(crate) struct ProxyArgs {
    /// Host, as in OpenSSH's %h.
    host: String,
    /// Port, as in OpenSSH's %p.
    port: u16,
    /// Keep the door open while the connection lasts, for doors that cut connections.
    #[arg(long)]
    keep: bool,
    /// Give up after this time. [default: 10s; 45s for rolling sequences]
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    timeout: Option<Duration>,
    #[command(flatten)]
    family: FamilyArgs,
}

pub(crate) fn proxy(args: &ProxyArgs) -> Result<()> {
    let hosts = Hosts::of_user()?;
    let Some(host) = hosts.find(&args.host)? else {
        bail!(
            "there is no key for `{}`: import one with `xknock import`{}",
            args.host,
            known(&hosts)
        );
    };
    let door = host.door_to(args.port).ok_or_else(|| {
        anyhow!("the key for `{}` opens no door to tcp/{}", host.alias, args.port)
    })?;
    let target = Target::resolve(&host.address, args.family.family())?;
    let timeout = args.timeout.unwrap_or_else(|| patience(door));
    let mut knocker = Knocker::new(host.line.clone(), door.clone(), target, Wishes::default())?;
    if args.keep {
        knocker.may_keep()?;
    }
    let service = format!("tcp/{}", args.port);
    let opened = knocker.open(args.port, timeout, |_| {});
    let (stream, _) = opened.map_err(|error| explain(error, &service, target, timeout))?;
    let knocker = &mut knocker;
    let joined = std::thread::scope(|scope| {
        let (done, ended) = channel();
        if args.keep {
            scope.spawn(move || renew(knocker, &ended));
        }
        let result = pipe(&stream);
        drop(done);
        result
    });
    joined.map_err(|error| match error {
        PipeError::Output(error) => OutputError::from(error).into(),
        PipeError::Connection(_) => anyhow!(error).context(format!("{service} on {target}")),
    })
}
