//! The real program, run in a desk.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright_simulate::Simulator;

use super::common::{Desk, Ended, PATIENCE, RunToEnd, Running};

impl Desk {
    /// The program with only the environment variables that it needs.
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
        self.against(sim, words).ended()
    }

    /// Runs the program with these words to the end.
    pub fn plain(&self, words: &str) -> Ended {
        self.command(words.split_whitespace()).ended()
    }

    /// Starts these words against the simulator, and waits until it holds this number of calls.
    #[track_caller]
    pub fn held(&self, sim: &Simulator, words: &str, calls: u64) -> Running {
        sim.hold();
        let running = self.start(sim, words);
        assert!(sim.wait_until(|stats| stats.in_flight == calls, PATIENCE));
        running
    }

    /// Starts these words against the simulator.
    pub fn start(&self, sim: &Simulator, words: &str) -> Running {
        Running::start(&mut self.against(sim, words))
    }
}

impl Running {
    /// The program's peak memory so far, in kB, if the system reports it.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Waits for the end without a time limit. Returns also the peak memory in kB.
    pub fn wait_with_peak(mut self) -> (Ended, u64) {
        let mut peak = 0;
        while self.child.try_wait().unwrap().is_none() {
            peak = self.peak_memory().unwrap_or(peak);
            thread::sleep(Duration::from_millis(5));
        }
        (self.wait(), peak)
    }
}

/// Runs a program to its end with this standard input. A program may reject the input before it has read all of it.
pub fn fed(command: &mut Command, text: impl AsRef<[u8]>) -> Ended {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut pipe = running.child.stdin.take().unwrap();
    let _ = pipe.write_all(text.as_ref());
    drop(pipe);
    running.wait()
}

impl Ended {
    /// The process that `submit` has printed.
    #[track_caller]
    pub fn process(&self) -> ProcessId {
        self.stdout.strip_suffix('\n').unwrap().parse().unwrap()
    }
}
