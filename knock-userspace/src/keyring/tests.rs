use std::path::PathBuf;

use knock_common::sequence::Protocol;
use knock_keys::{
    Address, Addresses, DoorTag, KeyLine, Kind, Ports, Request, Sealer, Stale, WINDOW,
};
use knock_policy::Service;
use tempfile::TempDir;

use super::*;

/// In the middle of a slot.
const NOW: u64 = 1_800_000_015_000_000_000;
const SECOND: u64 = 1_000_000_000;
const SEEN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

fn policy(addresses: Addresses) -> Policy {
    let opens = |port| vec![Service::new(Protocol::Tcp, port)];
    let sealed = Method::Sealed { port: 62_201, addresses };
    let rolling = Method::Rolling { ports: 20_000..=32_767, steps: 5, mixed: false };
    let door = |name: &str, port, method| Door { method, ..Door::new(name, opens(port), vec![]) };
    let doors = vec![
        door("ssh", 22, sealed.clone()),
        door("admin", 8443, sealed),
        door("web", 443, rolling),
        door("old", 80, Method::Sequence),
    ];
    Policy { doors, ..Policy::default() }
}

fn key(name: &str, kind: Kind, doors: &[&str]) -> (Key, KeyLine) {
    let door = |name: &&str| {
        let text = match *name {
            "web" => "web:rolling:20000-32767::5:udp:30:tcp/443".to_owned(),
            other => format!("{other}:sealed:62201:seen:30:tcp/22"),
        };
        text.parse().unwrap()
    };
    let doors = doors.iter().map(door).collect();
    let longest = Some(Duration::from_secs(20));
    Key::draw(name.into(), String::new(), kind, doors, NOW / SECOND, None, longest).unwrap()
}

struct Host {
    _folder: TempDir,
    path: PathBuf,
    keys: Vec<Key>,
    ring: Keyring,
    policy: Policy,
}

impl Host {
    fn new(keys: &[&Key]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("newest");
        ReplayStore::create_if_absent(&path).unwrap();
        let (replay_store, problem) = ReplayStore::open(&path, 0);
        assert!(problem.is_none());
        let keys: Vec<_> = keys.iter().map(|&key| key.clone()).collect();
        let ring = Keyring::new(keys.clone(), replay_store, WINDOW);
        Self { _folder: folder, path, keys, ring, policy: policy(Addresses::Seen) }
    }

    /// Restarts the agent on this host.
    fn restart(&mut self, now_ns: u64) {
        let (replay_store, _) = ReplayStore::open(&self.path, Newest::lost(now_ns, WINDOW).0);
        self.ring = Keyring::new(self.keys.clone(), replay_store, WINDOW);
    }

    fn open(
        &mut self,
        packet: [u8; 184],
        from: IpAddr,
        now_ns: u64,
    ) -> Result<Admission, DenialReason> {
        let event = SealedEvent { source: from.into(), time_ns: 1, packet };
        self.ring.judge_sealed(&event, &self.policy, now_ns).map_err(|denial| denial.reason)
    }

    fn live(&mut self, now_ns: u64) -> Vec<LiveSequence> {
        let mut sequences = self.ring.live_sequences(&self.policy, &HashSet::new(), now_ns);
        sequences.sort_by_key(|sequence| sequence.id);
        sequences
    }

    fn roll(&mut self, id: DoorId, now_ns: u64) -> Option<Result<Admission, DenialReason>> {
        let rolled = self.ring.judge_sequence(id, SEEN, &self.policy, now_ns)?;
        Some(rolled.map_err(|denial| denial.reason))
    }
}

fn request(time_ns: u64, doors: &[&str]) -> Request {
    Request {
        action: Action::Open,
        time_ns,
        doors: doors.iter().map(|door| DoorTag::of(door)).collect(),
        wanted_s: 0,
        address: Address::Seen,
    }
}

fn seal(line: &KeyLine, request: &Request) -> [u8; 184] {
    Sealer::new(line.id, &line.credential).unwrap().seal(request).unwrap()
}

