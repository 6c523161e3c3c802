//! Inserts of several threads share a commit. One thread performs the inserts that the others submitted while it waited
//! for the write lock.

use std::collections::{HashMap, VecDeque};
use std::mem;

use parking_lot::{Condvar, Mutex};

use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::info::ProcessBudget;
use crate::queue::job::Job;

/// Which part of a request the jobs of an insert are.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The hash of the request.
    pub request: String,
    /// The number of the first job.
    pub first: u64,
}

pub(super) struct Insert {
    pub process: ProcessId,
    /// Jobs that are added once, however often they are inserted.
    pub part: Option<Part>,
    /// The description of the process, as stored.
    pub info: Option<String>,
    /// The job that waits for these jobs.
    pub parent: Option<JobId>,
    /// The budget of the process, if these jobs create it.
    pub budget: Option<ProcessBudget>,
    pub jobs: Vec<Job>,
    pub sealed: bool,
    pub now: Timestamp,
}

pub(super) type Inserted = Result<Vec<JobId>, Error>;

#[derive(Default)]
struct Queue {
    /// The number of the next insert.
    next: u64,
    waiting: VecDeque<(u64, Insert)>,
    /// Inserts that another thread has performed.
    done: HashMap<u64, Inserted>,
    /// A thread performs inserts.
    is_busy: bool,
}

/// Maximum number of jobs in one transaction, unless a single insert has more.
const MOST_JOBS: usize = 1_000;

#[derive(Default)]
pub(super) struct GroupCommit {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The inserts that are being performed. If that panics, each unanswered one gets an error.
struct Group<'a> {
    commit: &'a GroupCommit,
    numbers: Vec<u64>,
    results: Vec<Inserted>,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let lost = || Error::new(ErrorKind::Panic, "the insert was abandoned by a panic");
        let mut results = mem::take(&mut self.results).into_iter();
        let mut queue = self.commit.queue.lock();
        for number in &self.numbers {
            let result = results.next().unwrap_or_else(|| Err(lost()));
            queue.done.insert(*number, result);
        }
        queue.is_busy = false;
        self.commit.changed.notify_all();
    }
}

impl GroupCommit {
    /// Performs an insert together with those of other threads. `all` is called without a lock held, and returns one
    /// reply per insert.
    pub(super) fn run<L>(
        &self,
        insert: Insert,
        lock: impl Fn() -> L,
        mut all: impl FnMut(L, Vec<Insert>) -> Vec<Inserted>,
    ) -> Inserted {
        let mut queue = self.queue.lock();
        let own = queue.next;
        queue.next += 1;
        queue.waiting.push_back((own, insert));
        loop {
            if let Some(result) = queue.done.remove(&own) {
                return result;
            }
            if queue.is_busy {
                self.changed.wait(&mut queue);
                continue;
            }
            queue.is_busy = true;
            drop(queue);
            // Other threads can add inserts until the database is locked.
            let lock = lock();
            let (numbers, inserts) = self.take();
            let mut group = Group {
                commit: self,
                numbers,
                results: Vec::new(),
            };
            group.results = all(lock, inserts);
            drop(group);
            queue = self.queue.lock();
        }
    }

    fn take(&self) -> (Vec<u64>, Vec<Insert>) {
        let mut queue = self.queue.lock();
        let mut jobs = 0;
        let fits = |(_, insert): &(u64, Insert)| {
            let is_first = jobs == 0;
            jobs += insert.jobs.len();
            is_first || jobs <= MOST_JOBS
        };
        let count = queue
            .waiting
            .iter()
            .map(fits)
            .take_while(|fits| *fits)
            .count();
        queue.waiting.drain(..count).unzip()
    }
}
