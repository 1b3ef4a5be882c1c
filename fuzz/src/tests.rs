//! The corpora: each file goes through its target.

use std::fs;
use std::path::Path;

/// Runs `target` on each file in its corpus.
fn corpus(name: &str, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = fs::read_dir(&folder).expect("the corpus of this target");
    let mut count = 0;
    for file in files {
        let path = file.expect("an entry").path();
        println!("{}", path.display());
        target(&fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count > 10, "{} files in {}", count, folder.display());
}

#[test]
fn packets_are_read_as_etherparse_reads_them() {
    corpus("packet", crate::packet::run);
}

#[test]
fn doors_open_only_to_a_source_that_knocked() {
    corpus("detector", crate::detector::run);
}

#[test]
fn configs_are_policies_or_errors_that_can_be_shown() {
    corpus("config", crate::config::run);
}

#[test]
fn answers_of_the_kernel_are_read_without_trust() {
    corpus("netlink", crate::netlink::run);
}

#[test]
fn keys_and_their_knocks_are_valid_or_refused() {
    corpus("keys", crate::keys::run);
}

#[test]
fn requests_mean_the_same_when_written_again_or_are_refused() {
    corpus("control", crate::control::run);
}