#[test]
fn a_sealed_knock_opens_its_doors_for_as_long_as_door_and_key_allow() {
    for kind in [Kind::Shared, Kind::Public] {
        let (key, line) = key("laptop", kind, &["ssh", "admin"]);
        let mut host = Host::new(&[&key]);
        let both = seal(&line, &request(NOW, &["ssh", "admin"]));
        let lasts = Duration::from_secs(20);
        let expected = Admission {
            key: "laptop".into(),
            action: Action::Open,
            source: SEEN,
            doors: vec![("ssh".into(), lasts), ("admin".into(), lasts)],
        };
        assert_eq!(host.open(both, SEEN, NOW), Ok(expected));
        let short = Request { wanted_s: 5, ..request(NOW + 1, &["ssh"]) };
        let admitted = host.open(seal(&line, &short), SEEN, NOW).unwrap();
        assert_eq!(admitted.doors, [("ssh".to_owned(), Duration::from_secs(5))]);
        let long = Request { wanted_s: 21, ..request(NOW + 2, &["ssh"]) };
        let reason = DenialReason::TooLong { wanted: 21, limit: 20 };
        assert_eq!(host.open(seal(&line, &long), SEEN, NOW), Err(reason));
    }
}

#[test]
fn nothing_opens_twice_neither_later_nor_from_elsewhere_nor_after_a_restart() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh"]);
    let mut host = Host::new(&[&key]);
    let packet = seal(&line, &request(NOW, &["ssh"]));
    host.open(packet, SEEN, NOW).unwrap();
    let replayed = Err(DenialReason::Stale(Stale::Replayed));
    for from in [SEEN, [203, 0, 113, 9].into()] {
        for (now, restarts) in [(NOW, false), (NOW + 59 * SECOND, false), (NOW - SECOND, true)] {
            if restarts {
                host.restart(now);
            }
            assert_eq!(host.open(packet, from, now), replayed);
        }
    }
    let older = seal(&line, &request(NOW - 1, &["ssh"]));
    assert_eq!(host.open(older, SEEN, NOW), replayed, "it was held back");
    let newer = seal(&line, &request(NOW + 1, &["ssh"]));
    assert!(host.open(newer, SEEN, NOW).is_ok());
    // The kernel knows it too.
    let gate = host.ring.gates(NOW / SECOND)[&key.current.id.number()];
    assert_eq!(gate.newest_ns, NOW + 1);
}

/// A key file that is damaged or absent for a while, and comes back.
#[test]
fn a_key_that_comes_back_is_not_new() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh", "web"]);
    let mut host = Host::new(&[&key]);
    let packet = seal(&line, &request(NOW, &["ssh"]));
    host.open(packet, SEEN, NOW).unwrap();
    let used = host
        .live(NOW)
        .iter()
        .map(|sequence| sequence.id)
        .find(|&id| matches!(host.roll(id, NOW), Some(Ok(_))));
    for restarts in [false, true] {
        host.ring.replace(Vec::new(), WINDOW);
        host.ring.forget_old(NOW);
        if restarts {
            host.restart(NOW);
        }
        host.ring.replace(vec![key.clone()], WINDOW);
        assert_eq!(host.open(packet, SEEN, NOW), Err(DenialReason::Stale(Stale::Replayed)));
        assert!(host.live(NOW).iter().all(|sequence| Some(sequence.id) != used));
    }
    // After a month, it need not be remembered.
    host.ring.replace(Vec::new(), WINDOW);
    host.ring.forget_old(NOW + 31 * 86_400 * SECOND);
    assert_eq!(host.ring.replay_store.get(key.current.id.number()), 0);
}

#[test]
fn a_packet_counts_once_even_if_it_opens_nothing() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh"]);
    let mut host = Host::new(&[&key]);
    let packet = seal(&line, &request(NOW, &["admin"]));
    assert_eq!(host.open(packet, SEEN, NOW), Err(DenialReason::Door));
    assert_eq!(host.open(packet, SEEN, NOW), Err(DenialReason::Stale(Stale::Replayed)));
}

