//! The firewall crate against the real kernel, each test in a namespace of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use knock_common::sequence::Protocol;
use knock_firewall::{Firewall, FirewallError, Ruleset, Status, TimedGrant, Tracking, since_boot};
use knock_lab::netns::Netns;
use knock_lab::process::patience;
use knock_lab::table::Changes;
use knock_policy::{Connections, Grant, Mode, Policy, Service};

const SSH: Service = Service::new(Protocol::Tcp, 22);
const DNS: Service = Service::new(Protocol::Udp, 53);

fn ruleset() -> Ruleset {
    Ruleset {
        interfaces: vec!["eth0".into(), "lo".into()],
        guarded: BTreeMap::from([(SSH, false), (DNS, true)]),
        always_allow: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        mode: Mode::Enforce,
        trial_until: None,
        tracking: Tracking::Stateless,
    }
}

fn grant(source: impl Into<IpAddr>, service: Service, seconds: u64) -> TimedGrant {
    let grant = Grant { source: source.into(), service };
    TimedGrant { grant, until: since_boot() + Duration::from_secs(seconds) }
}

/// How much longer than `seconds` a grant is at least to run.
fn lasts_longer(grant: &TimedGrant, seconds: u64) -> bool {
    grant.until > since_boot() + Duration::from_secs(seconds)
}

/// A firewall with that ruleset, in a new namespace.
fn installed() -> (Netns, Firewall) {
    let netns = Netns::new("firewall");
    let firewall = netns.run(|| {
        let mut firewall = Firewall::open().expect("nftables");
        firewall.install(&ruleset(), &[]).expect("the ruleset");
        firewall
    });
    (netns, firewall)
}

fn status(firewall: &mut Firewall) -> Status {
    firewall.status().expect("an answer").expect("a table")
}

#[test]
fn what_was_installed_is_read_back_and_nft_prints_it() {
    let (netns, mut firewall) = installed();
    let client: IpAddr = "2001:db8:1::2".parse().unwrap();
    firewall
        .grant(&[grant(Ipv4Addr::new(198, 51, 100, 2), SSH, 60), grant(client, DNS, 60)])
        .unwrap();
    let status = status(&mut firewall);
    assert_eq!(status.mode, Mode::Enforce);
    assert_eq!(status.guarded, [SSH, DNS]);
    assert_eq!(status.interfaces, ["eth0", "lo"]);
    assert_eq!(status.always_allow, ruleset().always_allow);
    assert_eq!(status.grants.len(), 2);
    assert!(status.grants.iter().all(|one| lasts_longer(one, 50)));
    let printed = netns.sh("nft list table inet xknock");
    for part in [
        "type ipv4_addr . inet_proto . inet_service",
        "198.51.100.2 . tcp . 22 timeout ",
        "2001:db8:1::2 . udp . 53 timeout ",
        "tcp . 22",
        "type filter hook prerouting priority mangle; policy accept;",
        "\"eth0\"",
        "ip saddr 192.0.2.0/24 accept",
        "drop",
    ] {
        assert!(printed.contains(part), "no {part:?} in {printed}");
    }
    assert!(!printed.contains("ct state"), "{printed}");
}

#[test]
fn installing_again_keeps_grants_and_replaces_everything_else() {
    let (_netns, mut firewall) = installed();
    firewall.grant(&[grant(Ipv4Addr::new(198, 51, 100, 2), SSH, 600)]).unwrap();
    let other = Ruleset {
        interfaces: vec!["eth1".into()],
        guarded: BTreeMap::from([(SSH, true)]),
        always_allow: Vec::new(),
        mode: Mode::Observe,
        trial_until: None,
        tracking: Tracking::Stateless,
    };
    firewall.install(&other, &[]).unwrap();
    let status = status(&mut firewall);
    assert_eq!(
        (status.mode, status.interfaces.as_slice()),
        (Mode::Observe, &["eth1".to_owned()][..])
    );
    assert_eq!(status.guarded, [SSH]);
    assert!(status.always_allow.is_empty());
    assert_eq!(status.grants.len(), 1);
    assert!(lasts_longer(&status.grants[0], 590));
}

#[test]
fn what_is_read_back_and_installed_again_and_again_ends_when_it_would_have() {
    const AGAIN: usize = 20;
    /// What a busy machine may add to that.
    const BUSY: Duration = Duration::from_secs(1);
    let (_netns, mut firewall) = installed();
    let end = since_boot() + Duration::from_secs(600);
    let trial = Ruleset { mode: Mode::Observe, trial_until: Some(end), ..ruleset() };
    let client = Grant { source: Ipv4Addr::new(198, 51, 100, 2).into(), service: SSH };
    firewall.install(&trial, &[TimedGrant { grant: client, until: end }]).unwrap();
    for _ in 0..AGAIN {
        let held = status(&mut firewall);
        for until in [held.trial_until.expect("a trial"), held.grants[0].until] {
            assert!(until.abs_diff(end) < BUSY, "{until:?}, not {end:?}");
        }
        let again = Ruleset { trial_until: held.trial_until, ..trial.clone() };
        firewall.install_anew(&again, &held.grants).unwrap();
    }
}

#[test]
fn a_trial_whose_time_was_over_before_it_came_closes_nothing() {
    let (_netns, mut firewall) = installed();
    let trial = Ruleset { mode: Mode::Observe, trial_until: Some(since_boot()), ..ruleset() };
    firewall.install(&trial, &[]).unwrap();
    let status = status(&mut firewall);
    assert_eq!((status.mode, status.trial_until), (Mode::Observe, None));
}

