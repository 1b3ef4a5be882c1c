//! Builds the XDP program, for the agent to embed.
//!
//! The object is put at `OUT_DIR/knock-ebpf`. The client needs none, so without the feature
//! `agent` this does nothing and no BPF toolchain is needed.

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "agent")]
    xdp::build()?;
    Ok(())
}

#[cfg(feature = "agent")]
mod xdp {
    use std::env;

    use anyhow::Context as _;
    use aya_build::{Package, Toolchain};
    use xknock_toolchain::{BpfToolchain, find};

    pub(crate) fn build() -> anyhow::Result<()> {
        // aya-build watches the program itself, but not what the program is made from.
        for source in ["../knock-common/src", "../knock-common/Cargo.toml", "../Cargo.lock"] {
            println!("cargo:rerun-if-changed={source}");
        }
        let toolchain = find().map_err(|missing| {
            anyhow::anyhow!("the XDP program cannot be built ({missing}): run `cargo xtask setup`")
        })?;
        set_environment(&toolchain);
        let program =
            Package { name: "knock-ebpf", root_dir: "../knock-ebpf", ..Package::default() };
        aya_build::build_ebpf([program], Toolchain::Custom(&toolchain.compiler.name))
            .context("the XDP program does not build; the warnings above say why")
    }

    /// Sets what aya-build does not: how its cargo finds the linker and may use a stable compiler.
    fn set_environment(toolchain: &BpfToolchain) {
        // SAFETY: the build script has started no thread yet that could read the environment.
        unsafe { env::set_var("PATH", toolchain.path()) };
        match toolchain.compiler.bootstrap() {
            // SAFETY: as above.
            Some(crates) => unsafe { env::set_var("RUSTC_BOOTSTRAP", crates) },
            // SAFETY: as above.
            None => unsafe { env::remove_var("RUSTC_BOOTSTRAP") },
        }
    }
}