#[test]
fn what_a_key_may_not_do_is_named() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh", "old", "gone", "web"]);
    let (_, stranger) = self::key("stranger", Kind::Shared, &["ssh"]);
    let mut host = Host::new(&[&key]);
    let unknown = seal(&stranger, &request(NOW, &["ssh"]));
    assert_eq!(host.open(unknown, SEEN, NOW), Err(DenialReason::UnknownKey));
    let mut forged = unknown;
    forged[..8].copy_from_slice(&line.id.0);
    assert_eq!(host.open(forged, SEEN, NOW), Err(DenialReason::NotOpened(OpenError::Tag)));
    for door in ["old", "gone", "web", "admin"] {
        let packet = seal(&line, &request(NOW, &["ssh", door]));
        host.restart(NOW);
        assert!(matches!(host.open(packet, SEEN, NOW), Err(DenialReason::Door)), "{door}");
        host = Host::new(&[&key]);
    }
    let early = seal(&line, &request(NOW + 61 * SECOND, &["ssh"]));
    assert!(matches!(host.open(early, SEEN, NOW), Err(DenialReason::Stale(Stale::Clock(_)))));
    let mut ended = key;
    ended.expires = Some(NOW / SECOND);
    let mut host = Host::new(&[&ended]);
    let packet = seal(&line, &request(NOW, &["ssh"]));
    assert_eq!(host.open(packet, SEEN, NOW), Err(DenialReason::Expired));
    assert!(host.ring.gates(NOW / SECOND).is_empty());
}

#[test]
fn doors_say_which_addresses_they_take() {
    let elsewhere: IpAddr = [203, 0, 113, 9].into();
    let (seen, own) = (Address::Seen, Address::Named(SEEN));
    let other = Address::Named(elsewhere);
    for (addresses, address, expected) in [
        (Addresses::Seen, seen, Ok(SEEN)),
        (Addresses::Seen, own, Ok(SEEN)),
        (Addresses::Seen, other, Err(DenialReason::Address(elsewhere))),
        (Addresses::Own, seen, Err(DenialReason::NoAddress)),
        (Addresses::Own, own, Ok(SEEN)),
        (Addresses::Own, other, Err(DenialReason::Address(elsewhere))),
        (Addresses::Any, seen, Ok(SEEN)),
        (Addresses::Any, own, Ok(SEEN)),
        (Addresses::Any, other, Ok(elsewhere)),
        (
            Addresses::Any,
            Address::Named([0, 0, 0, 0].into()),
            Err(DenialReason::Address([0, 0, 0, 0].into())),
        ),
    ] {
        let (key, line) = key("laptop", Kind::Shared, &["ssh"]);
        let mut host = Host::new(&[&key]);
        host.policy = policy(addresses);
        let packet = seal(&line, &Request { address, ..request(NOW, &["ssh"]) });
        let admitted = host.open(packet, SEEN, NOW).map(|admission| admission.source);
        assert_eq!(admitted, expected, "{addresses:?} {address:?}");
    }
}

#[test]
fn both_parts_of_a_rotated_key_knock_until_the_old_one_ends() {
    let (mut key, old) = key("laptop", Kind::Shared, &["ssh", "web"]);
    let now_s = NOW / SECOND;
    let new = key.rotate(now_s, now_s + 10, false).unwrap();
    let mut host = Host::new(&[&key]);
    assert_eq!(host.ring.gates(now_s).len(), 2);
    assert_eq!(host.ring.next_expiry(now_s), Some(now_s + 10));
    assert_eq!(host.live(NOW).len(), 6);
    for line in [&old, &new] {
        host.open(seal(line, &request(NOW, &["ssh"])), SEEN, NOW).unwrap();
    }
    let later = NOW + 10 * SECOND;
    assert_eq!(host.ring.gates(now_s + 10).len(), 1);
    assert_eq!(host.live(later).len(), 3);
    let late = seal(&old, &request(later, &["ssh"]));
    assert_eq!(host.open(late, SEEN, later), Err(DenialReason::Expired));
}

