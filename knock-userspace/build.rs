//! temporary
fn main() -> anyhow::Result<()> {
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf,knock_ebpf") };
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../knock-ebpf");
    println!("cargo:rerun-if-changed=../knock-common/src");
    aya_build::build_ebpf(
        [aya_build::Package { name: "knock-ebpf", root_dir: root, ..Default::default() }],
        aya_build::Toolchain::Custom("debian-bpf"),
    )
}
