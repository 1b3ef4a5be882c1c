//! A guest in qemu. It is started, its output is read, and it is ended when it hangs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::command::print;

/// The emulator of this architecture, of the package `qemu-system-x86`.
const QEMU: &str = "qemu-system-x86_64";
/// Emulated, a whole run takes some minutes.
const WHOLE_RUN: Duration = Duration::from_secs(90 * 60);
/// Silence after which a guest is ended. No test is silent for as long: it waits for a few things in
/// a row, and each wait fails after four minutes without progress.
const SILENCE: Duration = Duration::from_secs(20 * 60);
/// A kernel that works under KVM boots in a second or two.
const PROBE: Duration = Duration::from_secs(10);
/// How much of the console is shown when a guest did not come to its end.
const CONSOLE_LINES: usize = 40;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acceleration {
    /// The processor.
    Kvm,
    /// An emulator, which lets the guest's processors take turns. On a thread for each, they ran
    /// code that another one had just replaced: the kernel patches what leads packets to XDP
    /// programs by way of breakpoints, and died of one that was gone (`Oops: int3`), on 6.12 and
    /// 7.2 in most runs.
    Tcg,
}

impl Acceleration {
    const fn words(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }

    /// Returns KVM if it works. That /dev/kvm can be opened says little, so `image` is booted for a
    /// moment. Without a root file system it panics, and the machine ends.
    pub(super) fn probe(image: &Path) -> Self {
        let device = Path::new("/dev/kvm");
        if fs::OpenOptions::new().read(true).write(true).open(device).is_err() {
            return Self::Tcg;
        }
        let mut command = qemu(Self::Kvm, 512, image, "console=ttyS0 panic=-1");
        // The messages of a KVM that does not work are of no use to the user.
        command.args(["-serial", "stdio"]).stderr(Stdio::null());
        let Ok(mut guest) = Guest::start(&mut command) else { return Self::Tcg };
        let mut booted = false;
        let result = guest.listen(PROBE, PROBE, |line| booted |= line.contains("Linux version"));
        if booted && result.is_ok() { Self::Kvm } else { Self::Tcg }
    }
}

/// Boots `image` with `initramfs` and hands every line of its second serial port to `line`
/// until it turns itself off. The first port, its console, goes to the file `console`.
pub(super) fn boot(
    acceleration: Acceleration,
    image: &Path,
    initramfs: &Path,
    console: &Path,
    line: impl FnMut(&str),
) -> anyhow::Result<()> {
    which::which(QEMU)
        .with_context(|| format!("there is no {QEMU}: it is of the package qemu-system-x86"))?;
    // Everything lies in memory: the archive for a moment twice.
    const MEBIBYTES: u64 = 2560;
    let archive = fs::metadata(initramfs)?.len() >> 20;
    let kernel_line = "console=ttyS0 panic=-1 rdinit=/init rootfstype=ramfs";
    let mut command = qemu(acceleration, MEBIBYTES + archive, image, kernel_line);
    command.arg("-initrd").arg(initramfs);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio"]);
    print(&command)?;
    let mut guest = Guest::start(&mut command)?;
    guest.listen(WHOLE_RUN, SILENCE, line).with_context(|| {
        format!("the end of its console ({}):\n{}", console.display(), end_of(console))
    })
}

/// The last lines of a console.
pub(super) fn end_of(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "  (nothing)".to_owned();
    }
    let end = lines.len().saturating_sub(CONSOLE_LINES);
    lines[end..].iter().map(|line| format!("  {line}\n")).collect()
}

fn qemu(acceleration: Acceleration, mebibytes: u64, image: &Path, line: &str) -> Command {
    // A guest must not outlive this process, however that ends (prctl(2), PR_SET_PDEATHSIG).
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", QEMU]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.args(["-monitor", "none", "-smp", "2"]).args(acceleration.words());
    command.arg("-m").arg(mebibytes.to_string());
    command.arg("-kernel").arg(image).args(["-append", line]);
    command
}

/// A running qemu, which ends with its value.
struct Guest {
    child: Child,
    lines: Receiver<String>,
}

impl Guest {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("{} does not start", program.display()))?;
        let stdout = child.stdout.take().context("qemu has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Hands on every line until the machine turns itself off. Fails if that takes longer than
    /// `whole`, or if no line comes for `silence`.
    fn listen(
        &mut self,
        whole: Duration,
        silence: Duration,
        mut each: impl FnMut(&str),
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + whole;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the guest is at no end after {} minutes", whole.as_secs() / 60);
            }
            match self.lines.recv_timeout(left.min(silence)) {
                Ok(line) => each(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if left < silence => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest hangs: nothing for {} seconds", silence.as_secs())
                }
            }
        }
        let status = self.child.wait().context("qemu cannot be waited for")?;
        if !status.success() {
            bail!("qemu failed: {status}");
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for. The result is the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the guest of this process leaves its console.
pub(super) fn console_of(folder: &Path) -> PathBuf {
    folder.join(format!("console.{}.log", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Guest {
        Guest::start(Command::new("sh").args(["-c", line])).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn every_line_is_handed_on_until_the_machine_is_off() {
        let mut lines = Vec::new();
        shell("printf 'one\\r\\ntwo\\n'")
            .listen(LONG, LONG, |line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_machine_that_is_silent_for_too_long_or_fails_is_an_error() {
        let said = shell("echo one; sleep 60").listen(LONG, SHORT, |_| {}).unwrap_err();
        assert!(said.to_string().contains("hangs"), "{said}");
        // As fast as it can: there is always another line.
        let said = shell("yes").listen(SHORT, LONG, |_| {}).unwrap_err();
        assert!(said.to_string().contains("at no end"), "{said}");
        let said = shell("sleep 60").listen(SHORT, LONG, |_| {}).unwrap_err();
        assert!(said.to_string().contains("at no end"), "{said}");
        let said = shell("exit 3").listen(LONG, LONG, |_| {}).unwrap_err();
        assert!(said.to_string().contains('3'), "{said}");
    }

    #[test]
    fn the_end_of_a_console_is_short_and_never_empty() {
        let folder = tempfile::tempdir().unwrap();
        let console = console_of(folder.path());
        assert!(end_of(&console).contains("nothing"));
        let long: String = (0..100).map(|n| format!("line {n}\r\n")).collect();
        fs::write(&console, long).unwrap();
        let end = end_of(&console);
        assert_eq!(end.lines().count(), CONSOLE_LINES);
        assert!(end.ends_with("line 99\n"));
    }
}
