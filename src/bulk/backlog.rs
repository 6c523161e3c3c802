//! The backlog of a file: an index in memory, the prompts themselves on disk.

use std::sync::{Arc, OnceLock};

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::engine::availability::Availability;
use crate::engine::class::Class;
use crate::engine::pack::PackLimits;
use crate::engine::route::Tries;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, Take, Ticket};

use super::input::{FileIndex, State};
use super::lines::FileTask;
use super::options::FileRunOptions;
use crate::engine::pack::Backlog;

/// What is still to be sent of a file.
pub(crate) struct FileBacklog {
    index: Arc<FileIndex>,
    classes: Vec<Class>,
    /// For each class, the first item that may not have been taken yet: a closed quota's items
    /// are stepped over without being touched.
    next: Vec<usize>,
    options: FileRunOptions,
    /// Items that may still be taken for the first time.
    allowance: usize,
    output_cap: Option<u32>,
    limits: PackLimits,
    waiting: Waiting<(u32, Tries)>,
}

impl FileBacklog {
    pub(crate) fn new(
        index: Arc<FileIndex>,
        classes: Vec<Class>,
        options: FileRunOptions,
        output_cap: Option<u32>,
        limits: PackLimits,
    ) -> Self {
        Self {
            next: vec![0; classes.len()],
            allowance: options.max_items.unwrap_or(usize::MAX),
            index,
            classes,
            options,
            output_cap,
            limits,
            waiting: Waiting::default(),
        }
    }

    /// The first item of an open class that was never taken.
    fn fresh(&mut self, availability: &Availability, now: Time) -> Option<usize> {
        if self.allowance == 0 {
            return None;
        }
        let mut best: Option<(usize, usize)> = None;
        for class in 0..self.classes.len() {
            if availability.is_paused(&self.classes[class], 0, now) {
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
            && !self.index.is_bad(at)
            && self.options.want(self.index.state(at))
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

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<FileTask>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((index, tries)) = self.waiting.pop(&availability.pauses, now) {
                out.push(self.ticket(index as usize, tries));
            } else if let Some(index) = self.fresh(availability, now) {
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
            until: self.waiting.next_due(&availability.pauses, now),
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

    fn limits(&self, _: &FileTask) -> PackLimits {
        self.limits
    }

    fn alike(&self, a: &FileTask, b: &FileTask) -> bool {
        let class = |task: &FileTask| self.index.class(task.index as usize);
        class(a) == class(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cancel::Context;
    use crate::base::error::ErrorKind;
    use crate::bulk::prompts::{PromptSettings, PromptSource, Prompts};
    use crate::engine::limiter::QuotaId;

    const NOW: Time = Time::from_nanos(1_000);

    /// A backlog of ten items, each with two providers to ask.
    fn backlog() -> FileBacklog {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.txt");
        std::fs::write(&path, "p\n".repeat(10)).unwrap();
        let settings = PromptSettings::new();
        let prompts = Prompts::open(&path, &settings, &Context::new(), &|_, _| {}).unwrap();
        let PromptSource::File(file) = prompts.source else {
            unreachable!("a file was opened");
        };
        let classes = vec![Class::new([QuotaId(1), QuotaId(2)])];
        FileBacklog::new(
            Arc::new(file.items.finish()),
            classes,
            FileRunOptions::default(),
            None,
            PackLimits::ONE,
        )
    }

    fn exclude_the_first(availability: &mut Availability) {
        let class = Class::new([QuotaId(1), QuotaId(2)]);
        let refused = Error::new(ErrorKind::Auth, "refused");
        availability.exclude_step(&class, 0, &refused, Time::FAR);
    }

    #[test]
    fn behind_a_dead_provider_a_paused_one_leaves_the_file_untouched() {
        let (mut backlog, mut availability) = (backlog(), Availability::default());
        exclude_the_first(&mut availability);
        availability.pauses.set(QuotaId(2), Time::FAR);
        for _ in 0..3 {
            let taken = backlog.take(4, &availability, NOW);
            assert!(matches!(taken, Ok(Take::Idle { until: None, .. })));
        }
        assert_eq!((backlog.next[0], backlog.waiting.len()), (0, 0));
    }

    #[test]
    fn when_a_paused_provider_dies_items_go_to_the_next_one_at_once() {
        let (mut backlog, mut availability) = (backlog(), Availability::default());
        availability.pauses.set(QuotaId(1), Time::FAR);
        let taken = backlog.take(4, &availability, NOW);
        assert!(matches!(taken, Ok(Take::Idle { .. })));
        exclude_the_first(&mut availability);
        let Ok(Take::Items(items)) = backlog.take(4, &availability, NOW) else {
            panic!("nothing could run");
        };
        assert_eq!(items.len(), 4);
    }
}
