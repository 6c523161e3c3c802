//! What happens if a command cannot be started for want of open files or processes: its slot waits for the end of
//! another command. If no command runs, the run ends, because no later command could be started either.

use std::sync::OnceLock;

use parking_lot::{Condvar, Mutex};

use crate::record::{FailureKind, JobError};

/// The attempts of one run that are in progress.
#[derive(Default)]
pub(super) struct Starts {
    counts: Mutex<Counts>,
    changed: Condvar,
    starved: OnceLock<JobError>,
}

#[derive(Default)]
struct Counts {
    running: usize,
    ended: u64,
}

impl Starts {
    /// Starts a command and waits for its end. `stopped`: whether the run starts no more commands.
    pub fn attempt<T>(
        &self,
        mut start: impl FnMut() -> Result<T, JobError>,
        stopped: impl Fn() -> bool,
    ) -> Result<T, JobError> {
        loop {
            if let Some(why) = self.starved.get() {
                return Err(why.clone());
            }
            let (ended, alone) = {
                let mut counts = self.counts.lock();
                counts.running += 1;
                (counts.ended, counts.running == 1)
            };
            let mut running = Running {
                starts: self,
                started: true,
            };
            let result = start();
            let why = match result {
                Err(why) if why.kind == FailureKind::Resources => why,
                other => return other,
            };
            running.started = false;
            drop(running);
            let mut counts = self.counts.lock();
            if alone && counts.running == 0 {
                return Err(self.starved.get_or_init(|| why).clone());
            }
            while counts.running > 0 && counts.ended == ended {
                self.changed.wait(&mut counts);
            }
            if stopped() {
                return Err(JobError::new(FailureKind::Cancelled, why.message));
            }
        }
    }

    /// Why no command can be started, although no other one runs.
    pub fn starved(&self) -> Option<&JobError> {
        self.starved.get()
    }
}

/// An attempt. It counts as ended also if its thread panics.
struct Running<'a> {
    starts: &'a Starts,
    /// An attempt that started nothing frees nothing that others wait for.
    started: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut counts = self.starts.counts.lock();
        counts.running -= 1;
        counts.ended += u64::from(self.started);
        self.starts.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    fn scarce() -> JobError {
        JobError::new(FailureKind::Resources, "too many open files")
    }

    #[test]
    fn a_command_without_resources_waits_for_the_end_of_another() {
        let starts = Starts::default();
        let (begun, begins) = channel();
        let (end, ends) = channel::<()>();
        thread::scope(|scope| {
            let starts = &starts;
            scope.spawn(move || {
                let long = || {
                    begun.send(()).unwrap();
                    let _ = ends.recv();
                    Ok(())
                };
                starts.attempt(long, || false).unwrap();
            });
            begins.recv().unwrap();
            let mut end = Some(end);
            let mut tries = 0;
            let start = || {
                tries += 1;
                match end.take() {
                    Some(end) => {
                        drop(end);
                        Err(scarce())
                    }
                    None => Ok(()),
                }
            };
            starts.attempt(start, || false).unwrap();
            assert_eq!(tries, 2);
        });
        assert_eq!(starts.starved(), None);
    }

    #[test]
    fn without_another_command_the_run_ends() {
        let starts = Starts::default();
        let failed = starts.attempt(|| Err::<(), _>(scarce()), || false);
        assert_eq!(failed, Err(scarce()));
        let later = starts.attempt(|| Ok(()), || false);
        assert_eq!(later, Err(scarce()), "no other command is started");
    }
}
