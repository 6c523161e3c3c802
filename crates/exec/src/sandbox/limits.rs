//! How much a command may use.

/// Limits of one command. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Processor time in seconds, of each process of the command. Default: none.
    pub cpu_seconds: Option<u64>,
    /// Memory in bytes, of all processes of the command together. Default: 500 MB.
    ///
    /// What they use is measured ten times a second, and a command above it is killed. In between the
    /// kernel refuses a single process more than eight times as much private memory.
    pub memory: Option<u64>,
    /// Size in bytes of any one file that the command writes. Default: none.
    pub file_size: Option<u64>,
    /// Processes and threads of the command at once. Default: 512.
    ///
    /// They are counted ten times a second, and a command with more is killed.
    pub processes: Option<u64>,
}

/// How much more private memory than it may use a process may reserve.
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
    /// No limit at all.
    pub const NONE: Self = Self {
        cpu_seconds: None,
        memory: None,
        file_size: None,
        processes: None,
    };
}

#[cfg(unix)]
impl Limits {
    /// Has the kernel hold this process to them, as far as it does so; the error says which it refused.
    pub(super) fn apply(&self) -> Result<(), (&'static str, rustix::io::Errno)> {
        use rustix::process::Resource;

        // Programs with a runtime of their own reserve many times what they use: of address space without
        // end, of private memory several times as much.
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
            // What crashes would otherwise leave its memory behind as a file.
            lower(Resource::Core, 0, u64::MAX).map_err(|error| ("core files", error))?;
        }
        Ok(())
    }
}

/// Never raises a limit that is there.
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
