//! The real program, run on a desk.

use std::ffi::OsStr;
use std::process::Command;

use batchwright_simulate::Simulator;

use super::common::{Desk, Ended, Running};

impl Desk {
    /// The program with nothing but what it needs from the environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.other(env!("CARGO_BIN_EXE_batchwright"), args)
    }

    /// `run` with these words (`in.jsonl -o out.jsonl -j 2`), against the simulator.
    pub fn against(&self, sim: &Simulator, words: &str) -> Command {
        let url = sim.base_url();
        let provider = ["--provider", "local", "--base-url", &url];
        let mut command = self.command(["run"].iter().chain(&provider));
        if !words.contains("--model") {
            command.args(["--model", "sim-1"]);
        }
        command.args(words.split_whitespace());
        command
    }

    /// Runs these words against the simulator to the end.
    pub fn run(&self, sim: &Simulator, words: &str) -> Ended {
        Running::start(&mut self.against(sim, words)).wait()
    }

    /// Runs the program with these words to the end.
    pub fn plain(&self, words: &str) -> Ended {
        Running::start(&mut self.command(words.split_whitespace())).wait()
    }

    /// Starts these words against the simulator.
    pub fn start(&self, sim: &Simulator, words: &str) -> Running {
        Running::start(&mut self.against(sim, words))
    }
}
