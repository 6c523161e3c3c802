//! The limits of a command's resources, which the kernel enforces for each of its processes.

#[cfg(target_os = "linux")]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Limits of each process of a command. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Private memory in bytes: above it, the program gets no more memory. Memory that programs share does not count.
    /// Default: none.
    pub memory: Option<u64>,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { memory: None };

    /// Limits this process and those that it starts. An existing lower limit stays.
    #[cfg(target_os = "linux")]
    pub(super) fn apply(&self) -> Result<(), String> {
        // A crash would otherwise write its memory to a file.
        let core = (*self != Self::NONE).then_some(0);
        let limits = [
            ("memory", Resource::Data, self.memory),
            ("core files", Resource::Core, core),
        ];
        for (what, resource, limit) in limits {
            let Some(limit) = limit else { continue };
            let now = getrlimit(resource);
            let least = |new: u64, now: Option<u64>| Some(now.map_or(new, |now| now.min(new)));
            let maximum = least(limit, now.maximum);
            let current = least(limit, now.current).min(maximum);
            setrlimit(resource, Rlimit { current, maximum })
                .map_err(|error| format!("cannot limit {what}: {error}"))?;
        }
        Ok(())
    }
}
