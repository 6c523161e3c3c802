//! The limits of a command's resources, which the kernel enforces for each of its processes.

#[cfg(target_os = "linux")]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Limits of each process of a command. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Processor time in seconds. Default: none.
    pub cpu_seconds: Option<u64>,
    /// Private memory in bytes: above it, the program gets no more memory. Memory that programs share does not count.
    /// Default: none.
    pub memory: Option<u64>,
    /// Maximum size in bytes of each file that it writes. Default: none.
    pub file_size: Option<u64>,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self {
        cpu_seconds: None,
        memory: None,
        file_size: None,
    };

    /// The limit that a process exceeded, if the kernel ended it with this signal for that.
    #[cfg(unix)]
    pub(crate) fn exceeded(&self, signal: i32) -> Option<String> {
        use rustix::process::Signal;

        match Signal::from_named_raw(signal)? {
            Signal::XCPU => {
                let limit = self.cpu_seconds?;
                Some(format!(
                    "it used more than {limit} s of processor time; --cpu SECONDS allows more"
                ))
            }
            Signal::XFSZ => {
                let limit = self.file_size?;
                Some(format!(
                    "it wrote a file of more than {limit} bytes; --max-file SIZE allows more"
                ))
            }
            _ => None,
        }
    }

    /// Limits this process and those that it starts. An existing lower limit stays.
    #[cfg(target_os = "linux")]
    pub(super) fn apply(&self) -> Result<(), String> {
        // A crash would otherwise write its memory to a file.
        let core = (*self != Self::NONE).then_some(0);
        // SIGXCPU comes at the limit, and SIGKILL a second later.
        let limits = [
            ("processor time", Resource::Cpu, self.cpu_seconds, 1),
            ("memory", Resource::Data, self.memory, 0),
            ("the size of files", Resource::Fsize, self.file_size, 0),
            ("core files", Resource::Core, core, 0),
        ];
        for (what, resource, limit, until_killed) in limits {
            let Some(limit) = limit else { continue };
            let now = getrlimit(resource);
            let least = |new: u64, now: Option<u64>| Some(now.map_or(new, |now| now.min(new)));
            let maximum = least(limit.saturating_add(until_killed), now.maximum);
            let current = least(limit, now.current).min(maximum);
            setrlimit(resource, Rlimit { current, maximum })
                .map_err(|error| format!("cannot limit {what}: {error}"))?;
        }
        Ok(())
    }
}
