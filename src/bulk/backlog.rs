//! The backlog of a file: an index in memory, the prompts themselves on disk.

use std::sync::{Arc, OnceLock};

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::engine::route::Tries;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Class, Cost, Gates, Take, Ticket};

use super::input::{FileIndex, State};
use super::job::Backlog;
use super::lines::FileTask;

/// What is still to be sent of a file.
pub(crate) struct FileBacklog {
    index: Arc<FileIndex>,
    classes: Vec<Class>,
    /// For each class, the first item that may not have been taken yet: a closed quota's items
    /// are stepped over without being touched.
    next: Vec<usize>,
    keep_failed: bool,
    /// Items that may still be taken for the first time.
    allowance: usize,
    output_cap: Option<u32>,
    waiting: Waiting<(u32, Tries)>,
}

impl FileBacklog {
    pub(crate) fn new(
        index: Arc<FileIndex>,
        classes: Vec<Class>,
        keep_failed: bool,
        most: Option<usize>,
        output_cap: Option<u32>,
    ) -> Self {
        Self {
            next: vec![0; classes.len()],
            allowance: most.unwrap_or(usize::MAX),
            index,
            classes,
            keep_failed,
            output_cap,
            waiting: Waiting::default(),
        }
    }

    /// The first item of an open class that was never taken.
    fn fresh(&mut self, gates: &Gates, now: Time) -> Option<usize> {
        if self.allowance == 0 {
            return None;
        }
        let mut best: Option<(usize, usize)> = None;
        for class in 0..self.classes.len() {
            if gates.holds(&self.classes[class], 0, now) {
                continue;
            }
            let at = self.advance(class);
            if at < self.index.len() && best.is_none_or(|(first, _)| at < first) {
                best = Some((at, class));
            }
        }
        let (at, class) = best?;
        self.next[class] = at + 1;
        self.allowance -= 1;
        Some(at)
    }

    fn advance(&mut self, class: usize) -> usize {
        let mut at = self.next[class];
        while at < self.index.len() && !self.wanted(at, class) {
            at += 1;
        }
        self.next[class] = at;
        at
    }

    fn wanted(&self, at: usize, class: usize) -> bool {
        usize::from(self.index.class(at)) == class
            && match self.index.state(at) {
                State::Done => false,
                State::Failed => !self.keep_failed,
                State::New | State::Changed => true,
            }
    }

    fn ticket(&self, index: usize, tries: Tries) -> Ticket<FileTask> {
        let bytes = self.index.end(index) - self.index.offset(index);
        Ticket {
            task: FileTask {
                index: index as u32,
                supersedes: self.index.state(index) != State::New,
                named: OnceLock::new(),
            },
            cost: Cost {
                input: u32::try_from(bytes / 4).unwrap_or(u32::MAX),
                output_cap: self.output_cap,
            },
            order: index as u64,
            class: self.classes[usize::from(self.index.class(index))].clone(),
            tries,
        }
    }

    /// True when nothing is left that was never taken.
    fn exhausted(&mut self) -> bool {
        self.allowance == 0
            || (0..self.classes.len()).all(|class| self.advance(class) >= self.index.len())
    }
}

impl Backlog for FileBacklog {
    type Task = FileTask;

    fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<FileTask>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((index, tries)) = self.waiting.pop(gates, now) {
                out.push(self.ticket(index as usize, tries));
            } else if let Some(index) = self.fresh(gates, now) {
                out.push(self.ticket(index, Tries::default()));
            } else {
                break;
            }
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if self.waiting.is_empty() && self.exhausted() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(gates, now),
            source_open: false,
        })
    }

    fn wait(&mut self, ticket: Ticket<FileTask>, due: Time) {
        self.waiting.push(
            ticket.quota(),
            due,
            ticket.order,
            (ticket.task.index, ticket.tries),
        );
    }
}
