//! The limits of a command's resources.

#[cfg(target_os = "linux")]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
#[cfg(target_os = "linux")]
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

/// A limit of a process as the kernel knows it.
#[cfg(target_os = "linux")]
pub(super) struct Lowered {
    what: &'static str,
    resource: Resource,
    limit: Rlimit,
}

#[cfg(target_os = "linux")]
impl Lowered {
    /// Limits this process and those that it starts.
    pub fn apply(&self) -> Result<(), String> {
        setrlimit(self.resource, self.limit)
            .map_err(|error| format!("cannot limit {}: {error}", self.what))
    }
}

#[cfg(target_os = "linux")]
impl Limits {
    /// The limits that the kernel supports, or those of this process if they are lower.
    pub(super) fn lowered(&self) -> Vec<Lowered> {
        // Language runtimes reserve many times the memory that they use: almost unlimited address space, and several
        // times as much private memory.
        let reserved = self.memory.map(|used| used.saturating_mul(RESERVED));
        // A crash would otherwise write its memory to a file.
        let core = (*self != Self::NONE).then_some(0);
        let limits = [
            ("processor time", Resource::Cpu, self.cpu_seconds, Some(1)),
            ("memory", Resource::Data, reserved, Some(0)),
            (
                "the size of files",
                Resource::Fsize,
                self.file_size,
                Some(0),
            ),
            ("core files", Resource::Core, core, None),
        ];
        let lowered = |(what, resource, limit, until_killed): (_, _, Option<u64>, Option<u64>)| {
            let current = limit?;
            let maximum = until_killed.map(|more| current.saturating_add(more));
            Some(Lowered {
                what,
                resource,
                limit: lower(resource, current, maximum),
            })
        };
        limits.into_iter().filter_map(lowered).collect()
    }
}

/// Never raises an existing limit.
#[cfg(target_os = "linux")]
fn lower(resource: Resource, current: u64, maximum: Option<u64>) -> Rlimit {
    let now = getrlimit(resource);
    let least = |limit: Option<u64>, other: Option<u64>| match (limit, other) {
        (Some(limit), Some(other)) => Some(limit.min(other)),
        (limit, other) => limit.or(other),
    };
    let maximum = least(maximum, now.maximum);
    Rlimit {
        current: least(least(Some(current), maximum), now.current),
        maximum,
    }
}