#[test]
fn a_rolling_sequence_lives_for_three_slots_and_opens_once() {
    let (key, line) = key("phone", Kind::Shared, &["web"]);
    let mut host = Host::new(&[&key]);
    let sequences = host.live(NOW);
    assert_eq!(sequences.len(), 3);
    // The device derives the same steps.
    let knock_keys::KeyMethod::Rolling(settings) = &line.doors[0].method else { panic!("rolling") };
    let steps = Roller::new(&line.credential).unwrap().steps("web", slot_of(NOW), settings);
    let id = sequences.iter().find(|sequence| sequence.steps == steps).unwrap().id;
    let admitted = host.roll(id, NOW).unwrap().unwrap();
    assert_eq!((&*admitted.key, &*admitted.doors[0].0), ("phone", "web"));
    assert_eq!(host.roll(id, NOW), Some(Err(DenialReason::Used)));
    // The slot that was used and those before it are no longer alive.
    assert_eq!(host.live(NOW).len(), 1);
    host.restart(NOW);
    assert_eq!(host.live(NOW).len(), 1);
    assert_eq!(host.roll(id, NOW), None, "it is no longer alive");
    assert_eq!(host.live(NOW + 30 * SECOND).len(), 2);
    assert_eq!(host.roll(DoorId::of("web"), NOW), None, "the door itself is no sequence");
}

#[test]
fn a_sequence_of_another_time_opens_nothing() {
    let (key, _) = key("phone", Kind::Shared, &["web"]);
    let mut host = Host::new(&[&key]);
    let sequences = host.live(NOW);
    // The clock was set, and the sequences have not been computed again yet.
    for sequence in sequences {
        assert_eq!(host.roll(sequence.id, NOW + 90 * SECOND), Some(Err(DenialReason::Slot)));
        assert_eq!(host.roll(sequence.id, NOW - 90 * SECOND), Some(Err(DenialReason::Slot)));
    }
}

#[test]
fn sequences_keep_their_names_and_leave_out_ports_that_are_taken() {
    let (key, _) = key("phone", Kind::Shared, &["web"]);
    let mut host = Host::new(&[&key]);
    let before = host.live(NOW);
    let after = host.live(NOW + 30 * SECOND);
    assert_eq!(after.iter().filter(|sequence| before.contains(sequence)).count(), 2);
    let taken = HashSet::from([before[0].steps[2]]);
    let sequences = host.ring.live_sequences(&host.policy, &taken, NOW);
    assert_eq!(sequences.len(), 2);
    assert!(!sequences.contains(&before[0]));
    let mut other = policy(Addresses::Seen);
    other.doors.retain(|door| door.name != "web");
    assert_eq!(host.ring.live_sequences(&other, &HashSet::new(), NOW), []);
    assert!(host.ring.has_rolling_doors(&host.policy) && !host.ring.has_rolling_doors(&other));
}

#[test]
fn a_lost_file_refuses_what_could_have_been_captured() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh", "web"]);
    let mut host = Host::new(&[&key]);
    let captured = seal(&line, &request(NOW + 59 * SECOND, &["ssh"]));
    host.open(captured, SEEN, NOW).unwrap();
    std::fs::remove_file(&host.path).unwrap();
    host.restart(NOW);
    assert_eq!(host.open(captured, SEEN, NOW), Err(DenialReason::Stale(Stale::Replayed)));
    assert_eq!(host.live(NOW), []);
    let later = NOW + 90 * SECOND;
    host.open(seal(&line, &request(later, &["ssh"])), SEEN, later).unwrap();
    assert!(!host.live(later).is_empty());
}

/// A host without a real-time clock starts with a time in the past, and gets the right one later.
#[test]
fn a_lost_file_and_a_clock_that_was_behind_let_no_replay_in() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh", "web"]);
    let mut host = Host::new(&[&key]);
    let captured = seal(&line, &request(NOW, &["ssh"]));
    host.open(captured, SEEN, NOW).unwrap();
    let (sequence, hour) = (host.live(NOW)[0].id, 3600 * SECOND);
    std::fs::remove_file(&host.path).unwrap();
    host.restart(NOW - hour);
    // Knocks of a device whose clock is as wrong count. They must not hide that the store was lost.
    let early = NOW - hour + 61 * SECOND;
    host.open(seal(&line, &request(early, &["ssh"])), SEEN, early).unwrap();
    host.ring.raise_floor(NOW + SECOND);
    assert_eq!(host.open(captured, SEEN, NOW + SECOND), Err(DenialReason::Stale(Stale::Replayed)));
    host.live(NOW + SECOND);
    assert_eq!(host.roll(sequence, NOW + SECOND), None, "no sequence of that time is alive");
    let later = NOW + 90 * SECOND;
    host.open(seal(&line, &request(later, &["ssh"])), SEEN, later).unwrap();
}

