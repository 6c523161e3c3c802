//! On systems without process groups, no command is started, because its child processes could not be killed.

use std::io;

use super::launch::{Deadlines, Ended};
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
    _: u64,
    _: Deadlines,
    _: &OutputSettings,
    _: &StopCall,
) -> io::Result<Ended> {
    let why =
        "commands are run on Unix systems only, where a command can be ended with all it started";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}
