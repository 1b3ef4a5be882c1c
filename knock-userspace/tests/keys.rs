//! Keys as the owner of a host makes them, and as devices take them over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use knock_keys::{Folder, Key, KeyId, KeyLine, KeyMethod, Kind};
use knock_userspace::instance_paths::InstancePaths;
use knock_userspace::keyring::ReplayStore;
use tempfile::TempDir;

const CONFIG: &str = r#"
[[door]]
name = "ssh"
opens = ["tcp/22", "tcp/24000"]
method = "sealed"
open_for = "10m"

[[door]]
name = "web"
opens = ["tcp/443"]
method = "rolling"

[[door]]
name = "old"
opens = ["tcp/80"]
sequence = ["tcp/7000", "udp/8000", "tcp/4500"]
"#;

/// A host with a config, and an agent's instance of its own.
struct Host(TempDir, String);

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(InstancePaths::of(&self.1).state);
    }
}

impl Host {
    fn new() -> Self {
        let root = TempDir::new().expect("a folder");
        let keys = format!("keys = \"{}\"\n{CONFIG}", root.path().join("keys").display());
        fs::write(root.path().join("xknockd.toml"), keys).expect("a config");
        let name = root.path().file_name().expect("a name").to_string_lossy().replace('.', "");
        Self(root, format!("keys{name}"))
    }

    fn config(&self, change: impl Fn(&str) -> String) {
        let path = self.0.path().join("xknockd.toml");
        fs::write(&path, change(&fs::read_to_string(&path).expect("a config"))).expect("written");
    }

    /// The file of newest times as it is once a knock was made with this key.
    fn knocked(&self, id: KeyId) {
        let path = InstancePaths::of(&self.1).newest();
        let (mut numbers, _) = ReplayStore::open(&path, 0);
        numbers.set(id.number(), 1).expect("written");
    }

    fn folder(&self) -> Folder {
        Folder::new(self.0.path().join("keys"))
    }

    fn key(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xknockd"));
        // The newest times of this machine's own agent are none of ours.
        command.env("XKNOCKD_INSTANCE", &self.1);
        command.arg("key").args(arguments).arg("--config").arg(self.0.path().join("xknockd.toml"));
        command.output().expect("xknockd runs")
    }

    /// What a command printed, which must have been a success.
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.key(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Why a command failed.
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.key(arguments);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    }
}

#[test]
fn one_command_adds_a_key_and_prints_what_the_device_imports() {
    let host = Host::new();
    let add = ["add", "laptop", "--door", "web", "--door", "ssh", "--host", "server.example"];
    let text = host.succeed(&add);
    let line = KeyLine::parse(&text).unwrap();
    assert_eq!((&*line.host, &*line.name), ("server.example", "laptop"));
    let [ssh, web] = &line.doors[..] else { panic!("{:?}", line.doors) };
    assert_eq!(ssh.to_string(), "ssh:sealed:62201:seen:600:tcp/22,tcp/24000");
    let KeyMethod::Rolling(rolling) = &web.method else { panic!("{web}") };
    assert!(rolling.ports.without().contains(&24_000), "a served port is no step");
    let file = host.folder().file("laptop");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let key = host.folder().read("laptop").unwrap();
    assert_eq!((key.current.id, &key.doors), (line.id, &line.doors));
    let again = host.fail(&add);
    assert!(again.contains("a key `laptop` already"), "{again}");
}

#[test]
fn keys_are_listed_shown_rotated_and_removed() {
    let host = Host::new();
    host.succeed(&["add", "laptop", "--door", "ssh", "--expires", "30d", "--longest", "2m"]);
    host.succeed(&["add", "phone", "--door", "ssh", "--public"]);
    let list = host.succeed(&["list"]);
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[1].starts_with(" laptop") && lines[1].contains("shared"), "{list}");
    assert!(lines[2].contains("public") && lines[2].contains("never"), "{list}");
    let shown = host.succeed(&["show", "laptop"]);
    assert!(shown.contains("ssh:sealed:62201:seen:120:"), "no longer than the key: {shown}");
    let before = host.folder().read("laptop").unwrap().current.id;
    host.knocked(before);
    let line = KeyLine::parse(&host.succeed(&["rotate", "laptop", "--grace", "1h"])).unwrap();
    let key = host.folder().read("laptop").unwrap();
    let ids: Vec<_> = key.versions(key.made).map(|version| version.id).collect();
    assert_eq!(ids, [line.id, before]);
    assert!(host.succeed(&["show", "laptop"]).contains(&format!("{before} works until")));
    host.succeed(&["rotate", "laptop", "--grace", "0s"]);
    assert!(host.folder().read("laptop").unwrap().previous.is_none());
    host.succeed(&["remove", "laptop"]);
    assert!(host.fail(&["show", "laptop"]).contains("no key `laptop`"));
    assert!(!host.succeed(&["list"]).contains("laptop"));
}

