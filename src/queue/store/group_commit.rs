//! Inserts of several threads share a commit. The first thread becomes the leader and performs the inserts that other
//! threads submitted while it waited for the write lock.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::budget::ProcessBudget;
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
    /// The owner of the process, if these jobs create it.
    pub owner: Option<String>,
    /// The budget of the process, if these jobs create it.
    pub budget: Option<ProcessBudget>,
    pub jobs: Vec<Job>,
    pub sealed: bool,
    pub now: Timestamp,
}

pub(super) type Inserted = Result<Vec<JobId>, Error>;

enum Turn {
    Wait,
    Lead,
    Done(Inserted),
}

struct Waiter {
    turn: Mutex<Turn>,
    called: Condvar,
}

impl Waiter {
    fn call(&self, turn: Turn) {
        *self.turn.lock() = turn;
        self.called.notify_one();
    }
}

#[derive(Default)]
struct Queue {
    has_leader: bool,
    waiting: VecDeque<(Insert, Arc<Waiter>)>,
}

/// Maximum number of jobs in one transaction, unless a single insert has more.
const MOST_JOBS: usize = 1_000;

#[derive(Default)]
pub(super) struct GroupCommit(Mutex<Queue>);

/// The inserts that are being performed. If the leader panics, each unanswered one gets an error.
struct Group<'a> {
    queue: &'a Mutex<Queue>,
    waiters: Vec<Arc<Waiter>>,
    results: Vec<Inserted>,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let mut results = mem::take(&mut self.results).into_iter();
        for waiter in &self.waiters {
            let lost = || {
                Err(Error::new(
                    ErrorKind::Panic,
                    "the insert was abandoned by a panic",
                ))
            };
            waiter.call(Turn::Done(results.next().unwrap_or_else(lost)));
        }
        let mut queue = self.queue.lock();
        match queue.waiting.front() {
            Some((_, next)) => next.call(Turn::Lead),
            None => queue.has_leader = false,
        }
    }
}

impl GroupCommit {
    /// Performs an insert together with those of other threads. `all` is called without a lock held, and returns one
    /// reply per insert.
    pub(super) fn run<L>(
        &self,
        insert: Insert,
        lock: impl FnOnce() -> L,
        all: impl FnOnce(L, Vec<Insert>) -> Vec<Inserted>,
    ) -> Inserted {
        let waiter = Arc::new(Waiter {
            turn: Mutex::new(Turn::Wait),
            called: Condvar::new(),
        });
        let leads = {
            let mut queue = self.0.lock();
            queue.waiting.push_back((insert, waiter.clone()));
            !mem::replace(&mut queue.has_leader, true)
        };
        if !leads {
            let mut turn = waiter.turn.lock();
            while matches!(*turn, Turn::Wait) {
                waiter.called.wait(&mut turn);
            }
            if let Turn::Done(result) = mem::replace(&mut *turn, Turn::Wait) {
                return result;
            }
        }
        // Other threads can add inserts until the database is locked.
        let lock = lock();
        let (inserts, waiters) = self.take();
        let mut group = Group {
            queue: &self.0,
            waiters,
            results: Vec::new(),
        };
        group.results = all(lock, inserts);
        drop(group);
        // The leader's own insert is the first one of its group.
        match mem::replace(&mut *waiter.turn.lock(), Turn::Wait) {
            Turn::Done(result) => result,
            _ => Err(Error::new(ErrorKind::Panic, "an insert was not performed")),
        }
    }

    fn take(&self) -> (Vec<Insert>, Vec<Arc<Waiter>>) {
        let mut queue = self.0.lock();
        let (mut inserts, mut waiters, mut jobs) = (Vec::new(), Vec::new(), 0);
        while let Some((next, _)) = queue.waiting.front() {
            jobs += next.jobs.len();
            if jobs > MOST_JOBS && !inserts.is_empty() {
                break;
            }
            if let Some((insert, waiter)) = queue.waiting.pop_front() {
                inserts.push(insert);
                waiters.push(waiter);
            }
        }
        (inserts, waiters)
    }
}
