//! On systems without process groups, no command is started, because its child processes could not be killed.

use std::io;

use super::job::CommandJob;
use super::launch::{Deadlines, Ended, NotStarted};
use super::output::OutputSettings;
use super::sandbox::confined::Confined;

pub(super) struct StopCall;

impl StopCall {
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub fn stop(&self) {}

    pub fn abort(&self) {}
}

pub(super) fn run(
    _: Confined,
    job: &CommandJob,
    _: Deadlines,
    _: &OutputSettings,
    _: &StopCall,
) -> Result<Ended, NotStarted> {
    let why =
        "commands are run on Unix systems only, where a command can be ended with all it started";
    let why = io::Error::new(io::ErrorKind::Unsupported, why);
    Err(NotStarted::new(job, &why))
}