#[test]
fn a_line_that_was_lost_can_be_drawn_again() {
    let host = Host::new();
    let line = |text: String| KeyLine::parse(&text).expect("a line");
    let add = ["add", "laptop", "--door", "ssh", "--host", "server.example"];
    let first = line(host.succeed(&add));
    host.knocked(first.id);
    host.succeed(&["rotate", "laptop", "--grace", "1h"]);
    let again = line(host.succeed(&["rotate", "laptop", "--grace", "2h"]));
    assert_eq!(again.host, "server.example", "as it was");
    let ids = |host: &Host| {
        let key = host.folder().read("laptop").unwrap();
        key.versions(key.made).map(|version| version.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&host), [again.id, first.id], "what the device has still works");
    host.knocked(again.id);
    let third = line(host.succeed(&["rotate", "laptop", "--grace", "1h"]));
    assert_eq!(ids(&host), [third.id, again.id]);
    // What cannot be handed over has not happened.
    let mut command = Command::new("sh");
    let script = "exec \"$@\" > /dev/full";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_xknockd"), "key"]);
    command.env("XKNOCKD_INSTANCE", &host.1);
    command.args(["rotate", "laptop", "--config"]).arg(host.0.path().join("xknockd.toml"));
    let output = command.output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the key is as it was"), "{said}");
    assert_eq!(ids(&host), [third.id, again.id]);
}

#[test]
fn keys_that_the_config_has_left_behind_are_named() {
    let host = Host::new();
    host.succeed(&["add", "laptop", "--door", "ssh"]);
    host.config(|text| text.replace("method = \"sealed\"", "method = \"sealed\"\nport = 62999"));
    let said = host.fail(&["rotate", "laptop"]);
    assert!(said.contains("UDP port 62999 now") && said.contains("add it anew"), "{said}");
    let list = host.key(&["list"]);
    assert!(list.status.success());
    let said = String::from_utf8_lossy(&list.stderr);
    assert!(said.contains("`laptop` opens nothing there: door `ssh`"), "{said}");
}

/// Nothing that a command prints, but the line of a new key, has any of its secret in it.
#[test]
fn secrets_are_printed_once() {
    let host = Host::new();
    let line = host.succeed(&["add", "laptop", "--door", "ssh", "--host", "server.example"]);
    let secret = line.split("secret=").nth(1).unwrap()[..20].to_owned();
    let file = host.folder().file("laptop");
    for arguments in [&["list"][..], &["show", "laptop"]] {
        assert!(!host.succeed(arguments).contains(&secret));
    }
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(&secret));
    // A damaged file is named, and none of it shown.
    fs::write(&file, text.replace("secret =", "secret")).unwrap();
    let said = host.fail(&["list"]);
    assert!(said.contains("laptop.toml: line 11"), "{said}");
    assert!(said.contains("1 of 1 key files") && !said.contains(&secret), "{said}");
}

#[test]
fn what_cannot_be_added_is_refused_with_what_to_do() {
    let host = Host::new();
    for (arguments, expected) in [
        (&["add", "laptop", "--door", "db"][..], "no door `db`; there are: ssh, web, old"),
        (&["add", "laptop", "--door", "old"], "method = \"sealed\""),
        (&["add", "laptop", "--door", "web", "--public"], "leave --public out"),
        (&["add", "../up", "--door", "ssh"], "cannot be the name of a key"),
        (&["add", "laptop", "--door", "ssh", "--host", "root@server"], "is no name of a host"),
        (&["rotate", "nobody"], "no key `nobody`"),
        (&["remove", "nobody"], "no key `nobody`"),
        (&["remove", "../xknockd"], "no key `../xknockd`"),
    ] {
        let said = host.fail(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert!(host.folder().read_all().0.is_empty());
}

#[test]
fn ten_thousand_keys_are_read_in_a_moment() {
    let root = TempDir::new().unwrap();
    let folder = Folder::new(root.path());
    let doors = vec!["ssh:sealed:62201:seen:30:tcp/22".parse().unwrap()];
    for number in 0..10_000 {
        let name = format!("device-{number}");
        let drawn = Key::draw(name, String::new(), Kind::Shared, doors.clone(), 1, None, None);
        let path = folder.file(&drawn.as_ref().unwrap().0.name);
        // Not `Folder::write`, which waits for the disk each time.
        fs::write(&path, drawn.unwrap().0.to_text().as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let started = Instant::now();
    let (keys, errors) = folder.read_all();
    assert_eq!((keys.len(), errors.len()), (10_000, 0));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
