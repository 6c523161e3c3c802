//! What a command may do: which programs, with which environment, files, network, and how much.

pub(super) mod limits;

use std::fmt;

/// How much of a sandbox the kernel has to enforce.
///
/// The programs that are allowed and the environment hold in every mode: they need no kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// All of it, or nothing is started.
    #[default]
    On,
    /// As much as it can; what it cannot is said.
    BestEffort,
    /// Nothing of it, apart from limits that were asked for.
    Off,
}

impl SandboxMode {
    /// Every mode, the strictest first.
    pub const ALL: [Self; 3] = [Self::On, Self::BestEffort, Self::Off];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl fmt::Display for SandboxMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
