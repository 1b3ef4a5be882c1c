//! The build of the XDP program, whose object is put at `OUT_DIR/knock-ebpf` to be embedded.

use std::env;

use anyhow::Context as _;
use aya_build::{Package, Toolchain};
use xknock_toolchain::{BpfToolchain, find};

fn main() -> anyhow::Result<()> {
    // aya-build watches the program itself, but not what the program is made from.
    let sources =
        ["build.rs", "../../knock-common/src", "../../knock-common/Cargo.toml", "../../Cargo.lock"];
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
    }
    let toolchain = find().map_err(|missing| {
        anyhow::anyhow!("the XDP program cannot be built ({missing}): run `cargo xtask setup`")
    })?;
    set_environment(&toolchain);
    let program =
        Package { name: "knock-ebpf", root_dir: "../../knock-ebpf", ..Package::default() };
    aya_build::build_ebpf([program], Toolchain::Custom(&toolchain.compiler.name))
        .context("the XDP program does not build; the warnings above say why")
}

/// Sets what aya-build does not: how its cargo finds the linker, may use a stable compiler, and
/// reports errors and warnings only. aya-build turns each line of that cargo into a warning of this
/// build.
fn set_environment(toolchain: &BpfToolchain) {
    // SAFETY: the build script has started no thread yet that could read the environment.
    unsafe { env::set_var("PATH", toolchain.path()) };
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    match toolchain.compiler.bootstrap() {
        // SAFETY: as above.
        Some(crates) => unsafe { env::set_var("RUSTC_BOOTSTRAP", crates) },
        // SAFETY: as above.
        None => unsafe { env::remove_var("RUSTC_BOOTSTRAP") },
    }
}
