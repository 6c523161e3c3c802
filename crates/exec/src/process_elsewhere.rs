//! Where there are no process groups, no command is started: one that forks could not be ended.

use std::io;
use std::time::Duration;

use super::output::OutputSettings;
use super::record::CommandResult;
use super::sandbox::confined::{Confined, Intervention};

pub(super) struct StopCall;

impl StopCall {
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub fn stop(&self) {}

    pub fn abort(&self) {}
}

pub(super) struct Deadlines {
    pub timeout: Option<Duration>,
    pub grace: Duration,
    pub abort_grace: Duration,
}

pub(super) struct Ended {
    pub result: CommandResult,
    pub timed_out: bool,
    pub stopped: bool,
    pub output_error: Option<io::Error>,
    pub left: Option<i32>,
    pub intervention: Option<Intervention>,
}

pub(super) fn run(
    _: Confined,
    _: u64,
    _: Deadlines,
    _: &OutputSettings,
    _: &StopCall,
) -> io::Result<Ended> {
    let why =
        "commands are run on Unix systems only, where a command can be ended with all it started";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}
