//! On systems without process groups, no command is started, because its child processes could not be killed.

use std::io;
use std::time::Duration;

use super::job::CommandJob;
use super::output::OutputSettings;
use super::sandbox::Launcher;
use super::start::{Deadlines, Ended, NotStarted};

pub(super) const NEVER_ENDS: &str = "";

pub(super) struct StopCall;

impl StopCall {
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub fn stop(&self) {}

    pub fn abort(&self) {}

    pub fn wait(&self, _: Duration) {}
}

pub(super) fn run(
    _: &Launcher,
    job: &CommandJob,
    _: Deadlines,
    _: OutputSettings,
    _: &StopCall,
) -> Result<Ended, NotStarted> {
    let why =
        "commands are run on Unix systems only, where a command can be ended with all it started";
    let why = io::Error::new(io::ErrorKind::Unsupported, why);
    Err(NotStarted::new(job, &why))
}
