//! Tests of the user's hosts.

use knock_keys::{Key, Kind};
use tempfile::TempDir;

use super::*;

fn line(name: &str, host: &str) -> KeyLine {
    let doors = ["ssh:sealed:62201:seen:30:tcp/22", "web:sealed:62201:seen:30:tcp/443"];
    let doors = doors.map(|door| door.parse().unwrap()).to_vec();
    Key::draw(name.into(), host.into(), Kind::Shared, doors, 1_800_000_000, None, None).unwrap().1
}

fn hosts() -> (TempDir, Hosts) {
    let root = TempDir::new().unwrap();
    let hosts = Hosts::read(root.path().join("xknock")).unwrap();
    (root, hosts)
}

#[test]
fn an_added_key_is_found_by_name_and_address() {
    let (root, mut hosts) = hosts();
    let added = hosts.add(
        &line("laptop", "server.example"),
        Import { alias: Some("work"), ..Import::default() },
    );
    assert_eq!(added.unwrap(), "work");
    hosts.add(&line("laptop", "[fd77::1]"), Import::default()).unwrap();
    let again = Hosts::read(root.path().join("xknock")).unwrap();
    assert_eq!(again.names().collect::<Vec<_>>(), ["fd77::1", "work"]);
    for name in ["work", "server.example"] {
        let host = again.find(name).unwrap().unwrap();
        assert_eq!((&*host.alias, &*host.address), ("work", "server.example"));
        assert_eq!(host.door(None).unwrap().name, "ssh");
        assert_eq!(host.door_to(443).unwrap().name, "web");
        assert!(host.door(Some("db")).unwrap_err().contains("it opens ssh, web"));
    }
    assert!(again.find("elsewhere").unwrap().is_none());
}

#[test]
fn what_the_user_wrote_stays() {
    let (root, mut hosts) = hosts();
    hosts.add(&line("laptop", "one"), Import::default()).unwrap();
    let file = root.path().join("xknock/hosts.toml");
    let text = std::fs::read_to_string(&file).unwrap() + "door = \"web\"  # mine\n";
    std::fs::write(&file, &text).unwrap();
    let mut hosts = Hosts::read(root.path().join("xknock")).unwrap();
    assert_eq!(hosts.find("one").unwrap().unwrap().door(None).unwrap().name, "web");
    hosts.add(&line("laptop", "two"), Import::default()).unwrap();
    // A rotated key takes the place of the old one.
    hosts.add(&line("laptop", "one"), Import::default()).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(&text));
    let other = hosts.add(&line("phone", "one"), Import::default()).unwrap_err();
    assert!(other.to_string().contains("already has another key, `laptop`"), "{other}");
    hosts.add(&line("phone", "one"), Import { replace: true, ..Import::default() }).unwrap();
}

#[test]
fn what_cannot_be_used_is_named() {
    let (root, mut hosts) = hosts();
    let said = hosts.add(&line("laptop", ""), Import::default()).unwrap_err().to_string();
    assert!(said.contains("--host"), "{said}");
    let said = hosts
        .add(&line("laptop", "a"), Import { alias: Some("a/b"), ..Import::default() })
        .unwrap_err();
    assert!(said.to_string().contains("cannot be the name"), "{said}");
    hosts.add(&line("laptop", "one"), Import::default()).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let key = root.path().join("xknock/keys/one");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let said = hosts.find("one").unwrap_err().to_string();
        assert!(said.contains("others can read") && said.contains("chmod 600"), "{said}");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&key, "xknock://one?v=1&key=laptop").unwrap();
        let said = hosts.find("one").unwrap_err().to_string();
        assert!(said.contains("keys/one: this key is damaged"), "{said}");
    }
    let file = root.path().join("xknock/hosts.toml");
    std::fs::write(&file, "[one]\naddress = \"one\"\nkey = \"k\"\ndoors = \"ssh\"\n").unwrap();
    let said = Hosts::read(root.path().join("xknock")).unwrap_err().to_string();
    assert!(said.contains("hosts.toml:4: unknown field `doors`"), "{said}");
}

fn again(root: &TempDir) -> Hosts {
    Hosts::read(root.path().join("xknock")).unwrap()
}

#[test]
fn text_that_is_not_a_host_name_is_never_written() {
    let (root, mut hosts) = hosts();
    for address in ["root@server", "a\"b", "bücher.example", "a b"] {
        let import = Import { alias: Some("x"), address: Some(address), ..Import::default() };
        let said = hosts.add(&line("laptop", "one"), import).unwrap_err().to_string();
        assert!(said.contains("is not a host name") && said.contains("xn--"), "{said}");
    }
    let long = "a".repeat(201);
    for alias in [".", "..", ".lock", "-x", "a/b", "", &*long] {
        let import = Import { alias: Some(alias), ..Import::default() };
        let said = hosts.add(&line("laptop", "one"), import).unwrap_err().to_string();
        assert!(said.contains("cannot be the name"), "{said}");
    }
    assert_eq!(again(&root).names().count(), 0);
}

