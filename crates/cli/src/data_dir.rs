//! The folder of the program's own data.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;

static NAMED: OnceLock<PathBuf> = OnceLock::new();

/// Uses this folder, which `--data-dir` names.
pub fn use_folder(named: PathBuf) {
    NAMED.get_or_init(|| named);
}

/// The folder that `--data-dir` names.
pub fn named_folder() -> Option<&'static PathBuf> {
    NAMED.get()
}

/// The named folder; otherwise `BATCHWRIGHT_HOME`; otherwise the platform's default.
pub fn data_dir() -> Option<PathBuf> {
    let variable = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    named_folder()
        .cloned()
        .or_else(|| variable("BATCHWRIGHT_HOME"))
        .or_else(|| platform(&variable).map(|folder| folder.join("batchwright")))
}

#[cfg(target_os = "macos")]
fn platform(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("HOME").map(|home| home.join("Library/Application Support"))
}

#[cfg(not(target_os = "macos"))]
fn platform(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")))
}