#[test]
fn a_key_that_was_used_in_the_future_is_blocked_until_then() {
    let (key, _) = key("laptop", Kind::Shared, &["ssh"]);
    let mut host = Host::new(&[&key]);
    assert_eq!(host.ring.blocked_until(NOW), None);
    let year = 365 * 24 * 3600 * SECOND;
    std::fs::remove_file(&host.path).unwrap();
    host.restart(NOW + year);
    assert_eq!(host.ring.blocked_until(NOW), Some(Newest::lost(NOW + year, WINDOW).0));
    assert_eq!(host.ring.blocked_until(NOW + year), None);
}

#[test]
fn a_sequence_of_a_door_that_a_key_has_lost_opens_nothing() {
    let (mut key, _) = key("laptop", Kind::Shared, &["ssh", "web"]);
    let mut host = Host::new(&[&key]);
    let sequence = host.live(NOW)[0].id;
    key.doors.truncate(1);
    host.ring.replace(vec![key], WINDOW);
    assert_eq!(host.roll(sequence, NOW), None);
}

#[test]
fn a_file_that_cannot_be_written_costs_a_window_and_lets_no_replay_in() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh"]);
    let mut host = Host::new(&[&key]);
    let (replay_store, _) = ReplayStore::open(std::path::Path::new("/proc/nowhere/newest"), 0);
    host.ring = Keyring::new(host.keys.clone(), replay_store, WINDOW);
    let first = seal(&line, &request(NOW, &["ssh"]));
    assert_eq!(host.open(first, SEEN, NOW), Err(DenialReason::NotKept));
    let soon = seal(&line, &request(NOW + 30 * SECOND, &["ssh"]));
    assert_eq!(host.open(soon, SEEN, NOW + 30 * SECOND), Err(DenialReason::Stale(Stale::Replayed)));
    let later = NOW + 61 * SECOND;
    let packet = seal(&line, &request(later, &["ssh"]));
    host.open(packet, SEEN, later).unwrap();
    assert_eq!(host.open(packet, SEEN, later), Err(DenialReason::Stale(Stale::Replayed)));
}

#[test]
fn a_newer_time_from_the_kernel_counts() {
    let (key, line) = key("laptop", Kind::Shared, &["ssh"]);
    let mut host = Host::new(&[&key]);
    let id = key.current.id.number();
    host.ring.raise_newest(id, NOW);
    host.ring.raise_newest(id, NOW - 5);
    host.ring.raise_newest(1, NOW);
    let packet = seal(&line, &request(NOW, &["ssh"]));
    assert_eq!(host.open(packet, SEEN, NOW), Err(DenialReason::Stale(Stale::Replayed)));
}

#[test]
fn ports_of_two_keys_may_collide() {
    let ports = Ports::new(20_000..=21_100, []).unwrap();
    let text =
        format!("web:rolling:{}-{}::5:udp:30:tcp/443", ports.range().start(), ports.range().end());
    let keys: Vec<_> = (0..200)
        .map(|number| {
            let doors = vec![text.parse().unwrap()];
            let name = format!("device{number}");
            Key::draw(name, String::new(), Kind::Shared, doors, 1, None, None).unwrap().0
        })
        .collect();
    let mut host = Host::new(&keys.iter().collect::<Vec<_>>());
    let sequences = host.live(NOW);
    assert_eq!(sequences.len(), 600);
    let firsts: HashSet<Step> = sequences.iter().map(|sequence| sequence.steps[0]).collect();
    assert!(firsts.len() < 600, "some begin alike");
    for sequence in sequences.iter().step_by(3) {
        let rolled = host.roll(sequence.id, NOW).unwrap();
        assert!(matches!(rolled, Ok(_) | Err(DenialReason::Used)));
    }
}
