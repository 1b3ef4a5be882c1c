//! The unit under a running systemd.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use knock_lab::ConfigText;
use knock_lab::agent::program;
use knock_lab::leftovers;
use knock_lab::netns::run;
use knock_lab::services::eventually;
use knock_lab::unit;
use tempfile::TempDir;

/// This host's systemd, in namespaces of its own.
struct Guest {
    unshare: Child,
    init: String,
    folder: TempDir,
}

/// The control group of the guest.
fn group() -> String {
    format!("{}-guest", leftovers::label())
}

impl Guest {
    /// Boots it with the agent, its files and a config as an administrator would install them.
    fn boot() -> Self {
        let folder = leftovers::folder();
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(folder.path()));
        let packaging = unit::path().with_file_name("..");
        let install = |from: &Path, to: &str| {
            let to = folder.path().join("install").join(to);
            fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            fs::copy(from, to).expect("a copy");
        };
        install(&unit::path(), "etc/systemd/system/xknockd.service");
        for file in ["sysusers.d/xknock.conf", "tmpfiles.d/xknock.conf"] {
            install(&packaging.join(file), &format!("usr/lib/{file}"));
        }
        for name in ["xknockd", "xknock"] {
            install(&program(name), &format!("usr/local/bin/{name}"));
        }
        let config = folder.path().join("install/etc/xknock");
        fs::create_dir_all(&config).expect("a folder");
        let text = ConfigText::ssh().open_for("10m").to_string();
        fs::write(config.join("xknockd.toml"), text).expect("a config");

        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot.sh");
        // If this process is killed, so is the guest.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "bash"]);
        command.arg(script).arg(folder.path()).arg(group());
        let said = fs::File::create(folder.path().join("said")).expect("a file");
        let unshare = command.stdin(Stdio::null()).stderr(said).spawn().expect("unshare runs");
        let mut guest = Self { unshare, init: String::new(), folder };
        eventually("systemd", || guest.has_begun());
        eventually("the end of the boot", || {
            let state = guest.output("systemctl is-system-running --wait");
            ["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim())
        });
        guest
    }

    /// Returns whether systemd has taken over from the script that prepares its place.
    fn has_begun(&mut self) -> bool {
        let ended = self.unshare.try_wait().expect("it can be waited for");
        let said = || fs::read_to_string(self.folder.path().join("said"));
        assert!(ended.is_none(), "it has ended: {ended:?}, {:?}", said());
        let id = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        children.unwrap_or_default().trim().clone_into(&mut self.init);
        let name = fs::read_to_string(format!("/proc/{}/comm", self.init));
        name.is_ok_and(|name| name.trim() == "systemd")
    }

    fn output(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--root", "--wd", "--target", &self.init, "sh", "-c", line]);
        command.env_remove("SSH_CONNECTION").output().expect("nsenter runs")
    }

    /// Runs a shell line in the guest, which must succeed, and returns what it printed.
    fn sh(&self, line: &str) -> String {
        let output = self.output(line);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        let log = || self.output("journalctl --no-pager -u xknockd").stdout;
        assert!(
            output.status.success(),
            "{line}: {printed}{said}\n{}",
            String::from_utf8_lossy(&log())
        );
        printed
    }

    fn agent(&self) -> String {
        self.sh("systemctl show --value -p MainPID xknockd").trim().to_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // All processes of the guest go with its first one, and `unshare` ends after them.
        let killed = Command::new("kill").args(["-KILL", &self.init]).status();
        if !killed.is_ok_and(|status| status.success()) {
            let _ = self.unshare.kill();
        }
        let _ = self.unshare.wait();
        let script = format!(
            "mount -t cgroup2 none cgroup && find cgroup/{} -depth -type d -exec rmdir {{}} +",
            group()
        );
        let mut rmdir = Command::new("unshare");
        rmdir.current_dir(self.folder.path()).args(["--mount", "sh", "-c", &script]);
        let _ = rmdir.output();
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).output();
    }
}

