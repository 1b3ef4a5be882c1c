//! OpenSSH, server and client, through `xknock proxy`.

use std::fs;
use std::path::Path;
use std::process::Command;

use knock_lab::agent::program;
use knock_lab::keys::{Device, Keys};
use knock_lab::leftovers;
use knock_lab::netns::run;
use knock_lab::process::{Process, seconds};
use knock_lab::services::tcp_open;
use knock_lab::{Host, Lab};

use super::{ROLLING, SEALED, ssh_by};

/// Starts a server that lets root in with the key `user` in `folder`.
fn sshd(host: &Host, folder: &Path) -> Process {
    let file = |name: &str| folder.join(name).display().to_string();
    for key in ["host", "user"] {
        let path = file(key);
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path]));
    }
    let config = format!(
        "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nPermitRootLogin yes\nStrictModes no\n\
         PasswordAuthentication no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n",
        file("host"),
        file("user.pub"),
    );
    fs::write(folder.join("sshd_config"), config).expect("written");
    // Debian's init script makes it, and none runs here.
    fs::create_dir_all("/run/sshd").expect("a folder");
    let mut command = host.command("/usr/sbin/sshd");
    let mut process = Process::start(command.args(["-D", "-e", "-f", &file("sshd_config")]));
    process.await_line("listening", |line| line.contains("Server listening").then_some(()));
    process
}

/// Writes an SSH config as README has it, and returns its path.
fn ssh_config(folder: &Path) -> String {
    let path = folder.join("ssh_config");
    let config = format!(
        "Host server\n    ProxyCommand {} proxy %h %p\n\nHost *\n    User root\n    BatchMode yes\n    \
         IdentityFile {}\n    UserKnownHostsFile {}\n    StrictHostKeyChecking no\n    LogLevel ERROR\n",
        program("xknock").display(),
        folder.join("user").display(),
        folder.join("known_hosts").display(),
    );
    fs::write(&path, config).expect("written");
    path.display().to_string()
}

#[test]
fn ssh_and_scp_just_work() {
    for door in [SEALED, ROLLING] {
        let (lab, folder) = (Lab::new(), leftovers::folder());
        let _sshd = sshd(&lab.server, folder.path());
        let config = ssh_config(folder.path());
        let keys = Keys::new(ssh_by(door).open_for(&seconds(2)));
        let line = keys.key(&lab.server, &["add", "laptop", "--door", "ssh"]);
        let device = Device::new(&lab.client, &line, &lab.server.v4.to_string());
        let mut agent = keys.start(&lab.server);
        assert!(!tcp_open(&lab.client, lab.server.v4, 22));

        // The session outlives the grant.
        let mut ssh = device.command(&lab.client, "ssh");
        let longer = format!("sleep {}; echo in as $(id -un)", seconds(3));
        ssh.args(["-F", &config, "server", &longer]);
        assert_eq!(run(&mut ssh), "in as root\n");
        agent.await_closed(lab.client.v4, crate::SSH);

        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, vec![7; 3 << 20]).expect("written");
        let mut scp = device.command(&lab.client, "scp");
        scp.args(["-q", "-F", &config]).arg(&from).arg(format!("server:{}", to.display()));
        run(&mut scp);
        assert_eq!(fs::read(&to).expect("copied"), fs::read(&from).expect("there"));

        let mut ssh = device.command(&lab.stranger, "ssh");
        let direct = ["-F", &config, "-o", "ProxyCommand none", "-o", "ConnectTimeout 1"];
        let output =
            ssh.args(direct).args([&lab.server.v4.to_string(), "true"]).output().expect("ssh runs");
        assert!(!output.status.success(), "a stranger with the user's own SSH key");
    }
}
