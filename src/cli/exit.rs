//! Exit codes, which scripts rely on.

use std::process::ExitCode;

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All succeeded.
    Success,
    /// It could not run.
    CouldNotRun,
    /// Bad usage or input; nothing was sent.
    Usage,
    /// Finished, some items failed.
    SomeFailed,
    /// Stopped early, can be resumed.
    StoppedEarly,
    /// Ended by a signal; what had finished is saved.
    Signal(u8),
}

impl Exit {
    /// The number for the shell.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::CouldNotRun => 1,
            Self::Usage => 2,
            Self::SomeFailed => 3,
            Self::StoppedEarly => 4,
            Self::Signal(number) => 128 + number,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why nothing was sent.
pub struct Refusal {
    pub exit: Exit,
    pub message: String,
}

impl Refusal {
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }

    pub fn could_not_run(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::CouldNotRun,
            message: message.into(),
        }
    }
}
