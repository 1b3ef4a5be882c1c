//! Rolling sequences, which change every half minute, while knocks are under way.

use std::time::{SystemTime, UNIX_EPOCH};

use knock_common::sequence::Step;
use knock_keys::{KeyLine, KeyMethod, Roller, SLOT, slot_of};
use knock_lab::process::patience;
use knock_lab::{Packet, wire};

use super::{RENEWED, ROLLING, Site, ssh_by};
use crate::SSH;

fn slot() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    slot_of(u64::try_from(now).expect("before 2554"))
}

/// Returns the steps of the key in `line` in a slot.
fn steps(line: &str, slot: u64) -> Vec<Step> {
    let line = KeyLine::parse(line).expect("a line");
    let KeyMethod::Rolling(rolling) = &line.doors[0].method else { panic!("a rolling door") };
    Roller::new(&line.credential).expect("a shared key").steps("ssh", slot, rolling)
}

#[test]
fn a_knock_half_way_goes_on_when_keys_change_and_a_slot_ends() {
    let site = Site::new(ssh_by(ROLLING).within("5m"));
    let line = site.add("laptop", &[]);
    let mut agent = site.start_telling_of_renewals();
    let (client, server) = (&site.lab.client, &site.lab.server);
    let begun = slot();
    let frames: Vec<_> = steps(&line, begun)
        .into_iter()
        .map(|step| Packet::to(server, client.v4).knock(step))
        .collect();
    wire::send(client, frames[..2].to_vec());
    // Another key, whose steps may begin with the same ports.
    site.add("phone", &[]);
    agent.await_message("keys read");
    let mut renewed = agent.await_message(RENEWED);
    wire::send(client, frames[2..4].to_vec());
    // The next slot, and with it one that is alive no more.
    while renewed["slot"] == begun {
        renewed = agent.await_message_within(RENEWED, SLOT + patience());
    }
    wire::send(client, frames[4..].to_vec());
    agent.await_opened(client.v4, SSH);
    assert!(!site.is_open_for_stranger());
}
