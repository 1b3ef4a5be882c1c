//! The firewall: the only crate that knows nftables and its netlink messages.
//!
//! One table, `inet xknock`, holds everything. Every change is one transaction, which the kernel
//! makes as a whole or not at all. The table outlives this process, and the kernel ends grants by
//! itself.
//!
//! [`Firewall`] writes and reads the table, [`Ruleset`] is its content as a policy wants it,
//! [`Status`] its content as the kernel has it, and [`Watch`] reports changes by other programs.
//! Of the modules, `rules` and `sets` describe the table, `expressions`, `message` and `wire`
//! encode it, and `socket` talks to the kernel.

mod clock;
mod conntrack;
mod error;
mod expressions;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod message;
mod probe;
mod rules;
mod ruleset;
mod sets;
mod socket;
mod status;
mod uapi;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use knock_policy::Grant;
use nftnl::{Batch, MsgType, ProtoFamily, Table};

pub use self::clock::since_boot;
pub use self::error::FirewallError;
use self::message::Message;
pub use self::probe::{Ability, has};
pub use self::ruleset::{Ruleset, Tracking};
use self::sets::{Element, Set};
use self::socket::Socket;
pub use self::status::Status;
use self::uapi::*;
pub use self::watch::{Culprit, Watch};
use self::wire::Attributes;

const TABLE_NAME: &str = "xknock";
const FAMILY: i32 = libc::NFPROTO_INET;
/// `IFNAMSIZ`: the longest interface name with its closing zero.
const INTERFACE_NAME: usize = 16;

/// A grant with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedGrant {
    /// The source and the service.
    pub grant: Grant,
    /// The time when the grant ends, as [`since_boot`] counts. The kernel counts the time that remains
    /// in milliseconds, and 20 is the least.
    pub until: Duration,
}

/// The firewall of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
}

/// A transaction in the making, with the name of the object that each message is about.
struct Transaction {
    batch: Batch,
    objects: Vec<&'static str>,
}

impl Firewall {
    /// Opens the firewall of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// If the kernel has no nftables, or `CAP_NET_ADMIN` is missing.
    pub fn open() -> Result<Self, FirewallError> {
        let mut firewall = Self { socket: Socket::open()? };
        // The answer does not matter here. The question finds out whether questions are allowed.
        firewall.exists()?;
        Ok(firewall)
    }

    /// Whether connection tracking is in use in the calling thread's network namespace:
    /// connections are tracked, or a rule outside the table `xknock` needs it.
    ///
    /// # Errors
    ///
    /// If rules or files under `/proc` cannot be read.
    pub fn conntrack_in_use(&mut self) -> Result<bool, FirewallError> {
        conntrack::in_use(&mut self.socket)
    }

