//! Knocking with a key, repeated until the door opens or the time for it is over.

use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use knock_common::sequence::{Protocol, Step};
use knock_keys::{
    Action, Address, Addresses, DoorTag, KeyDoor, KeyLine, KeyMethod, Request, Roller, SLOT,
    Sealer, slot_of, until_next_slot, wall_clock_ns, wall_clock_s,
};

use super::memory::Memory;
use super::reasons::{FailedAttempt, Reasons};
use super::{Connected, Knock, Target, wait_connect};

/// The time between two steps of a sequence.
const GAP: Duration = Duration::from_millis(50);

/// The knocks on one door of one host with one key.
pub struct Knocker {
    line: KeyLine,
    door: KeyDoor,
    target: Target,
    method: KnockMethod,
    /// The address that the user wants to open for.
    named: Option<IpAddr>,
    /// The time that the user wants, if it is shorter than the door's.
    wanted: Option<Duration>,
    memory: Memory,
    /// Whether knocks name no address, because the port did not answer after one that did.
    unnamed: bool,
}

enum KnockMethod {
    Sealed { sealer: Box<Sealer>, port: u16, addresses: Addresses },
    Rolling { roller: Roller },
}

/// The wishes of a user besides the door.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// The address to open for, if it is not that of this machine.
    pub address: Option<IpAddr>,
    /// The time to open for, if it is shorter than the door allows.
    pub lasts: Option<Duration>,
}

/// The reason why a knock cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KnockError {
    /// The server's public key is not a valid X25519 point.
    #[error(
        "key `{0}` is damaged: the server's public key is invalid; import its line again, or have \
         a new one drawn on the host with `xknockd key rotate`"
    )]
    BadKey(String),
    /// The method of the door cannot do it.
    #[error("door `{door}` is knocked on with a rolling sequence, which cannot {what}")]
    Rolling {
        /// The door.
        door: String,
        /// The thing that it cannot do.
        what: &'static str,
    },
    /// The door opens for a shorter time than it takes until the next sequence.
    #[error(
        "door `{door}` cannot be kept open: it opens for {lasts}, and a rolling sequence opens it \
         once in {} s; on the host, set `open_for` to 1m or more, or `method` to \"sealed\"",
        SLOT.as_secs()
    )]
    Gaps {
        /// The door.
        door: String,
        /// The time that it opens for.
        lasts: String,
    },
    /// The door opens only for the address that a knock comes from.
    #[error(
        "door `{0}` opens for the address that a knock comes from, and for no other: leave \
         --address out, or set `addresses = \"any\"` for this door on the host"
    )]
    OnlyMine(String),
    /// The knock could not be sent.
    #[error("cannot send a knock to {target}: {why}")]
    Send {
        /// The address that it was for.
        target: Target,
        /// The error of the system.
        why: io::Error,
    },
    /// The system has no random bytes.
    #[error("cannot get random bytes from this system: {0}")]
    Random(getrandom::Error),
    /// A step could not be sent.
    #[error(transparent)]
    Step(#[from] super::SendError),
}

impl Knocker {
    /// Makes a knocker for `door`, which is one of `line`, at `target`.
    ///
    /// # Errors
    ///
    /// If the door cannot fulfil the wishes, or the key is damaged.
    pub fn new(
        line: KeyLine,
        door: KeyDoor,
        target: Target,
        wishes: Wishes,
    ) -> Result<Self, KnockError> {
        let rolling = |what| KnockError::Rolling { door: door.name.clone(), what };
        let method = match &door.method {
            KeyMethod::Sealed { port, addresses } => {
                let sealer = Sealer::new(line.id, &line.credential);
                let sealer = sealer.ok_or_else(|| KnockError::BadKey(line.name.clone()))?;
                if wishes.address.is_some() && *addresses != Addresses::Any {
                    return Err(KnockError::OnlyMine(door.name));
                }
                KnockMethod::Sealed { sealer: Box::new(sealer), port: *port, addresses: *addresses }
            }
            KeyMethod::Rolling(_) if wishes.lasts.is_some() => {
                return Err(rolling("say for how long"));
            }
            KeyMethod::Rolling(_) if wishes.address.is_some() => {
                return Err(rolling("open for another address"));
            }
            KeyMethod::Rolling(_) => {
                let roller = Roller::new(&line.credential)
                    .ok_or_else(|| rolling("be made with a key pair"))?;
                KnockMethod::Rolling { roller }
            }
        };
        let memory = Memory::of(&line);
        let named = wishes.address;
        // The host refuses a longer time than it allows. Without a wish it gives what it allows.
        let wanted = wishes.lasts.map(whole_seconds).filter(|wanted| *wanted < door.open_for);
        Ok(Self { line, door, target, method, named, wanted, memory, unnamed: false })
    }

