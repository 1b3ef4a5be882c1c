//! Knocking with a key, again and again until the door opens or it is clear that it will
//! not.

use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use knock_common::sequence::{Protocol, Step};
use knock_keys::{
    Action, Address, Addresses, DoorTag, KeyDoor, KeyLine, KeyMethod, Request, Roller, SLOT,
    Sealer, slot_of, until_next_slot, wall_clock_ns, wall_clock_s,
};

use super::memory::Memory;
use super::reasons::{Clues, Reasons};
use super::{Connected, Knock, Target, wait_connect};

/// Time between two steps of a sequence.
const GAP: Duration = Duration::from_millis(50);

/// Knocks on one door of one host with one key.
pub struct Knocker {
    line: KeyLine,
    door: KeyDoor,
    target: Target,
    method: KnockMethod,
    named: Option<IpAddr>,
    wanted: Option<Duration>,
    memory: Memory,
    /// Whether knocks name no address, because nobody answered to one that did.
    unnamed: bool,
}

enum KnockMethod {
    Sealed { sealer: Box<Sealer>, port: u16, addresses: Addresses },
    Rolling { roller: Roller },
}

/// What a user may ask for beside the door.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// For whom to open, if not for this machine.
    pub address: Option<IpAddr>,
    /// For how long, if that is shorter than what the door allows.
    pub lasts: Option<Duration>,
}

/// Why a knock cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KnockError {
    /// The key's public key is none.
    #[error("the key `{0}` is damaged: its server's public key is none")]
    BadKey(String),
    /// A door takes other methods for that.
    #[error("door `{door}` is knocked on with a rolling sequence, which cannot {what}")]
    Rolling {
        /// The door.
        door: String,
        /// What was asked for.
        what: &'static str,
    },
    /// A sequence opens its door once, and others come too late.
    #[error(
        "door `{door}` cannot be kept open: it opens for {lasts}, and a rolling sequence opens it \
         once in {} s; on the host, make open_for 1m or more, or the door sealed", SLOT.as_secs()
    )]
    Gaps {
        /// The door.
        door: String,
        /// How long it opens.
        lasts: String,
    },
    /// A door opens for those who knock only.
    #[error(
        "door `{0}` opens for the address that a knock comes from, and for no other one: leave \
         --address out, or set `addresses = \"any\"` for this door on the host"
    )]
    OnlyMine(String),
    /// It could not be sent.
    #[error("cannot send a knock to {target}: {why}")]
    Send {
        /// Where to.
        target: Target,
        /// Why.
        why: io::Error,
    },
    /// No random bytes.
    #[error("this system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// A step could not be sent.
    #[error(transparent)]
    Step(#[from] super::SendError),
}

impl Knocker {
    /// A knocker for `door`, one of those of `line`, at `target`.
    ///
    /// # Errors
    ///
    /// If the door does not do what is wished.
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
        // The host refuses what is longer than it allows; without a wish it gives that.
        let wanted = wishes.lasts.map(whole_seconds).filter(|wanted| *wanted < door.open_for);
        Ok(Self { line, door, target, method, named, wanted, memory, unnamed: false })
    }

    /// The first TCP service behind the door, which tells whether it is open.
    pub fn service(&self) -> Option<Step> {
        self.door.opens.iter().copied().find(|service| service.protocol == Protocol::Tcp)
    }

    /// How long the door stays open after a knock.
    pub fn lasts(&self) -> Duration {
        self.wanted.unwrap_or(self.door.open_for)
    }

    /// When to knock again to keep the door open.
    pub fn renewal(&self) -> Duration {
        match self.method {
            // A slot's sequence opens once, so that of the next one is what keeps the door open.
            KnockMethod::Rolling { .. } if self.lasts() / 2 <= SLOT => {
                until_next_slot(wall_clock_ns())
            }
            _ => self.lasts() / 2,
        }
    }

    /// Whether the door can be kept open by knocking again.
    ///
    /// # Errors
    ///
    /// If there would be gaps.
    pub fn may_keep(&self) -> Result<(), KnockError> {
        match self.method {
            KnockMethod::Rolling { .. } if self.lasts() <= SLOT => {
                let (door, lasts) = (self.door.name.clone(), self.lasts());
                Err(KnockError::Gaps { door, lasts: humantime::format_duration(lasts).to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Knocks once, naming an address or not as the knock did to which the port answered; what
    /// was sent.
    ///
    /// # Errors
    ///
    /// If it could not be sent.
    pub fn knock(&mut self) -> Result<String, KnockError> {
        self.send(Action::Open)
    }

    /// Asks the host to close the door again.
    ///
    /// # Errors
    ///
    /// If the door does not take that, or it could not be sent.
    pub fn close(&mut self) -> Result<String, KnockError> {
        self.may_close()?;
        self.send(Action::Close)
    }

    /// Whether the door can be closed by a knock.
    ///
    /// # Errors
    ///
    /// If it cannot.
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
                    // It closes what is open for who sends it, so catching it gains nothing.
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

    /// Knocks until `port` answers, anew each time, for at most `limit`. `on_knock` hears of
    /// every knock. Those that follow are of the kind that was answered.
    ///
    /// # Errors
    ///
    /// If a knock could not be sent, or why nothing answered, as far as this side can tell.
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
            self.unnamed = true;
            patience = (patience * 2).min(LONGEST_TRY);
        }
    }

    fn reasons(&self, refused: bool) -> Reasons {
        let clues = Clues {
            line: &self.line,
            door: &self.door,
            target: self.target,
            now_s: wall_clock_s(),
            refused,
            set_back: self.memory.set_back(),
            shorter: self.wanted.is_some(),
        };
        clues.reasons()
    }
}

/// Why no port answered.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It could not be knocked.
    #[error(transparent)]
    Knock(#[from] KnockError),
    /// It was, and nothing came of it.
    #[error("{0}")]
    NoAnswer(Reasons),
}

/// For whom to ask. A named address is worth nothing to who catches the packet and sends it
/// on; but behind NAT this machine does not know the address that the host sees.
fn address(addresses: Addresses, local: IpAddr, server: IpAddr, unnamed: bool) -> Address {
    let translated = is_private(local) && !is_private(server);
    match addresses {
        Addresses::Own => Address::Named(local),
        _ if translated || unnamed => Address::Seen,
        _ => Address::Named(local),
    }
}

/// Whether an address means something inside a site only.
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

/// A knock asks for whole seconds, and none of them would mean the door's own time.
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