#[test]
fn the_unit_starts_confines_restarts_and_ends_the_agent() {
    let guest = Guest::boot();
    guest.sh("ip netns add client && ip link add eth0 type veth peer name eth0 netns client \
         && ip address add 10.77.0.1/24 dev eth0 && ip link set eth0 up \
         && ip -n client address add 10.77.0.2/24 dev eth0 && ip -n client link set eth0 up");
    guest.sh("systemctl start xknockd");
    let status = guest.sh(&format!("cat /proc/{}/status", guest.agent()));
    for line in ["CapEff:\t000000c000001000", "CapBnd:\t000000c000001000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
    let mounts = guest.sh(&format!("cat /proc/{}/mountinfo", guest.agent()));
    let writable = mounts.lines().filter(|line| {
        let options = line.split(' ').nth(5).expect("options");
        options.split(',').any(|option| option == "rw")
    });
    let writable: Vec<_> = writable.filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(writable.contains(&"/sys/fs/bpf/xknock"), "{writable:?}");
    assert!(!writable.contains(&"/sys/fs/bpf") && !writable.contains(&"/"), "{writable:?}");

    let knock = format!("ip netns exec client xknock 10.77.0.1 --steps {}", ConfigText::STEPS);
    let granted = || guest.sh("xknockd grants").contains("10.77.0.2");
    guest.sh(&knock);
    eventually("a grant", granted);

    // Killed: systemd starts another, which adopts what is pinned.
    let first = guest.agent();
    guest.sh("systemctl kill --kill-who=main --signal=KILL xknockd");
    eventually("another agent", || {
        let next = guest.agent();
        next != "0" && next != first && guest.output("xknockd status").status.success()
    });
    assert!(granted());
    guest.sh("xknockd status | grep -q 'all of it'");
    guest.sh("systemctl restart xknockd");
    assert!(granted());

    // Hung: systemd starts another.
    guest.sh(
        "mkdir -p /run/systemd/system/xknockd.service.d \
         && printf '[Service]\\nWatchdogSec=1s\\n' > /run/systemd/system/xknockd.service.d/soon.conf \
         && systemctl daemon-reload && systemctl restart xknockd",
    );
    let hung = guest.agent();
    guest.sh(&format!("kill -STOP {hung}"));
    eventually("the watchdog", || {
        let next = guest.agent();
        next != "0" && next != hung && guest.output("xknockd status").status.success()
    });
    assert!(granted());

    guest.sh("sed -i s/10m/20m/ /etc/xknock/xknockd.toml");
    let version = guest.sh("systemctl --version");
    let version: u32 = version.split(' ').nth(1).expect("a number").parse().expect("a version");
    guest.sh(if version < 253 { "xknockd reload" } else { "systemctl reload xknockd" });
    assert!(guest.sh("xknockd doors").contains("20m"));

    // Stopped, the ports stay closed. Switched off, nothing is left. And the unit starts again,
    // also after root has run an agent by hand.
    guest.sh("systemctl stop xknockd");
    assert!(guest.sh("nft list tables").contains("inet xknock"));
    guest.sh("systemctl start xknockd && xknockd off");
    eventually("the end", || guest.sh("systemctl show --value -p MainPID xknockd").trim() == "0");
    assert_eq!(guest.sh("nft list tables"), "");
    assert!(!guest.sh("ls /sys/fs/bpf").contains("xknock"));
    guest.sh(
        "xknockd run 2>/run/said & until grep -q '\"ready\"' /run/said; do kill -0 $! && sleep 0.01; \
         done; kill -KILL $!",
    );
    assert!(guest.sh("stat -c %U /sys/fs/bpf/xknock/v[0-9]*").contains("root"));
    guest.sh("systemctl start xknockd");
    guest.sh("xknockd status | grep -q 'all of it'");
    guest.sh(&knock);
    eventually("a grant", granted);
}
