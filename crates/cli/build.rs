//! Links the program that confines commands without shared libraries, if this system has the static ones: it is started
//! for each command, and then starts in about half of the processor time. Cargo has no setting for one program of several.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// What Rust names shared libraries on its own, as files that name the static ones instead.
const LIBRARIES: [(&str, &str); 7] = [
    ("libc.so", "GROUP(-l:libc.a -l:libgcc_eh.a -l:libgcc.a)"),
    ("libgcc_s.so", "INPUT(-l:libgcc_eh.a)"),
    ("libdl.so", "INPUT(-l:libdl.a)"),
    ("libm.so", "INPUT(-l:libm.a)"),
    ("libpthread.so", "INPUT(-l:libpthread.a)"),
    ("librt.so", "INPUT(-l:librt.a)"),
    ("libutil.so", "INPUT(-l:libutil.a)"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    // Elsewhere, the libraries are others, or the program is static anyway. For another kind of machine it is linked as
    // usual, since what is tried here would not run.
    let is_gnu =
        variable("CARGO_CFG_TARGET_OS") == "linux" && variable("CARGO_CFG_TARGET_ENV") == "gnu";
    if !is_gnu || variable("TARGET") != variable("HOST") {
        return;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets it"));
    let arguments = ["-static-pie".to_owned(), format!("-L{}", folder.display())];
    if links(&folder, &arguments).is_ok_and(|linked| linked) {
        for argument in arguments {
            println!("cargo::rustc-link-arg-bin=batchwright-sandbox={argument}");
        }
    }
}

/// Whether a program that is linked with these arguments runs.
fn links(folder: &Path, arguments: &[String]) -> io::Result<bool> {
    for (name, content) in LIBRARIES {
        fs::write(folder.join(name), content)?;
    }
    let (source, program) = (folder.join("probe.rs"), folder.join("probe"));
    fs::write(
        &source,
        "fn main() { std::thread::spawn(|| ()).join().unwrap(); }",
    )?;
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={}", linker.display()));
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    let linking = arguments
        .iter()
        .flat_map(|argument| ["-C".to_owned(), format!("link-arg={argument}")]);
    rustc.args(linking).arg("-o").arg(&program).arg(&source);
    Ok(rustc.output()?.status.success() && Command::new(&program).status()?.success())
}
