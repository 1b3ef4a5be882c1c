//! Knocking with a key, again and again until the door opens or it is clear that it will
//! not.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcetera::BaseStrategy as _;
use knock_common::sequence::{Protocol, Step};

use super::{Connected, Knock, Target, wait_connect};
use crate::keys::{
    Action, Address, Addresses, DoorTag, KeyDoor, KeyLine, Method, Request, Roller, SLOT, Sealer,
    slot_of, write_secret,
};

/// Time between two steps of a sequence.
const GAP: Duration = Duration::from_millis(50);

/// Knocks on one door of one host with one key.
pub struct Knocker {
    line: KeyLine,
    door: KeyDoor,
    target: Target,
    way: Way,
    named: Option<IpAddr>,
    wanted: Option<Duration>,
    memory: Memory,
    /// Whether knocks name no address, because nobody answered to one that did.
    unnamed: bool,
}

enum Way {
    Sealed { sealer: Box<Sealer>, port: u16, addresses: Addresses },
    Rolling { roller: Roller },
}

/// What a user may ask for beside the door.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// For whom to open, if not for this machine.
    pub address: Option<IpAddr>,
    /// For how long.
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
    /// A door opens for those who knock only.
    #[error(
        "door `{0}` opens for the address that a knock comes from, and for no other one: leave \
         --address out, or set `addresses = \"any\"` for this door on the host"
    )]
    OnlyMine(String),
    /// It could not be sent.
    #[error("cannot send a knock to {target}: {source}")]
    Send {
        /// Where to.
        target: Target,
        /// Why.
        source: io::Error,
    },
    /// No random bytes.
    #[error("this system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
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
        let way = match &door.method {
            Method::Sealed { port, addresses } => {
                let sealer = Sealer::new(line.id, &line.credential);
                let sealer = sealer.ok_or_else(|| KnockError::BadKey(line.name.clone()))?;
                if wishes.address.is_some() && *addresses != Addresses::Any {
                    return Err(KnockError::OnlyMine(door.name));
                }
                Way::Sealed { sealer: Box::new(sealer), port: *port, addresses: *addresses }
            }
            Method::Rolling(_) if wishes.lasts.is_some() => {
                return Err(rolling("say for how long"));
            }
            Method::Rolling(_) if wishes.address.is_some() => {
                return Err(rolling("open for another address"));
            }
            Method::Rolling(_) => {
                let roller = Roller::new(&line.credential)
                    .ok_or_else(|| rolling("be made with a key pair"))?;
                Way::Rolling { roller }
            }
        };
        let memory = Memory::of(&line);
        let Wishes { address: named, lasts: wanted } = wishes;
        Ok(Self { line, door, target, way, named, wanted, memory, unnamed: false })
    }

    /// The first TCP service behind the door, which tells whether it is open.
    pub fn service(&self) -> Option<Step> {
        self.door.opens.iter().copied().find(|service| service.protocol == Protocol::Tcp)
    }

    /// How long the door stays open after a knock.
    pub fn lasts(&self) -> Duration {
        self.wanted.unwrap_or(self.door.open_for).min(self.door.open_for)
    }

    /// When to knock again to keep the door open.
    pub fn renewal(&self) -> Duration {
        match self.way {
            Way::Sealed { .. } => self.lasts() / 2,
            // A slot's sequence opens once; the next one begins in less than a slot.
            Way::Rolling { .. } => (self.lasts() / 2).max(SLOT),
        }
        .max(Duration::from_secs(1))
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
        match self.way {
            Way::Sealed { .. } => Ok(()),
            Way::Rolling { .. } => {
                let door = self.door.name.clone();
                Err(KnockError::Rolling { door, what: "close it before its time" })
            }
        }
    }

    fn send(&mut self, action: Action) -> Result<String, KnockError> {
        let now_ns = now_ns();
        let target = self.target;
        match (&self.way, &self.door.method) {
            (Way::Rolling { roller }, Method::Rolling(rolling)) => {
                let slot = slot_of(now_ns);
                let steps = roller.steps(&self.door.name, slot, rolling);
                let sent = format!("{} steps of slot {slot}", steps.len());
                Knock { target, steps, gap: GAP }.send(|_| {})?;
                Ok(sent)
            }
            (Way::Sealed { sealer, port, addresses }, _) => {
                let failed = |source| KnockError::Send { target, source };
                let socket = UdpSocket::bind(target.any()).map_err(failed)?;
                let to = target.with_port(*port);
                socket.connect(to).map_err(failed)?;
                let local = socket.local_addr().map_err(failed)?.ip();
                let address = match self.named {
                    Some(named) => Address::Named(named),
                    None => address(*addresses, local, to.ip(), self.unnamed),
                };
                let request = Request {
                    action,
                    time_ns: self.memory.newer(now_ns),
                    doors: vec![DoorTag::of(&self.door.name)],
                    wanted_s: self.wanted.map_or(0, |wanted| {
                        u32::try_from(wanted.as_secs().max(1)).unwrap_or(u32::MAX)
                    }),
                    address,
                };
                let packet = sealer.seal(&request)?;
                socket.send(&packet).map_err(failed)?;
                self.memory.remember(request.time_ns);
                let whom = match address {
                    Address::Seen => "the address that the host sees".to_owned(),
                    Address::Named(address) => address.to_string(),
                };
                Ok(format!("a sealed knock to udp/{port} for {whom}"))
            }
            (Way::Rolling { .. }, Method::Sealed { .. }) => Ok("nothing".to_owned()),
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

    /// What may be the matter, the most certain first.
    fn reasons(&self, refused: bool) -> Reasons {
        let now = now_ns();
        let seconds = |ns: u64| ns / 1_000_000_000;
        let mut reasons = Vec::new();
        if refused {
            reasons.push("the host refused the connection: nothing listens there".to_owned());
        }
        let slow = self.line.made.saturating_sub(seconds(now));
        if slow > 0 {
            reasons.push(format!(
                "this machine's clock is at least {slow} s slow: the key was made later than now"
            ));
        }
        let back = self.memory.newest_ns.saturating_sub(now);
        if seconds(back) > 0 {
            reasons.push(format!(
                "this machine's clock is {} s behind what it was at the last knock, and the host \
                 takes no knock that is older than that",
                seconds(back)
            ));
        }
        if let Some(until) = self.line.until
            && until <= seconds(now)
        {
            reasons.push(format!("the key ended {} s ago", seconds(now) - until));
        }
        if let Method::Sealed { addresses: Addresses::Own, .. } = self.door.method {
            let what = "this door takes no knocks through NAT (`addresses = \"own\"`)";
            reasons.push(what.to_owned());
        }
        let port = match self.door.method {
            Method::Sealed { port, .. } => format!("UDP port {port}"),
            Method::Rolling(_) => "UDP".to_owned(),
        };
        if !refused && reasons.is_empty() {
            reasons.push(format!(
                "the key was removed or rotated on the host, this machine's clock is off by more \
                 than {} s (compare it with `date -u`), {port} is filtered on the way, or nothing \
                 listens there",
                SLOT.as_secs()
            ));
        }
        Reasons(reasons)
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

/// What may be the matter.
#[derive(Debug)]
pub struct Reasons(Vec<String>);

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
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

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The time of the newest knock of a key, so that the next one is newer and a clock that was
/// set back is noticed.
struct Memory {
    file: Option<PathBuf>,
    newest_ns: u64,
}

impl Memory {
    fn of(line: &KeyLine) -> Self {
        let strategy = etcetera::choose_base_strategy().ok();
        let folder = strategy.map(|s| s.state_dir().unwrap_or_else(|| s.data_dir()));
        let file = folder.map(|folder| folder.join("xknock").join(line.id.to_string()));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        let newest_ns = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { file, newest_ns }
    }

    /// The time that the next knock names: now, or just after the last one if the clock was
    /// set back by less than hosts notice.
    fn newer(&self, now_ns: u64) -> u64 {
        let slack = SLOT.as_nanos() as u64;
        if self.newest_ns >= now_ns && self.newest_ns - now_ns < slack {
            self.newest_ns + 1
        } else {
            now_ns
        }
    }

    /// Notes a time. That it cannot be kept is no reason not to knock.
    fn remember(&mut self, time_ns: u64) {
        self.newest_ns = self.newest_ns.max(time_ns);
        if let Some(file) = &self.file {
            let _ = write_secret(file, &self.newest_ns.to_string(), true);
        }
    }
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
    fn each_knock_is_newer_than_the_last() {
        let mut memory = Memory { file: None, newest_ns: 0 };
        assert_eq!(memory.newer(1 << 60), 1 << 60);
        memory.remember(1 << 60);
        assert_eq!(memory.newer(1 << 60), (1 << 60) + 1);
        assert_eq!(memory.newer((1 << 60) - 1_000_000_000), (1 << 60) + 1);
        // A clock that went back far: the host would not take a time so far ahead either.
        let far = (1 << 60) - 3_600_000_000_000;
        assert_eq!(memory.newer(far), far);
    }
}