#[test]
fn a_host_moves_only_if_the_user_says_so() {
    let (root, mut hosts) = hosts();
    let work = Import { alias: Some("work"), ..Import::default() };
    hosts.add(&line("laptop", "one.example"), work).unwrap();
    let file = root.path().join("xknock/hosts.toml");
    let text = std::fs::read_to_string(&file).unwrap() + "door = \"web\"  # mine\n";
    std::fs::write(&file, &text).unwrap();
    let elsewhere = Import { address: Some("two.example"), ..work };
    let said = hosts.add(&line("laptop", "one.example"), elsewhere).unwrap_err().to_string();
    assert!(said.contains("`work` is at one.example, not at two.example"), "{said}");
    let same = Import { address: Some("ONE.example"), ..work };
    let said = hosts.add(&line("laptop", "two.example"), same).unwrap_err().to_string();
    assert!(said.contains("of the server one.example"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    hosts.add(&line("laptop", "one.example"), Import { replace: true, ..elsewhere }).unwrap();
    let moved = text.replace("\"one.example\"", "\"two.example\"");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), moved);
    assert_eq!(again(&root).find("work").unwrap().unwrap().address, "two.example");
}

#[test]
fn no_two_hosts_share_a_file() {
    let (root, mut hosts) = hosts();
    for alias in ["a:1", "a_1", "A_1:2", "a_1_2"] {
        let import = Import { alias: Some(alias), ..Import::default() };
        hosts.add(&line("laptop", &alias.replace([':', '_'], "-")), import).unwrap();
    }
    let hosts = again(&root);
    assert_eq!(hosts.names().count(), 4);
    for alias in ["a:1", "a_1", "A_1:2", "a_1_2"] {
        let host = hosts.find(alias).unwrap().unwrap();
        assert_eq!(host.line.host, alias.replace([':', '_'], "-"));
    }
}

#[test]
fn imports_at_the_same_time_lose_nothing() {
    let (root, _) = hosts();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let mut hosts = again(&root);
            scope.spawn(move || {
                hosts.add(&line("laptop", &format!("host{number}")), Import::default()).unwrap();
            });
        }
    });
    assert_eq!(again(&root).names().count(), 8);
}

#[cfg(unix)]
#[test]
fn a_list_that_is_a_link_stays_one() {
    let (root, mut hosts) = hosts();
    hosts.add(&line("laptop", "one"), Import::default()).unwrap();
    let (file, real) = (root.path().join("xknock/hosts.toml"), root.path().join("dotfiles"));
    std::fs::rename(&file, &real).unwrap();
    std::os::unix::fs::symlink(&real, &file).unwrap();
    hosts.add(&line("laptop", "two"), Import::default()).unwrap();
    assert!(file.is_symlink());
    assert!(std::fs::read_to_string(&real).unwrap().contains("[\"two\"]"));
}

#[test]
fn hosts_are_found_however_they_are_written() {
    let (root, mut hosts) = hosts();
    let web = Import { alias: Some("Web01"), ..Import::default() };
    hosts.add(&line("laptop", "Server.Example"), web).unwrap();
    hosts.add(&line("phone", "[fd77::1]"), Import::default()).unwrap();
    let hosts = again(&root);
    for name in ["Web01", "web01", "server.example"] {
        assert_eq!(hosts.find(name).unwrap().unwrap().alias, "Web01", "{name}");
    }
    for name in ["[fd77::1]", "fd77::1", "FD77:0::1"] {
        assert_eq!(hosts.find(name).unwrap().unwrap().alias, "fd77::1", "{name}");
    }
}

#[test]
fn a_newer_key_finds_its_host_by_its_name() {
    let (_root, mut hosts) = hosts();
    let work = Import { alias: Some("work"), ..Import::default() };
    hosts.add(&line("laptop", "one"), work).unwrap();
    let newer = line("laptop", "");
    assert_eq!(hosts.add(&newer, Import::default()).unwrap(), "work");
    assert_eq!(hosts.add(&newer, work).unwrap(), "work");
    let host = hosts.find("work").unwrap().unwrap();
    assert_eq!((host.line.id, &*host.address), (newer.id, "one"));
    hosts.add(&line("laptop", "two"), Import::default()).unwrap();
    let said = hosts.add(&newer, Import::default()).unwrap_err().to_string();
    assert!(said.contains("--host"), "which of the two? {said}");
}
