//! What happens if a command cannot be started for want of open files, processes or memory: its slot waits for the end
//! of another command and tries again. If no command runs, the slot tries again after pauses, because another program
//! may have taken what is missing. If that does not help, the run ends, because no later command could be started.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::launch::{NotStarted, Scarce};
use crate::record::{FailureKind, JobError};

/// How long a single attempt keeps others from starting, unless it ends earlier.
const ALONE: Duration = Duration::from_millis(250);

/// The attempts of one run that are in progress.
pub(super) struct Starts {
    counts: Mutex<Counts>,
    changed: Condvar,
    starved: OnceLock<JobError>,
    /// The first pause; each further one doubles.
    pause: Duration,
}

#[derive(Default)]
struct Counts {
    running: usize,
    ended: u64,
    /// Until then, an attempt is made alone, because attempts at the same time may take from each other what each lacks.
    single: Option<Instant>,
    /// A slot pauses after such an attempt, and no other one starts a command.
    paused: bool,
    /// The pauses since a command was started, and the most of them for what was missing since then.
    pauses: u32,
    most_pauses: u32,
    /// Whether a message has said that commands wait.
    told: bool,
    stopping: bool,
}

impl Default for Starts {
    fn default() -> Self {
        Self::new(Duration::from_millis(8))
    }
}

impl Scarce {
    /// The number of pauses. With the first pause of a run, they last 33 s in total for what other programs may have
    /// taken, and 2 s for file descriptors of this program, which outputs that are being written may still hold.
    fn pauses(self) -> u32 {
        match self {
            Self::Own => 8,
            Self::Shared => 12,
        }
    }
}

impl Starts {
    fn new(pause: Duration) -> Self {
        Self {
            counts: Mutex::default(),
            changed: Condvar::new(),
            starved: OnceLock::new(),
            pause,
        }
    }

    /// Starts a command and waits for its end.
    pub fn attempt<T>(
        &self,
        mut start: impl FnMut() -> Result<T, NotStarted>,
    ) -> Result<T, JobError> {
        let mut counts = self.counts.lock();
        let mut single = false;
        loop {
            if !single {
                self.wait_for_turn(&mut counts);
            }
            if let Some(why) = self.starved.get() {
                return Err(why.clone());
            }
            if counts.stopping {
                let why = "the run ended before it started";
                return Err(JobError::new(FailureKind::Cancelled, why));
            }
            counts.running += 1;
            let ended = counts.ended;
            drop(counts);
            let mut running = Running {
                starts: self,
                single,
                started: true,
            };
            let failed = match start() {
                Ok(ended) => return Ok(ended),
                Err(failed) => failed,
            };
            let Some(scarce) = failed.scarce else {
                return Err(failed.why);
            };
            running.started = false;
            drop(running);
            counts = self.counts.lock();
            counts.most_pauses = counts.most_pauses.max(scarce.pauses());
            if !std::mem::replace(&mut counts.told, true) {
                log::warn!("commands wait: {}", failed.why.message);
            }
            while counts.running > 0 && counts.ended == ended && !counts.stopping {
                self.changed.wait(&mut counts);
            }
            // Whether nothing was started meanwhile, and no other slot tries alone.
            single = counts.running == 0
                && counts.ended == ended
                && counts.single.is_none()
                && !counts.paused;
            if single {
                if counts.pauses >= counts.most_pauses {
                    return Err(self.starved.get_or_init(|| failed.why).clone());
                }
                self.pause(&mut counts);
                counts.single = Some(Instant::now() + ALONE);
            }
        }
    }

    fn wait_for_turn(&self, counts: &mut MutexGuard<'_, Counts>) {
        while !counts.stopping {
            if counts.paused {
                self.changed.wait(counts);
            } else if let Some(until) = counts.single {
                if self.changed.wait_until(counts, until).timed_out()
                    && counts.single == Some(until)
                {
                    // Its command runs by now.
                    counts.single = None;
                }
            } else {
                return;
            }
        }
    }

    fn pause(&self, counts: &mut MutexGuard<'_, Counts>) {
        let until = Instant::now() + self.pause * (1 << counts.pauses);
        counts.pauses += 1;
        counts.paused = true;
        while !counts.stopping && !self.changed.wait_until(counts, until).timed_out() {}
        counts.paused = false;
        self.changed.notify_all();
    }

    /// The run starts no more commands.
    pub fn stop(&self) {
        self.counts.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Why no command can be started, although no other one runs.
    pub fn starved(&self) -> Option<&JobError> {
        self.starved.get()
    }
}

/// An attempt. It counts as ended also if its thread panics.
struct Running<'a> {
    starts: &'a Starts,
    single: bool,
    /// An attempt that started nothing frees nothing that others wait for.
    started: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut counts = self.starts.counts.lock();
        counts.running -= 1;
        if self.single {
            counts.single = None;
        }
        if self.started {
            counts.ended += 1;
            (counts.pauses, counts.most_pauses) = (0, 0);
        }
        self.starts.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    fn starts() -> Starts {
        Starts::new(Duration::ZERO)
    }

