//! The programs that are built for a guest, and the order in which they run there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::known::Expect;
use super::scratch::Scratch;
use super::{PATIENCE, Selection};
use crate::command::{cargo, output, root, run};

/// The package whose test programs meet a kernel.
const PACKAGE: &str = "knock-tests";
/// Its test programs for the host only: one reads sources, the other runs systemd's tools and boots
/// systemd itself.
const FOR_THE_HOST: [&str; 2] = ["tidy", "systemd"];
/// Its test program for guests only. Cargo leaves it out by default.
const SUSPEND: &str = "suspend";
/// Its test program that also runs on kernels which are too old.
const KERNEL: &str = "kernel";
/// Its longest test program: on an emulated machine it takes most of the time.
const END_TO_END: &str = "e2e";

/// More tests at a time than the guest has processors: most of their time they wait.
const THREADS: u32 = 5;

/// Those of [`END_TO_END`] that keep a processor busy for minutes, one at a time and after all
/// others: what runs beside them would wait for too long.
const BUSY: [&str; 3] = [
    "floods::a_flood_from_a_million_sources_stays_bounded_and_the_client_still_knocks",
    "floods::knocks_that_come_faster_than_they_are_read_count_with_their_next_step",
    "keys::changes::an_agent_with_ten_thousand_keys_takes_knocks",
];

/// What stands for the whole of [`END_TO_END`] on every change: each way that goes through a part
/// of the kernel of its own.
const ESSENTIAL: [&str; 10] = [
    "clients::the_classic_client_knocks_over_ipv6",
    "clients::the_classic_client_opens_the_door_for_itself_alone",
    "connections::a_cut_ends_a_stateless_connection_with_its_grant",
    "connections::conntrack_is_used_only_where_it_is_already_in_use",
    "connections::tiny_fragments_do_not_slip_through",
    "floods::a_knock_opens_while_the_flood_goes_on",
    "grants::a_published_container_port_is_guarded_before_its_address_is_rewritten",
    "grants::a_second_knock_extends_the_grant",
    "startup::where_the_driver_refuses_the_agent_falls_back_and_says_so",
    "wire::knocks_in_one_and_two_vlan_tags_are_seen",
];

/// Test programs, and the project's own.
pub(super) struct Programs {
    agent: PathBuf,
    client: PathBuf,
    tests: Vec<TestProgram>,
}

struct TestProgram {
    /// As cargo calls it.
    name: String,
    /// Its main source.
    source: String,
    path: PathBuf,
}

/// One line of the guest's plan.
pub(super) struct Part {
    pub(super) name: String,
    /// What the kernel must have: modules, or `btf` and `suspend`.
    needs: &'static str,
    command: String,
    /// How many tests it has.
    pub(super) tests: u64,
}

impl Part {
    /// As init reads it.
    pub(super) fn line(&self) -> String {
        format!("{}\t{}\t{}\n", self.name, self.needs, self.command)
    }
}

impl Programs {
    /// Builds them as the tests on the host are built, so that nothing is built twice.
    pub(super) fn build(scratch: &Scratch) -> anyhow::Result<Self> {
        let mut artifacts = built(&[])?;
        artifacts.extend(built(&["--test", SUSPEND])?);
        let binary = |name: &str| {
            let found = artifacts.iter().find(|one| one.kind == "bin" && one.name == name);
            found.map(|one| one.path.clone()).with_context(|| format!("cargo built no {name}"))
        };
        let mut tests = Vec::new();
        for one in &artifacts {
            if one.kind == "test" && one.package == PACKAGE && !FOR_THE_HOST.contains(&&*one.name) {
                let source = Path::new(&one.source).strip_prefix(root()).unwrap_or(Path::new(""));
                tests.push(TestProgram {
                    name: one.name.clone(),
                    source: source.display().to_string(),
                    path: one.path.clone(),
                });
            }
        }
        if tests.is_empty() {
            bail!("cargo built no test program of {PACKAGE}");
        }
        // What asks little of a kernel goes first.
        tests.sort_by_key(|test| (test.name != KERNEL, test.name == END_TO_END, test.name.clone()));
        let programs = Self { agent: binary("xknockd")?, client: binary("xknock")?, tests };
        programs.files().try_for_each(|file| scratch.keep(file))?;
        programs.names_are_true(scratch)?;
        Ok(programs)
    }

    /// Fails if a name of a test above belongs to no test any more.
    fn names_are_true(&self, scratch: &Scratch) -> anyhow::Result<()> {
        let end_to_end = self.tests.iter().find(|test| test.name == END_TO_END);
        let end_to_end = scratch.kept(&end_to_end.context("no end-to-end tests")?.path);
        for name in ESSENTIAL.iter().chain(&BUSY) {
            if count(&end_to_end, &[name, "--exact"])? != 1 {
                bail!("there is no test {name} any more; see {}", file!());
            }
        }
        Ok(())
    }