#[test]
fn a_grant_is_extended_and_the_longest_of_several_counts() {
    let (_netns, mut firewall) = installed();
    let client = Ipv4Addr::new(198, 51, 100, 2);
    firewall.grant(&[grant(client, SSH, 10)]).unwrap();
    firewall
        .grant(&[grant(client, SSH, 100), grant(client, SSH, 1000), grant(client, SSH, 20)])
        .unwrap();
    let grants = status(&mut firewall).grants;
    assert_eq!(grants.len(), 1);
    assert!(lasts_longer(&grants[0], 990), "{grants:?}");
}

#[test]
fn grants_are_revoked_and_absent_ones_do_not_matter() {
    let (_netns, mut firewall) = installed();
    let (one, two) = (
        grant(Ipv4Addr::new(198, 51, 100, 2), SSH, 60),
        grant(Ipv4Addr::new(198, 51, 100, 3), SSH, 60),
    );
    firewall.grant(&[one, two]).unwrap();
    firewall.revoke(&[one.grant, grant(Ipv4Addr::new(198, 51, 100, 4), SSH, 1).grant]).unwrap();
    let left: Vec<_> = status(&mut firewall).grants.iter().map(|timed| timed.grant).collect();
    assert_eq!(left, [two.grant]);
}

#[test]
fn a_hundred_thousand_grants_go_into_one_transaction() {
    const MANY: u32 = 100_000;
    let (_netns, mut firewall) = installed();
    let grants: Vec<_> =
        (0..MANY).map(|n| grant(Ipv4Addr::from(0x0a00_0000 + n), SSH, 600)).collect();
    firewall.grant(&grants).unwrap();
    assert_eq!(status(&mut firewall).grants.len(), MANY as usize);
    firewall.grant(&grants).expect("all of them can be extended at once");
    firewall.remove().unwrap();
}

#[test]
fn removing_leaves_nothing_and_can_be_done_twice() {
    let (netns, mut firewall) = installed();
    firewall.remove().unwrap();
    firewall.remove().unwrap();
    assert_eq!(netns.sh("nft list tables"), "");
    assert_eq!(firewall.status().unwrap(), None);
}

#[test]
fn a_table_that_another_tool_removed_has_an_error_of_its_own() {
    let (netns, mut firewall) = installed();
    netns.sh("nft flush ruleset");
    let error = firewall.grant(&[grant(Ipv4Addr::new(198, 51, 100, 2), SSH, 60)]).unwrap_err();
    assert!(matches!(error, FirewallError::NoTable), "{error}");
    firewall.install(&ruleset(), &[]).unwrap();
    assert!(firewall.exists().unwrap());
}

#[test]
fn a_change_that_comes_before_the_queue_of_a_lossy_watch_is_read_is_not_missed() {
    let (netns, _firewall) = installed();
    let mut changes = Changes::of(&netns);
    // More changes of another table than the queue holds.
    netns.sh("nft add table inet other; nft add set inet other s '{ type ipv4_addr; }'; \
         for round in $(seq 20); do for n in $(seq 250); do for m in 1 2 3 4 5 6 7 8; do \
         echo add element inet other s { 10.$round.$n.$m }; done; done; done | nft -f -");
    assert!(changes.next(patience()), "some were lost");
    // The kernel delivers nothing, and does not say so again, until the queue is empty.
    netns.sh("nft flush ruleset");
    assert!(changes.next(patience()), "and this one was missed");
}

#[test]
fn a_refused_ruleset_changes_nothing() {
    let (_netns, mut firewall) = installed();
    let before = status(&mut firewall);
    let bad = Ruleset { interfaces: vec!["a-name-that-is-too-long".into()], ..ruleset() };
    let error = firewall.install(&bad, &[]).unwrap_err();
    assert!(error.to_string().contains("a-name-that-is-too-long"), "{error}");
    assert_eq!(status(&mut firewall), before);
}

#[test]
fn auto_tracks_connections_where_the_host_does() {
    let policy = |connections| Policy { connections, ..Policy::default() };
    for (connections, in_use, expected) in [
        (Connections::Auto, false, Tracking::Stateless),
        (Connections::Auto, true, Tracking::Conntrack),
        (Connections::Stateless, true, Tracking::Stateless),
        (Connections::Conntrack, false, Tracking::Conntrack),
    ] {
        assert_eq!(Ruleset::of(&policy(connections), in_use).tracking, expected);
    }
}

#[test]
fn connection_tracking_of_others_is_noticed_and_our_own_is_not() {
    let netns = Netns::new("conntrack");
    let in_use = || netns.run(|| Firewall::open().unwrap().conntrack_in_use().unwrap());
    assert!(!in_use());
    netns.run(|| {
        let ours = Ruleset { tracking: Tracking::Conntrack, ..ruleset() };
        Firewall::open().unwrap().install(&ours, &[]).unwrap();
    });
    assert!(!in_use(), "a restart does not make the agent's own rule a reason");
    netns.sh(
        "nft add table ip nat; nft add chain ip nat c; nft add rule ip nat c ct state new counter",
    );
    assert!(in_use());
}

#[test]
fn without_privilege_the_capability_is_named() {
    let netns = Netns::new("unprivileged");
    let error = netns.run(|| {
        // Only this thread loses the capability, and it ends here.
        drop_net_admin();
        Firewall::open().map(drop).unwrap_err()
    });
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}

fn drop_net_admin() {
    caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).expect("drop it");
}