    fn scarce() -> NotStarted {
        NotStarted {
            why: JobError::new(FailureKind::Resources, "too many open files"),
            scarce: Some(Scarce::Own),
        }
    }

    /// Another program takes all processes.
    fn shared() -> NotStarted {
        NotStarted {
            scarce: Some(Scarce::Shared),
            ..scarce()
        }
    }

    #[test]
    fn a_short_want_of_processes_does_not_end_the_run() {
        let starts = starts();
        for _ in 0..2 {
            let mut tries = 0;
            let start = || {
                tries += 1;
                if tries < 13 { Err(shared()) } else { Ok(()) }
            };
            starts.attempt(start).unwrap();
        }
        assert_eq!(starts.starved(), None);
        let total: u32 = (0..Scarce::Shared.pauses()).map(|pause| 1 << pause).sum();
        let total = Starts::default().pause * total;
        assert_eq!(total.as_secs(), 32);
    }

    #[test]
    fn a_lasting_want_of_processes_ends_the_run() {
        let starts = starts();
        let mut tries = 0;
        let failed = starts.attempt(|| {
            tries += 1;
            Err::<(), _>(shared())
        });
        assert_eq!(failed, Err(shared().why));
        assert_eq!(tries, 13);
    }

    #[test]
    fn a_stop_ends_a_pause() {
        let starts = Starts::new(Duration::from_secs(1 << 20));
        let (failed, fails) = channel();
        thread::scope(|scope| {
            let starts = &starts;
            scope.spawn(move || {
                fails.recv().unwrap();
                starts.stop();
            });
            let start = || {
                failed.send(()).unwrap();
                Err::<(), _>(shared())
            };
            let cancelled = starts.attempt(start).unwrap_err();
            assert_eq!(cancelled.kind, FailureKind::Cancelled);
        });
        let later = starts.attempt(|| -> Result<(), _> { panic!("started after the stop") });
        assert_eq!(later.unwrap_err().kind, FailureKind::Cancelled);
    }

    /// Starts a command with `retry` for all attempts but the first one, which fails while another command runs. That one
    /// ends afterwards, with `ending`.
    fn beside_another(
        starts: &Starts,
        ending: impl FnOnce() + Send,
        mut retry: impl FnMut() -> Result<(), NotStarted>,
    ) -> Result<(), JobError> {
        let (begun, begins) = channel();
        let (end, ends) = channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut ending = Some(ending);
                let long = || {
                    begun.send(()).unwrap();
                    let _ = ends.recv();
                    ending.take().unwrap()();
                    Ok(())
                };
                starts.attempt(long).unwrap();
            });
            begins.recv().unwrap();
            let mut end = Some(end);
            starts.attempt(|| match end.take() {
                Some(_) => Err(scarce()),
                None => retry(),
            })
        })
    }

    #[test]
    fn a_command_without_resources_waits_for_the_end_of_another() {
        let starts = starts();
        let mut retries = 0;
        let retry = || {
            retries += 1;
            Ok(())
        };
        beside_another(&starts, || (), retry).unwrap();
        assert_eq!(retries, 1);
        assert_eq!(starts.starved(), None);
    }

    #[test]
    fn without_another_command_the_run_ends() {
        let starts = starts();
        let failed = starts.attempt(|| Err::<(), _>(scarce()));
        assert_eq!(failed, Err(scarce().why));
        let later = starts.attempt(|| Ok(()));
        assert_eq!(later, Err(scarce().why), "no other command is started");
    }

    #[test]
    fn a_slot_that_waits_starts_nothing_after_a_stop() {
        let starts = starts();
        let retry = || panic!("started after the stop");
        let failed = beside_another(&starts, || starts.stop(), retry).unwrap_err();
        assert_eq!(failed.kind, FailureKind::Cancelled);
    }

    #[test]
    fn a_want_of_descriptors_after_another_one_does_not_end_the_run_early() {
        let starts = starts();
        let mut tries = 0;
        let start = || {
            tries += 1;
            match tries {
                1..10 => Err(shared()),
                10 => Err(scarce()),
                _ => Ok(()),
            }
        };
        starts.attempt(start).unwrap();
        assert_eq!(starts.starved(), None);
    }

    #[test]
    fn a_run_is_not_over_because_another_command_took_what_one_lacked_and_ended() {
        let starts = starts();
        let mut tries = 0;
        let start = || {
            tries += 1;
            if tries > 1 {
                return Ok(());
            }
            starts.attempt(|| Ok(())).unwrap();
            Err(scarce())
        };
        starts.attempt(start).unwrap();
        assert_eq!(starts.starved(), None);
    }

    #[test]
    fn attempts_that_hinder_each_other_are_made_one_by_one() {
        let starts = starts();
        let held = Mutex::new(0);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let start = || {
                        *held.lock() += 1;
                        thread::yield_now();
                        let alone = *held.lock() == 1;
                        thread::yield_now();
                        *held.lock() -= 1;
                        if alone { Ok(()) } else { Err(scarce()) }
                    };
                    starts.attempt(start).unwrap();
                });
            }
        });
        assert_eq!(starts.starved(), None);
    }
}
