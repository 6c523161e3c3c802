//! Exit codes, which scripts rely on.

use std::io::Write;
use std::process::ExitCode;

use batchwright::Error;
use serde::Serialize;
use serde_json::json;

use super::display;
use super::sanitize;
use super::stderr::{is_json, is_quiet};

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All succeeded.
    Success,
    /// It could not run.
    CouldNotRun,
    /// Invalid usage or input; nothing was sent.
    Usage,
    /// Finished, some items failed.
    SomeFailed,
    /// Stopped early, can be resumed.
    StoppedEarly,
    /// Ended by a signal; finished items are saved.
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

/// The category of an error, for scripts: coarser than the error kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Flags and settings.
    Usage,
    /// The prompts cannot be read, or some are invalid.
    Input,
    /// The results cannot be written, or existing ones do not match.
    Output,
    /// The provider cannot be used: no key, no model, no server.
    Provider,
    /// The queue, or the process that a command names.
    Queue,
    /// Any other error.
    CouldNotRun,
}

/// Why a command ends before it has done its work.
pub struct Refusal {
    pub exit: Exit,
    pub message: String,
    pub about: About,
    /// What to do, if the message does not say it.
    pub hint: Option<String>,
}

impl Refusal {
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            about: About::Usage,
            ..Self::could_not_run(message)
        }
    }

    pub fn could_not_run(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::CouldNotRun,
            message: message.into(),
            about: About::CouldNotRun,
            hint: None,
        }
    }

    /// An end without a message: by a signal, or because the output was closed.
    pub fn ended(exit: Exit) -> Self {
        Self {
            exit,
            ..Self::could_not_run("")
        }
    }

    pub fn about(mut self, about: About) -> Self {
        self.about = about;
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ends the command: prints the error on standard error, and with `--json` on standard output too, instead of the
    /// result.
    pub fn end(self) -> Exit {
        if self.message.is_empty() {
            return self.exit;
        }
        if is_json() {
            self.print_json();
        }
        if !is_json() || !is_quiet() {
            display::error(&self.text());
        }
        self.exit
    }

    /// What happened and what to do, for people.
    pub fn text(&self) -> String {
        let hint = self.hint.iter().map(|hint| format!("; {hint}"));
        format!("{}{}", self.message, hint.collect::<String>())
    }

    /// Prints the error for scripts.
    pub fn print_json(&self) {
        let mut error = json!({"kind": self.about, "message": self.message});
        if let Some(hint) = &self.hint {
            error["hint"] = hint.as_str().into();
        }
        let line = json!({"error": error, "exit_code": self.exit.code()});
        let _ = writeln!(std::io::stdout(), "{}", sanitize::json(&line));
    }
}

/// The error of a command, for another reason than its usage.
pub fn could_not_run(error: Error) -> Refusal {
    Refusal::could_not_run(error.message())
}
