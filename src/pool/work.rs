//! The interface of a pool to the dispatcher: items from a feeder, items that wait for a retry, and ends on the way
//! to the caller.

use std::time::Duration;

use crossbeam_channel::Sender;

use crate::base::{Error, Time};
use crate::engine::availability::Availability;
use crate::engine::feeder::{Fed, Next};
use crate::engine::quota::Class;
use crate::engine::route::Tries;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, Settled, Take, Ticket, Work};
use crate::observe::drive::Counted;
use crate::observe::tally::{Measure, Tally};

/// Maximum number of items that wait for a retry; above it, reading pauses.
const MOST_WAITING: usize = 1024;

/// The end of a task.
#[derive(Debug)]
pub struct TaskEnd<T, D> {
    /// Its position in the source, from 0.
    pub index: u64,
    /// The task itself.
    pub task: T,
    /// Number of its calls; 0 if it was never started.
    pub attempts: u32,
    /// The result of the call. For an item that the end of the run left over, it is `ErrorKind::DeadlineExceeded` if the
    /// deadline ended the run, else `ErrorKind::Cancelled`.
    pub result: Result<D, Error>,
}

/// An item with its position in the source.
pub(super) struct Task<T> {
    pub index: u64,
    pub item: T,
}

pub(super) struct PoolWork<T, D> {
    pub source: Fed<T>,
    pub class: Class,
    pub tally: Tally,
    pub ends: Sender<TaskEnd<T, D>>,
    pub waiting: Waiting<(Task<T>, Tries)>,
    pub read: u64,
    pub ended: bool,
    /// The reason why the source returns no more items.
    pub broken: Option<Error>,
}

impl<T, D> PoolWork<T, D> {
    /// The waiting items in the order of the source, each with the number of its calls.
    pub(super) fn rest(&mut self) -> Vec<(Task<T>, u32)> {
        let waiting = self.waiting.drain();
        let mut rest: Vec<_> = waiting
            .map(|(task, tries)| (task, u32::from(tries.calls)))
            .collect();
        rest.sort_by_key(|(task, _)| task.index);
        rest
    }

    fn next(&mut self) -> Option<Task<T>> {
        match self.source.next() {
            Next::Item(Ok(item)) => {
                let index = self.read;
                self.read += 1;
                return Some(Task { index, item });
            }
            Next::Item(Err(error)) => self.broken = Some(error),
            Next::NotYet => {}
            Next::Ended => self.ended = true,
        }
        None
    }

    fn ticket(&self, task: Task<T>, tries: Tries) -> Ticket<Task<T>> {
        Ticket {
            cost: Cost::default(),
            order: task.index,
            class: self.class.clone(),
            task,
            tries,
        }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= MOST_WAITING
    }
}

impl<T: Send, D: Send> Work for PoolWork<T, D> {
    type Task = Task<T>;
    type Done = (D, Duration);

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Task<T>>, Error> {
        let mut items = Vec::new();
        let paused = availability.is_paused(&self.class, 0, now);
        while items.len() < max && !paused {
            if let Some((task, tries)) = self.waiting.pop(availability, now) {
                items.push(self.ticket(task, tries));
            } else if self.ended || self.is_full() {
                break;
            } else if let Some(task) = self.next() {
                items.push(self.ticket(task, Tries::default()));
            } else {
                break;
            }
        }
        if !items.is_empty() {
            return Ok(Take::Items(items));
        }
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.waiting.is_empty() && self.ended {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(availability, now),
            source_open: !self.ended && !self.is_full(),
        })
    }

    fn settle(
        &mut self,
        done: &mut Vec<Settled<Task<T>, Self::Done>>,
        _now: Time,
    ) -> Result<(), Error> {
        for end in done.drain(..) {
            let (ticket, result) = match end {
                Settled::Later(ticket, due, _) => {
                    let (quota, order) = (ticket.quota(), ticket.order);
                    self.waiting
                        .push(quota, due, order, (ticket.task, ticket.tries));
                    continue;
                }
                Settled::Final(ticket, result) => {
                    match &result {
                        Ok((_, took)) => {
                            let mut measure = Measure::default();
                            (measure.items, measure.took) = (1, *took);
                            self.tally.answered(0, &measure);
                        }
                        Err(error) => self.tally.failed(error, 1),
                    }
                    (ticket, result.map(|(done, _)| done))
                }
                Settled::Unsent(ticket, error) => {
                    self.tally.unsent(&error, 1);
                    (ticket, Err(error))
                }
            };
            // Every task holds a permit, and the channel has room for all of them.
            let _ = self.ends.try_send(TaskEnd {
                index: ticket.task.index,
                attempts: ticket.tries.calls.into(),
                task: ticket.task.item,
                result,
            });
        }
        Ok(())
    }

    fn defers_release(&self) -> bool {
        true
    }
}

impl<T: Send, D: Send> Counted for PoolWork<T, D> {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}
