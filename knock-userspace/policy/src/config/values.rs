//! Single values, from text to their type. An error is a pair of texts: the mistake, and the
//! advice.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use knock_common::sequence::{Protocol, Step};
use knock_keys::DOOR_NAME_FORM;

/// A mistake in a value, and the advice.
pub type Wrong = (String, String);

/// Reads `tcp/22`.
pub(super) fn step(text: &str) -> Result<Step, Wrong> {
    const FORM: &str = "write protocol and port, as in \"tcp/22\" or \"udp/51820\"";
    let wrong = |what: String| (what, FORM.to_owned());
    let Some((protocol, port)) = text.split_once('/') else {
        return Err(wrong(format!("`{text}` is not of the form protocol/port")));
    };
    let known = Protocol::ALL.into_iter().find(|known| known.name() == protocol);
    let protocol = known.ok_or_else(|| wrong(format!("`{protocol}` is neither tcp nor udp")))?;
    let port_of =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok());
    match port_of(port).flatten() {
        Some(0) => {
            Err(("port 0 cannot be knocked on or opened".into(), "ports go from 1 to 65535".into()))
        }
        Some(port) => Ok(Step::new(protocol, port)),
        None => Err((format!("`{port}` is not a port"), "ports go from 1 to 65535".into())),
    }
}

/// `10s`, within limits.
pub fn duration(text: &str, limits: RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    within(text, length_of_time(text)?, limits)
}

/// `10s`.
pub fn length_of_time(text: &str) -> Result<Duration, Wrong> {
    humantime::parse_duration(text).map_err(|error| {
        (
            format!("`{text}` is no length of time: {error}"),
            "write \"500ms\", \"10s\" or \"5m\"".into(),
        )
    })
}

/// A duration, written as `text`, that must lie within limits.
pub fn within(
    text: &str,
    duration: Duration,
    limits: RangeInclusive<Duration>,
) -> Result<Duration, Wrong> {
    let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
    let range = format!("give from {} to {}", show(limits.start()), show(limits.end()));
    match duration {
        duration if limits.contains(&duration) => Ok(duration),
        Duration::ZERO => Err(("no time at all would never open".into(), range)),
        _ => Err((format!("`{text}` is out of range"), range)),
    }
}

/// Reads a prefix without host bits, or an address.
pub(super) fn prefix(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    match text.parse::<IpNet>() {
        Ok(prefix) if prefix.trunc() == prefix => Ok(prefix),
        Ok(prefix) => Err((
            format!("`{text}` has bits set after its prefix"),
            format!(
                "the network is \"{}\", the address alone \"{}\"",
                prefix.trunc(),
                prefix.addr()
            ),
        )),
        Err(_) => Err((
            format!("`{text}` is neither an address nor a prefix"),
            "write \"192.0.2.7\", \"192.0.2.0/24\" or \"2001:db8::/32\"".into(),
        )),
    }
}

/// Reads a name that the kernel allows for an interface (dev_valid_name() in net/core/dev.c), or
/// the beginning of such names followed by `*`, as nftables understands it too.
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    const LONGEST: usize = 15;
    let legal = |c: char| !c.is_whitespace() && !"/:*?[".contains(c);
    let name = text.strip_suffix('*').unwrap_or(text);
    if (1..=LONGEST).contains(&name.len()) && name.chars().all(legal) && text != "." && text != ".."
    {
        return Ok(text.to_owned());
    }
    Err((
        format!("`{text}` cannot be the name of an interface"),
        format!(
            "names have 1 to {LONGEST} bytes, without blanks, `/` and `:`, see `ip link`; \
             `eth*` stands for all that begin with `eth`, and other patterns do not exist"
        ),
    ))
}

/// Reads the absolute path of a folder.
pub(super) fn folder(text: &str) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err((
        format!("`{text}` is not an absolute path"),
        "write it from the root, as in \"/etc/xknock/keys\"".to_owned(),
    ))
}

/// Reads the name of a door.
pub(super) fn door_name(text: &str) -> Result<String, Wrong> {
    let name = knock_keys::door_name(text).map(str::to_owned);
    name.ok_or_else(|| {
        (format!("`{text}` cannot be the name of a door"), format!("use {DOOR_NAME_FORM}"))
    })
}

/// Reads one of a few words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let all: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    Err((format!("`{text}` is not known here"), format!("give {}", all.join(" or "))))
}

/// Checks that a number is within limits.
pub(super) fn number<T: TryFrom<i64> + std::fmt::Display + PartialOrd>(
    number: i64,
    limits: RangeInclusive<T>,
) -> Result<T, Wrong> {
    let range = format!("give a number from {} to {}", limits.start(), limits.end());
    match T::try_from(number) {
        Ok(value) if limits.contains(&value) => Ok(value),
        _ => Err((format!("{number} is out of range"), range)),
    }
}
