//! Changes of keys while the agent runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use knock_keys::Folder;
use knock_lab::keys::Device;
use knock_lab::process::{seconds, slowness};

use super::{RENEWED, ROLLING, SEALED, Site, ssh_by};
use crate::SSH;

#[test]
fn keys_that_are_added_rotated_and_removed_count_at_once() {
    for door in [SEALED, ROLLING] {
        let site = Site::new(ssh_by(door));
        let mut agent = site.start();
        let (server, client) = (&site.lab.server, &site.lab.client);
        let old = site.device("laptop", &[]);
        agent.await_message("keys read");
        old.knock(client, &["server"]);
        agent.await_opened(client.v4, SSH);

        let line = site.keys.key(server, &["rotate", "laptop", "--grace", "1h"]);
        agent.await_message("keys read");
        let new = Device::new(client, &line, &server.v4.to_string());
        new.knock(client, &["server"]);
        let line = site.keys.key(server, &["rotate", "laptop", "--grace", "0s"]);
        agent.await_message("keys read");
        let newest = Device::new(client, &line, &server.v4.to_string());
        newest.knock(client, &["server"]);

        site.keys.key(server, &["remove", "laptop"]);
        agent.await_message("keys read");
        knock_lab::agent::xknockd_output(server, &["revoke", "--all"]);
        let said = newest.xknock(client, &["server", "--timeout", "1s"]);
        assert!(!said.status.success());
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("removed or rotated"), "{said}");
    }
}

#[test]
fn a_damaged_key_is_named_and_the_others_go_on() {
    let site = Site::new(ssh_by(SEALED));
    let device = site.device("laptop", &[]);
    site.add("phone", &[]);
    let mut agent = site.start();
    let folder = Folder::new(site.keys.folder());
    fs::write(folder.file("phone"), "version = 1\nsecret").expect("written");
    let refused = agent.await_message("a key is refused");
    let problem = refused["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("phone.toml: line 2"), "{refused}");
    device.knock(&site.lab.client, &["server"]);
    agent.await_opened(site.lab.client.v4, SSH);
    fs::set_permissions(folder.file("laptop"), fs::Permissions::from_mode(0o644)).expect("set");
    let refused = agent.await_message("a key is refused");
    assert!(refused["problem"].as_str().unwrap_or_default().contains("chmod 600"), "{refused}");
    let secrets = site.keys.folder();
    let text = fs::read_to_string(secrets.join("laptop.toml")).expect("the key");
    let secret = text.split('"').find(|word| word.len() == 43).expect("a secret").to_owned();
    let log = agent.log();
    assert!(!log.contains(&secret[..8]), "{log}");
}

#[test]
fn a_key_expires_at_its_time() {
    let site = Site::new(ssh_by(SEALED));
    let device = site.device("laptop", &["--expires", &seconds(8)]);
    // Ends are whole seconds.
    let end = SystemTime::now() + Duration::from_secs(8) * slowness() - Duration::from_secs(1);
    let mut agent = site.start_telling_of_renewals();
    device.knock(&site.lab.client, &["server"]);
    agent.await_opened(site.lab.client.v4, SSH);
    // The detector gets the key at once. A renewal at the start of a slot comes before.
    while SystemTime::now() < end {
        agent.await_message(RENEWED);
    }
    knock_lab::agent::xknockd_output(&site.lab.server, &["revoke", "--all"]);
    let said = device.xknock(&site.lab.client, &["server", "--timeout", "1s"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("the key ended"), "{said}");
    assert!(agent.stop().get("sealed_unknown_key") > 0, "the kernel has forgotten it");
}

#[test]
fn an_agent_with_ten_thousand_keys_takes_knocks() {
    let text = ssh_by(SEALED).door("web", ["tcp/443"]).method(ROLLING);
    // An emulated machine may take longer to write a slot than a knock may wait for by default.
    let site = Site::new(text.top("late_grants", "5m"));
    let ports = "20000-32767";
    let doors =
        ["ssh:sealed:62201:seen:30:tcp/22", &format!("web:rolling:{ports}::5:udp:30:tcp/443")]
            .map(|door| door.parse().expect("a door"));
    let line = site.keys.draw(&site.lab.server, 10_000, &doors).to_text();
    let device = Device::new(&site.lab.client, &line, &site.lab.server.v4.to_string());
    let _web = knock_lab::services::Echo::start(&site.lab.server, 443);
    let mut agent = site.start();
    device.knock(&site.lab.client, &["server", "--door", "ssh"]);
    agent.await_opened(site.lab.client.v4, SSH);
    device.knock(&site.lab.client, &["server", "--door", "web"]);
    agent.await_opened(site.lab.client.v4, "tcp/443");
}

#[test]
fn keys_that_a_reload_leaves_behind_are_named() {
    let site = Site::new(ssh_by(SEALED));
    site.add("laptop", &[]);
    let mut agent = site.start();
    site.keys.set_config(ssh_by(SEALED).in_door("port", 62_999));
    crate::verb(&site.lab.server, &["reload"]);
    let left = agent.await_message("keys that open nothing there");
    assert!(left["problem"].as_str().unwrap_or_default().contains("UDP port 62999 now"), "{left}");
    assert_eq!((&left["keys"], &left["first"]), (&1.into(), &"laptop".into()));
}

/// Some tools put a whole folder in the place of another.
#[test]
fn a_folder_of_keys_may_be_swapped() {
    let site = Site::new(ssh_by(SEALED));
    let laptop = site.device("laptop", &[]);
    let mut agent = site.start();
    let (folder, client) = (site.keys.folder(), &site.lab.client);
    let other = folder.with_file_name("other");
    fs::rename(&folder, &other).expect("renamed");
    let phone = site.device("phone", &[]);
    crate::verb(&site.lab.server, &["reload"]);
    let said = laptop.xknock(client, &["server", "--timeout", "1s"]);
    assert!(!said.status.success(), "its key is in no folder of the agent");
    phone.knock(client, &["server"]);
    agent.await_opened(client.v4, SSH);
    // The agent watches the folder that is there now.
    fs::remove_file(Folder::new(&folder).file("phone")).expect("removed");
    agent.await_message("keys read");
    crate::verb(&site.lab.server, &["revoke", "--all"]);
    assert!(!phone.xknock(client, &["server", "--timeout", "1s"]).status.success());
}