    /// Returns the first TCP service of the door, which shows whether the door is open.
    pub fn service(&self) -> Option<Step> {
        self.door.opens.iter().copied().find(|service| service.protocol == Protocol::Tcp)
    }

    /// Returns how long the door stays open after a knock.
    pub fn lasts(&self) -> Duration {
        self.wanted.unwrap_or(self.door.open_for)
    }

    /// Returns the time to the next knock that keeps the door open.
    pub fn renewal(&self) -> Duration {
        match self.method {
            // The sequence of a slot opens once, so the door needs that of the next slot.
            KnockMethod::Rolling { .. } if self.lasts() / 2 <= SLOT => {
                until_next_slot(wall_clock_ns())
            }
            _ => self.lasts() / 2,
        }
    }

    /// Checks that knocking again keeps the door open.
    ///
    /// # Errors
    ///
    /// If the door would be closed between two knocks.
    pub fn may_keep(&self) -> Result<(), KnockError> {
        match self.method {
            KnockMethod::Rolling { .. } if self.lasts() <= SLOT => {
                let (door, lasts) = (self.door.name.clone(), self.lasts());
                Err(KnockError::Gaps { door, lasts: humantime::format_duration(lasts).to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Knocks once, with or without an address like the knock after which the port answered.
    /// Returns a description of what was sent.
    ///
    /// # Errors
    ///
    /// If the knock could not be sent.
    pub fn knock(&mut self) -> Result<String, KnockError> {
        self.send(Action::Open)
    }

    /// Asks the host to close the door again. Returns a description of what was sent.
    ///
    /// # Errors
    ///
    /// If the door cannot be closed by a knock, or the knock could not be sent.
    pub fn close(&mut self) -> Result<String, KnockError> {
        self.may_close()?;
        self.send(Action::Close)
    }

    /// Checks that the door can be closed by a knock.
    ///
    /// # Errors
    ///
    /// If its method cannot do that.
    pub fn may_close(&self) -> Result<(), KnockError> {
        match self.method {
            KnockMethod::Sealed { .. } => Ok(()),
            KnockMethod::Rolling { .. } => {
                let door = self.door.name.clone();
                Err(KnockError::Rolling { door, what: "close it before its time" })
            }
        }
    }

    fn send(&mut self, action: Action) -> Result<String, KnockError> {
        let now_ns = wall_clock_ns();
        let target = self.target;
        match (&self.method, &self.door.method) {
            (KnockMethod::Rolling { roller }, KeyMethod::Rolling(rolling)) => {
                let slot = slot_of(now_ns);
                let steps = roller.steps(&self.door.name, slot, rolling);
                let sent = format!("{} steps of slot {slot}", steps.len());
                Knock { target, steps, gap: GAP }.send(|_| {})?;
                Ok(sent)
            }
            (KnockMethod::Sealed { sealer, port, addresses }, _) => {
                let failed = |why| KnockError::Send { target, why };
                let socket = UdpSocket::bind(target.any()).map_err(failed)?;
                let to = target.with_port(*port);
                socket.connect(to).map_err(failed)?;
                let local = socket.local_addr().map_err(failed)?.ip();
                let address = match self.named {
                    Some(named) => Address::Named(named),
                    // It closes what is open for its sender, so replaying it gains nothing.
                    None if action == Action::Close && *addresses != Addresses::Own => {
                        Address::Seen
                    }
                    None => address(*addresses, local, to.ip(), self.unnamed),
                };
                let request = Request {
                    action,
                    time_ns: self.memory.next(now_ns),
                    doors: vec![DoorTag::of(&self.door.name)],
                    wanted_s: self
                        .wanted
                        .map_or(0, |wanted| u32::try_from(wanted.as_secs()).unwrap_or(u32::MAX)),
                    address,
                };
                let packet = sealer.seal(&request).map_err(KnockError::Random)?;
                socket.send(&packet).map_err(failed)?;
                self.memory.remember(request.time_ns);
                let whom = match address {
                    Address::Seen => "the address that the host sees".to_owned(),
                    Address::Named(address) => address.to_string(),
                };
                Ok(format!("a sealed knock to udp/{port} for {whom}"))
            }
            (KnockMethod::Rolling { .. }, KeyMethod::Sealed { .. }) => Ok("nothing".to_owned()),
        }
    }

    /// Knocks and tries to connect, with a new knock for each attempt, until `port` answers or
    /// `limit` is over. Calls `on_knock` with a description of each knock. Knocks after that name
    /// an address, or do not, like the one after which the port answered.
    ///
    /// # Errors
    ///
    /// If a knock could not be sent, or the port did not answer. The error has the possible
    /// reasons.
    pub fn open(
        &mut self,
        port: u16,
        limit: Duration,
        mut on_knock: impl FnMut(&str),
    ) -> Result<(TcpStream, Duration), OpenError> {
        const LONGEST_TRY: Duration = Duration::from_secs(8);
        let address = self.target.with_port(port);
        let started = Instant::now();
        let mut patience = Duration::from_secs(1);
        let mut refused = false;
        self.unnamed = false;
        loop {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                self.unnamed = false;
                return Err(OpenError::NoAnswer(self.reasons(refused)));
            }
            on_knock(&self.knock()?);
            match wait_connect(address, patience.min(left)) {
                Connected::Open(stream, _) => return Ok((stream, started.elapsed())),
                Connected::Refused => refused = true,
                Connected::Silent => refused = false,
            }
            // Behind NAT, the host sees another address than the one that the knock named.
            self.unnamed = true;
            patience = (patience * 2).min(LONGEST_TRY);
        }
    }

    fn reasons(&self, refused: bool) -> Reasons {
        let attempt = FailedAttempt {
            line: &self.line,
            door: &self.door,
            target: self.target,
            now_s: wall_clock_s(),
            refused,
            set_back: self.memory.set_back(),
            shorter: self.wanted.is_some(),
        };
        attempt.reasons()
    }
}

/// The reason why a door was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A knock could not be made.
    #[error(transparent)]
    Knock(#[from] KnockError),
    /// The port did not answer after the knocks.
    #[error("{0}")]
    NoAnswer(Reasons),
}

/// Returns the address to ask for. A knock that names an address is worth nothing to an attacker
/// who captures it and sends it from elsewhere. But behind NAT, this machine does not know the
/// address that the host sees.
fn address(addresses: Addresses, local: IpAddr, server: IpAddr, unnamed: bool) -> Address {
    let translated = is_private(local) && !is_private(server);
    match addresses {
        Addresses::Own => Address::Named(local),
        _ if translated || unnamed => Address::Seen,
        _ => Address::Named(local),
    }
}

/// Whether an address has a meaning inside a site only.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let carrier = first == 100 && second & 0xc0 == 64;
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || carrier
        }
        IpAddr::V6(v6) => {
            v6.is_unique_local() || v6.is_unicast_link_local() || v6 == Ipv6Addr::LOCALHOST
        }
    }
}

/// Returns a time in whole seconds, as a knock has it, and at least one: 0 would mean the time of
/// the door.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_where_it_means_something() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (home, office) = (ip("192.168.1.5"), ip("10.0.0.1"));
        let (public, server) = (ip("198.51.100.7"), ip("203.0.113.1"));
        let choose = |local, to, unnamed| address(Addresses::Seen, local, to, unnamed);
        assert_eq!(choose(public, server, false), Address::Named(public));
        assert_eq!(choose(home, office, false), Address::Named(home), "no NAT inside a site");
        assert_eq!(choose(home, server, false), Address::Seen, "behind NAT");
        assert_eq!(
            choose(ip("100.64.0.9"), server, false),
            Address::Seen,
            "behind a carrier's NAT"
        );
        assert_eq!(choose(public, server, true), Address::Seen, "the host may see another one");
        assert_eq!(address(Addresses::Own, home, server, true), Address::Named(home));
    }

    #[test]
    fn the_next_slot_begins_within_one() {
        let slot = SLOT.as_nanos() as u64;
        assert_eq!(until_next_slot(7 * slot), SLOT);
        assert_eq!(until_next_slot(7 * slot + 1), SLOT - Duration::from_nanos(1));
        assert_eq!(until_next_slot(8 * slot - 1), Duration::from_nanos(1));
    }
}