    /// All files.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.agent, &self.client].into_iter().chain(self.tests.iter().map(|test| &test.path))
    }

    /// Returns the parts that a kernel runs of which this is expected. There are none if no test
    /// that is chosen by name is for such a kernel.
    pub(super) fn parts(
        &self,
        scratch: &Scratch,
        expect: Expect,
        selection: Selection<'_>,
    ) -> anyhow::Result<Vec<Part>> {
        let mut parts = Vec::new();
        if !matches!(selection, Selection::Named([_, ..])) {
            let check = format!("{} check --kernel", self.agent.display());
            let command = match expect {
                Expect::Green => check,
                // Its status says that something is missing.
                Expect::Refusal => format!("{check}; [ $? = 1 ]"),
            };
            parts.push(Part {
                name: "xknockd check --kernel".into(),
                needs: "-",
                command,
                tests: 0,
            });
        }
        for test in &self.tests {
            if expect == Expect::Refusal && test.name != KERNEL {
                continue;
            }
            let expected = match expect {
                Expect::Green => "green",
                Expect::Refusal => "refusal",
            };
            let environment =
                format!("XKNOCK_TEST_PATIENCE={PATIENCE} XKNOCK_TEST_KERNEL={expected}");
            for Sitting { what, arguments, threads } in test.sittings(selection) {
                let tests = count(&scratch.kept(&test.path), &arguments)?;
                if tests == 0 {
                    continue;
                }
                let (path, arguments) = (test.path.display(), arguments.join(" "));
                parts.push(Part {
                    name: format!("{} ({path}){what}", test.source),
                    needs: match &*test.name {
                        SUSPEND => "btf,nf_tables,veth,suspend",
                        _ => "btf,nf_tables,veth",
                    },
                    command: format!(
                        "cd /tmp; {environment} RUST_TEST_THREADS={threads} {path} --color never \
                         {arguments}"
                    ),
                    tests,
                });
            }
        }
        Ok(parts)
    }
}

/// Tests of one program that run beside each other.
struct Sitting<'a> {
    /// What distinguishes it from the program's other sittings.
    what: &'static str,
    /// The test program's.
    arguments: Vec<&'a str>,
    threads: u32,
}

impl TestProgram {
    /// The sittings in which the chosen tests run.
    fn sittings<'a>(&self, selection: Selection<'a>) -> Vec<Sitting<'a>> {
        let of = |what, arguments, threads| Sitting { what, arguments, threads };
        let names = |names: &'a [String]| names.iter().map(String::as_str).collect();
        match selection {
            Selection::Named(chosen @ [_, ..]) => vec![of("", names(chosen), THREADS)],
            _ if self.name != END_TO_END => vec![of("", Vec::new(), THREADS)],
            Selection::Essential => vec![of("", ESSENTIAL.to_vec(), THREADS)],
            Selection::Named([]) => vec![
                of("", BUSY.iter().flat_map(|name| ["--skip", name]).collect(), THREADS),
                of(", one at a time", BUSY.to_vec(), 1),
            ],
        }
    }
}

/// Builds the tests, all or those that are chosen. Returns every program that belongs to them.
fn built(chosen: &[&str]) -> anyhow::Result<Vec<Artifact>> {
    let mut build = cargo(["test", "--no-run", "--workspace", "--exclude", "knock-ebpf"]);
    run(build.args(chosen))?;
    build.args(["--quiet", "--message-format=json"]);
    parse(&output(&mut build)?)
}

/// Returns how many tests of a program its `arguments` choose.
fn count(program: &Path, arguments: &[&str]) -> anyhow::Result<u64> {
    let mut list = Command::new(program);
    let listed = output(list.args(["--list", "--format", "terse"]).args(arguments))?;
    Ok(listed.lines().filter(|line| line.ends_with(": test")).count() as u64)
}

/// A program that cargo built.
#[derive(Debug, PartialEq, Eq)]
struct Artifact {
    package: String,
    kind: String,
    name: String,
    source: String,
    path: PathBuf,
}

/// Reads cargo's messages (`cargo help build`, `--message-format json`).
fn parse(messages: &str) -> anyhow::Result<Vec<Artifact>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cargo's messages are no JSON")?;
        let (Some(path), Some(manifest)) =
            (message["executable"].as_str(), message["manifest_path"].as_str())
        else {
            continue;
        };
        let target = &message["target"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let is_test = message["profile"]["test"] == true;
        let kind = text(&target["kind"][0]);
        // The unit tests of a program are of its kind, too.
        if is_test != (kind == "test") {
            continue;
        }
        let folder = Path::new(manifest).parent().unwrap_or(Path::new(""));
        let package = text(&message["package_id"]);
        found.push(Artifact {
            package: package_name(&package, folder),
            kind,
            name: text(&target["name"]),
            source: text(&target["src_path"]),
            path: path.into(),
        });
    }
    Ok(found)
}

/// The name in `path+file:///folder#name@0.1.0`, where it is left out if it is the folder's.
fn package_name(id: &str, folder: &Path) -> String {
    let fragment = id.rsplit_once('#').map_or(id, |(_, fragment)| fragment);
    let named = fragment.split_once('@').map(|(name, _)| name.to_owned());
    named.unwrap_or_else(|| folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_and_programs_are_read_off_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/tests#knock-tests@0.1.0","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"name":"e2e","src_path":"/w/tests/tests/e2e/main.rs"},"profile":{"test":true},"executable":"/w/target/debug/deps/e2e-1"}
{"reason":"compiler-artifact","package_id":"path+file:///w/knock-common#0.1.0","manifest_path":"/w/knock-common/Cargo.toml","target":{"kind":["bin"],"name":"xknockd","src_path":"/w/m.rs"},"profile":{"test":false},"executable":"/w/target/debug/xknockd"}
{"reason":"compiler-artifact","package_id":"path+file:///w/xtask#0.1.0","manifest_path":"/w/xtask/Cargo.toml","target":{"kind":["bin"],"name":"xtask","src_path":"/w/x.rs"},"profile":{"test":true},"executable":"/w/target/debug/deps/xtask-1"}
{"reason":"build-finished","success":true}
"#;
        let found = parse(messages).unwrap();
        let short: Vec<_> =
            found.iter().map(|one| (&*one.package, &*one.kind, &*one.name)).collect();
        assert_eq!(short, [("knock-tests", "test", "e2e"), ("knock-common", "bin", "xknockd")]);
    }
}