    /// Whether the table exists.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn exists(&mut self) -> Result<bool, FirewallError> {
        let name = Attributes::new().text(NFTA_TABLE_NAME, TABLE_NAME);
        let question = Message::new(libc::NFT_MSG_GETTABLE, libc::NLM_F_ACK, FAMILY, name);
        match self.socket.ask("look for the table inet xknock", &question) {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel hold this ruleset and these grants, in one transaction. Other grants in the
    /// table keep the time that remains to them, and the counters keep their values.
    ///
    /// # Errors
    ///
    /// If an interface name is not valid, or the kernel refuses. Nothing has changed then.
    pub fn install(
        &mut self,
        ruleset: &Ruleset,
        grants: &[TimedGrant],
    ) -> Result<(), FirewallError> {
        let mut change = Transaction::new();
        change.install(ruleset, grants)?;
        change.commit(&mut self.socket, "install the firewall")
    }

    /// Does the same as [`Firewall::install`], but removes the old content of the table in the same
    /// transaction. This works also if another tool changed the table in a way that cannot be
    /// undone piece by piece.
    ///
    /// # Errors
    ///
    /// Those of [`Firewall::install`].
    pub fn install_anew(
        &mut self,
        ruleset: &Ruleset,
        grants: &[TimedGrant],
    ) -> Result<(), FirewallError> {
        let mut change = Transaction::new();
        change.remove_table();
        change.install(ruleset, grants)?;
        change.commit(&mut self.socket, "install the firewall anew")
    }

    /// Returns the address of this socket, by which a [`Watch`] recognizes its changes.
    ///
    /// # Errors
    ///
    /// If the kernel does not name it.
    pub fn port(&self) -> Result<u32, FirewallError> {
        self.socket.port()
    }

    /// Adds these grants, or gives existing ones the new time, in one transaction. Of several for
    /// the same source and service the longest counts.
    ///
    /// # Errors
    ///
    /// If the table is gone or the kernel refuses. No grant was added then.
    pub fn grant(&mut self, grants: &[TimedGrant]) -> Result<(), FirewallError> {
        self.change_grants("add grants", &longest(grants), adding)
    }

    /// Ends these grants, in one transaction. Grants that do not exist are ignored.
    ///
    /// # Errors
    ///
    /// If the table is gone or the kernel refuses. No grant was ended then.
    pub fn revoke(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        // Elements are added only so that they can be deleted, and must not end in between.
        let soon = since_boot() + Duration::from_secs(60);
        let short = |grant| (canonical(grant), soon);
        self.change_grants("revoke grants", &grants.iter().map(short).collect(), |set, elements| {
            [set.add(elements), set.delete(elements)].concat()
        })
    }

    /// Returns the table as the kernel holds it, or `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked, or its answer is not understood.
    pub fn status(&mut self) -> Result<Option<Status>, FirewallError> {
        match status::read(&mut self.socket) {
            Ok(status) => Ok(Some(status)),
            Err(error) if error.is_absent() && !self.exists()? => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the table with everything in it, if it exists.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn remove(&mut self) -> Result<(), FirewallError> {
        let mut change = Transaction::new();
        change.remove_table();
        change.commit(&mut self.socket, "remove the firewall")
    }

    fn change_grants(
        &mut self,
        doing: &'static str,
        grants: &BTreeMap<Grant, Duration>,
        messages: impl Fn(&Set, &[Element]) -> Vec<Message>,
    ) -> Result<(), FirewallError> {
        if grants.is_empty() {
            return Ok(());
        }
        let mut change = Transaction::new();
        change.grants(grants, messages);
        match change.commit(&mut self.socket, doing) {
            Err(error) if error.is_absent() && !self.exists()? => Err(FirewallError::NoTable),
            result => result,
        }
    }
}

impl Transaction {
    fn new() -> Self {
        Self { batch: Batch::new(), objects: Vec::new() }
    }

    fn add(&mut self, object: &'static str, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.batch.add(&message, MsgType::Add);
            self.objects.push(object);
        }
    }

    fn install(&mut self, ruleset: &Ruleset, grants: &[TimedGrant]) -> Result<(), FirewallError> {
        let interfaces = interface_elements(&ruleset.interfaces)?;
        let services = |wanted: fn(bool) -> bool| -> Vec<Element> {
            let chosen = ruleset.guarded.iter().filter(|(_, cut)| wanted(**cut));
            chosen
                .map(|(service, _)| Element::lasting(sets::service_key(*service).to_vec()))
                .collect()
        };
        let left = ruleset.trial_until.and_then(|end| end.checked_sub(since_boot()));
        let trial: Vec<_> = match left {
            Some(lasts) => {
                let services = ruleset.guarded.keys().map(|service| sets::service_key(*service));
                let keys = services.chain([sets::ANY_TRIAL]);
                keys.map(|key| Element::passing(key, lasts)).collect()
            }
            // This is also the case if the trial has ended in the meantime.
            None => Vec::new(),
        };
        let table = table();
        self.table(&table, MsgType::Add);
        // Sets and counter come before the rules that name them.
        for set in sets::ALL {
            self.add(set.text(), [set.create()]);
        }
        let counter = counter_attributes().nested(NFTA_OBJ_DATA, Attributes::new());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_ACK;
        self.add("counter refused", [Message::new(libc::NFT_MSG_NEWOBJ, flags, FAMILY, counter)]);
        let contents = [
            (sets::INTERFACES, interfaces),
            (sets::GUARDED, services(|_| true)),
            (sets::CUT, services(|cut| cut)),
            (sets::TRIAL, trial),
        ];
        // These sets are what the ruleset says, so elements of an earlier one must go. The sets of
        // grants are not flushed: running grants stay.
        for (set, elements) in contents {
            self.add(set.text(), [set.flush()]);
            self.add(set.text(), set.add(&elements));
        }
        self.grants(&longest(grants), adding);
        // The rules come last, because errors name messages by their index in `objects`, where
        // chains and rules have no names.
        rules::write(&mut self.batch, &table, ruleset);
        Ok(())
    }

    fn grants(
        &mut self,
        grants: &BTreeMap<Grant, Duration>,
        messages: impl Fn(&Set, &[Element]) -> Vec<Message>,
    ) {
        let now = since_boot();
        for set in [sets::OPEN4, sets::OPEN6] {
            let ours = grants.iter().filter(|(grant, _)| Set::of(grant.source).name == set.name);
            let elements: Vec<_> = ours
                .map(|(grant, end)| Element::granting(grant, end.saturating_sub(now)))
                .collect();
            self.add(set.text(), messages(&set, &elements));
        }
    }

    /// Adds the table first, because deleting an absent one fails.
    fn remove_table(&mut self) {
        let table = table();
        for kind in [MsgType::Add, MsgType::Del] {
            self.table(&table, kind);
        }
    }

    fn table(&mut self, table: &Table, kind: MsgType) {
        self.batch.add(table, kind);
        self.objects.push("table inet xknock");
    }

    fn commit(self, socket: &mut Socket, doing: &'static str) -> Result<(), FirewallError> {
        let Self { batch, objects } = self;
        // The messages after the named objects are the chains and their rules.
        let object = |index: usize| objects.get(index).copied().unwrap_or("a chain or rule").into();
        socket.commit(doing, batch, object)
    }
}

/// Returns the messages that add elements, or give existing ones a new timeout. Before Linux 6.12,
/// adding an existing element keeps its timeout, and deleting an absent one fails. Adding, deleting
/// and adding again works on every kernel.
fn adding(set: &Set, elements: &[Element]) -> Vec<Message> {
    [set.add(elements), set.delete(elements), set.add(elements)].concat()
}

/// Returns each grant once, with the longest of its times.
fn longest(grants: &[TimedGrant]) -> BTreeMap<Grant, Duration> {
    let mut longest = BTreeMap::new();
    for TimedGrant { grant, until } in grants {
        let known = longest.entry(canonical(grant)).or_insert(*until);
        *known = (*known).max(*until);
    }
    longest
}

fn table() -> Table {
    Table::new(c"xknock", ProtoFamily::Inet)
}

/// Returns the attributes that name the counter of refused packets.
fn counter_attributes() -> Attributes {
    let name = rules::REFUSED.to_str().expect("counter names are ASCII");
    Attributes::new()
        .text(NFTA_OBJ_TABLE, TABLE_NAME)
        .text(NFTA_OBJ_NAME, name)
        .u32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER)
}

/// Returns the grant with the address that packets have on the wire: IPv4 mapped to IPv6
/// (`::ffff:a.b.c.d`) becomes IPv4.
fn canonical(grant: &Grant) -> Grant {
    Grant { source: grant.source.to_canonical(), ..*grant }
}

fn interface_elements(names: &[String]) -> Result<Vec<Element>, FirewallError> {
    let element = |name: &String| {
        if name.is_empty() || name.len() >= INTERFACE_NAME || name.contains('\0') {
            return Err(FirewallError::InterfaceName { name: name.clone() });
        }
        let mut key = name.as_bytes().to_vec();
        key.resize(INTERFACE_NAME, 0);
        Ok(Element::lasting(key))
    };
    names.iter().filter(|name| !name.ends_with('*')).map(element).collect()
}
