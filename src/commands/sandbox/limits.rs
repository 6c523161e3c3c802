//! How much a command may use.

/// Limits of one command. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Processor time in seconds, of each process of the command. Default: none.
    pub cpu_seconds: Option<u64>,
    /// Memory in bytes, of all processes of the command together. Default: 500 MB.
    ///
    /// The kernel refuses a single process more private memory than this at once; what several use
    /// together is measured ten times a second, and a command above it is killed.
    pub memory: Option<u64>,
    /// Size in bytes of any one file that the command writes. Default: none.
    pub file_size: Option<u64>,
    /// Processes and threads of the command at once. Default: 512.
    ///
    /// They are counted ten times a second, and a command with more is killed.
    pub processes: Option<u64>,
}

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
