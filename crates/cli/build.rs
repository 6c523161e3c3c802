//! Asks the linker to put the functions in use next to each other, which saves a third of the memory of a run.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Written by `scripts/function-order`.
const ORDER: &str = "data/function-order.ld";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ORDER}");
    // The linker may change without a change of these files.
    let target = variable("TARGET").to_uppercase().replace('-', "_");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_{target}_LINKER");
    println!("cargo::rerun-if-env-changed=LD_PRELOAD");
    let order = Path::new(&variable("CARGO_MANIFEST_DIR")).join(ORDER);
    let option = format!("-Wl,-T,{}", order.display());
    if variable("PROFILE") == "release"
        && variable("CARGO_CFG_TARGET_OS") == "linux"
        && links_with(&option)
    {
        println!("cargo::rustc-link-arg-bin=batchwright={option}");
    }
}

/// Whether the linker knows the option: not all linkers add a script to their own.
fn links_with(option: &str) -> bool {
    let folder = variable("OUT_DIR");
    let source = Path::new(&folder).join("empty.rs");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args([
        "--target",
        &variable("TARGET"),
        "--out-dir",
        &folder,
        "-C",
        &format!("link-arg={option}"),
    ]);
    rustc.args(
        variable("CARGO_ENCODED_RUSTFLAGS")
            .split('\u{1f}')
            .filter(|flag| !flag.is_empty()),
    );
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    fs::write(&source, "fn main() {}").is_ok()
        && rustc
            .arg(source)
            .output()
            .is_ok_and(|linked| linked.status.success())
}

/// A variable that Cargo sets.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
