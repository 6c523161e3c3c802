//! The limits of a command's resources.

use serde::{Deserialize, Serialize};

/// Limits of one command. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Processor time in seconds, for each process of the command. Default: none.
    pub cpu_seconds: Option<u64>,
    /// Memory in bytes, of all processes of the command together. Default: 500 MB.
    ///
    /// The use is measured ten times a second, and a command above the limit is killed. In addition, the kernel refuses
    /// a single process more than eight times as much private memory.
    pub memory: Option<u64>,
    /// Maximum size in bytes of each file that the command writes. Default: none.
    pub file_size: Option<u64>,
    /// Maximum number of processes and threads of the command at once. Default: 512.
    ///
    /// They are counted ten times a second, and a command with more is killed.
    pub processes: Option<u64>,
}

/// The private memory that a process may reserve, as a multiple of the memory that it may use.
#[cfg(unix)]
const RESERVED: u64 = 8;

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_seconds: None,
            memory: Some(500_000_000),
            file_size: None,
            processes: Some(512),
        }
    }
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self {
        cpu_seconds: None,
        memory: None,
        file_size: None,
        processes: None,
    };
}

#[cfg(unix)]
impl Limits {
    /// Applies the limits to this process as far as the kernel supports them; the error names the refused one.
    pub(super) fn apply(&self) -> Result<(), (&'static str, rustix::io::Errno)> {
        use rustix::process::Resource;

        // Language runtimes reserve many times the memory that they use: almost unlimited address space, and several
        // times as much private memory.
        let reserved = self.memory.map(|used| used.saturating_mul(RESERVED));
        let limits = [
            ("processor time", Resource::Cpu, self.cpu_seconds, 1),
            ("memory", Resource::Data, reserved, 0),
            ("the size of files", Resource::Fsize, self.file_size, 0),
        ];
        for (what, resource, limit, until_killed) in limits {
            let Some(limit) = limit else { continue };
            lower(resource, limit, limit.saturating_add(until_killed))
                .map_err(|error| (what, error))?;
        }
        if *self != Self::NONE {
            // A crash would otherwise write its memory to a file.
            lower(Resource::Core, 0, u64::MAX).map_err(|error| ("core files", error))?;
        }
        Ok(())
    }
}

/// Never raises an existing limit.
#[cfg(unix)]
fn lower(
    resource: rustix::process::Resource,
    current: u64,
    maximum: u64,
) -> rustix::io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let least =
        |limit: u64, other: Option<u64>| Some(other.map_or(limit, |other| other.min(limit)));
    let maximum = match maximum {
        u64::MAX => now.maximum,
        _ => least(maximum, now.maximum),
    };
    let current = maximum.map_or(current, |maximum| current.min(maximum));
    let current = least(current, now.current);
    rustix::process::setrlimit(resource, rustix::process::Rlimit { current, maximum })
}
