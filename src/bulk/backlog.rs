//! The backlog of a file: an index in memory, the prompts themselves on disk.

use std::sync::OnceLock;

use crate::base::{Error, Time};
use crate::engine::availability::Availability;
use crate::engine::limiter::QuotaId;
use crate::engine::quota::Class;
use crate::engine::route::Tries;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, Take, Ticket};

use crate::llm::carried::Carried;
use crate::llm::pack::{Pack, PackLimits, next_calls};

use super::input::{FileIndex, Named};
use super::options::FileRunOptions;
use super::work::Backlog;

/// An item that waits: its position, and what its failed calls left.
type Stored = (u32, Carried);

/// The quotas of the items of a kind, and whether they share calls.
pub(super) type KindPlan = (Class, bool);

/// The position in the items of one class.
struct Cursor {
    class: Class,
    /// The first item that may not have been taken yet.
    next: usize,
}

/// The items of a file that are to be sent.
pub(crate) struct FileBacklog<'r> {
    index: &'r FileIndex,
    /// The kinds of items, by the number in the index: the cursor of its class, and whether its items share calls.
    kinds: Vec<(usize, bool)>,
    /// One per class, so the items of a closed quota are skipped without a check of each.
    cursors: Vec<Cursor>,
    options: FileRunOptions,
    /// Number of items that can still be taken for the first time.
    allowance: usize,
    output_cap: Option<u32>,
    /// How much goes into one call at the moment.
    limits: Box<dyn Fn() -> PackLimits + Send + 'r>,
    waiting: Waiting<(Pack<Stored>, Tries)>,
}

impl<'r> FileBacklog<'r> {
    pub(crate) fn new(
        index: &'r FileIndex,
        kinds: impl IntoIterator<Item = KindPlan>,
        options: FileRunOptions,
        output_cap: Option<u32>,
        limits: impl Fn() -> PackLimits + Send + 'r,
    ) -> Self {
        let (mut plans, mut cursors) = (Vec::new(), Vec::<Cursor>::new());
        // There may be as many kinds as sets of fields, but only as many classes as models.
        for (class, packs) in kinds {
            let known = cursors.iter().rposition(|cursor| cursor.class == class);
            let cursor = known.unwrap_or_else(|| {
                cursors.push(Cursor { class, next: 0 });
                cursors.len() - 1
            });
            plans.push((cursor, packs));
        }
        Self {
            kinds: plans,
            cursors,
            allowance: options.max_items.unwrap_or(usize::MAX),
            index,
            options,
            output_cap,
            limits: Box::new(limits),
            waiting: Waiting::default(),
        }
    }

    /// The first item of an open class that was never taken, with the next ones of its class that share its call.
    fn fresh(&mut self, availability: &Availability, now: Time) -> Option<Pack<Stored>> {
        if self.allowance == 0 {
            return None;
        }
        let mut best: Option<(usize, usize)> = None;
        for cursor in 0..self.cursors.len() {
            if availability.is_paused(&self.cursors[cursor].class, 0, now) {
                continue;
            }
            let at = self.advance(cursor);
            if at < self.index.len() && best.is_none_or(|(first, _)| at < first) {
                best = Some((at, cursor));
            }
        }
        let (first, cursor) = best?;
        let kind = self.index[first].class();
        let limits = if self.kinds[usize::from(kind)].1 {
            (self.limits)()
        } else {
            PackLimits::ONE
        };
        let (mut pack, mut tokens, mut at) = (Vec::new(), 0, first);
        loop {
            tokens = self.tokens(at).saturating_add(tokens);
            pack.push((at as u32, Carried::default()));
            self.cursors[cursor].next = at + 1;
            self.allowance -= 1;
            if self.allowance == 0 || !limits.fits(pack.len(), tokens, 0) {
                break;
            }
            at = self.advance(cursor);
            let is_there = at < self.index.len() && self.index[at].class() == kind;
            if !is_there || !limits.fits(pack.len(), tokens, self.tokens(at)) {
                break;
            }
        }
        Some(pack)
    }

    fn tokens(&self, at: usize) -> u32 {
        let bytes = self.index.end(at) - self.index[at].offset();
        u32::try_from(bytes / 4).unwrap_or(u32::MAX)
    }

    fn advance(&mut self, cursor: usize) -> usize {
        let mut at = self.cursors[cursor].next;
        while at < self.index.len() && !self.wanted(at, cursor) {
            at += 1;
        }
        self.cursors[cursor].next = at;
        at
    }

    fn wanted(&self, at: usize, cursor: usize) -> bool {
        let item = &self.index[at];
        self.kinds[usize::from(item.class())].0 == cursor && self.options.sends(item)
    }

    fn ticket(&self, pack: Pack<Stored>, tries: Tries) -> Ticket<Pack<FileTask>> {
        let first = pack[0].0;
        let cost = |(item, _): &Stored| Cost {
            input: self.tokens(*item as usize),
            output_cap: self.output_cap,
        };
        let cost = pack.iter().map(cost).sum();
        let task = |(index, carried)| FileTask {
            index,
            named: OnceLock::new(),
            carried,
        };
        Ticket {
            task: pack.into_iter().map(task).collect(),
            cost,
            order: first.into(),
            class: self.class(first).clone(),
            tries,
        }
    }

    fn class(&self, item: u32) -> &Class {
        let kind = usize::from(self.index[item as usize].class());
        &self.cursors[self.kinds[kind].0].class
    }

    /// True if no item is left that was never taken.
    fn exhausted(&mut self) -> bool {
        self.allowance == 0
            || (0..self.cursors.len()).all(|cursor| self.advance(cursor) >= self.index.len())
    }
}

impl Backlog for FileBacklog<'_> {
    type Task = FileTask;

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Pack<FileTask>>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            let waited = self.waiting.pop(availability, now);
            let fresh = || Some((self.fresh(availability, now)?, Tries::default()));
            let Some((pack, tries)) = waited.or_else(fresh) else {
                break;
            };
            out.push(self.ticket(pack, tries));
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if self.waiting.is_empty() && self.exhausted() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(availability, now),
            source_open: false,
        })
    }

    fn wait(&mut self, ticket: Ticket<Pack<FileTask>>, due: Time) {
        let (quota, tries) = (ticket.quota(), ticket.tries);
        let items = ticket.task.into_iter();
        let items = items.map(|task| (task.index, task.carried)).collect();
        for pack in next_calls(items, (self.limits)(), &tries) {
            let order = pack[0].0.into();
            let item = (pack, tries.clone());
            self.waiting.push(quota, due, order, item);
        }
    }

    fn has_more(&mut self) -> bool {
        !self.exhausted() || !self.waiting.is_empty()
    }

    fn waits_for(&mut self, quota: QuotaId, availability: &Availability) -> bool {
        let has_untaken = |backlog: &mut Self, cursor: usize| {
            let class = &backlog.cursors[cursor].class;
            let step = availability.callable_step(class, 0);
            step.is_some_and(|step| class.quota(step) == quota)
                && backlog.advance(cursor) < backlog.index.len()
        };
        let may_take = self.allowance > 0;
        self.waiting.waits_for(quota)
            || may_take && (0..self.cursors.len()).any(|cursor| has_untaken(self, cursor))
    }
}

/// A task of a file: its position, and its id once a worker has read it.
pub(crate) struct FileTask {
    pub index: u32,
    pub named: OnceLock<Named>,
    pub carried: Carried,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;
    use crate::bulk::copies::equals_tests::{checked, checked_file};
    use crate::bulk::prompts::{MOST_PACKED, PromptSettings, Prompts};
    use crate::llm::params::RequestTask;

    const NOW: Time = Time::from_nanos(1_000);

    fn indexed(file: Prompts) -> &'static FileIndex {
        Box::leak(Box::new(file.items.finish()))
    }

    /// A backlog of ten items, each with a route of two providers.
    fn backlog() -> FileBacklog<'static> {
        with_limits(&["p"; 10], FileRunOptions::default(), PackLimits::ONE)
    }

    fn with_limits(
        prompts: &[&str],
        options: FileRunOptions,
        limits: PackLimits,
    ) -> FileBacklog<'static> {
        let index = indexed(checked(prompts));
        let kinds = [(Class::new([QuotaId(1), QuotaId(2)]), true)];
        FileBacklog::new(index, kinds, options, None, move || limits)
    }

    fn taken(backlog: &mut FileBacklog<'_>, max: usize) -> Vec<Vec<u32>> {
        let indices = |ticket: Ticket<Pack<FileTask>>| {
            let tasks = ticket.task.iter();
            tasks.map(|task| task.index).collect()
        };
        match backlog.take(max, &Availability::default(), NOW) {
            Ok(Take::Items(items)) => items.into_iter().map(indices).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn texts_share_calls_in_the_order_of_the_input() {
        let limits = |inputs, tokens| PackLimits { inputs, tokens };
        let all = FileRunOptions::default();
        let mut backlog = with_limits(&["p"; 10], all, limits(4, 100));
        assert_eq!(taken(&mut backlog, 2), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(taken(&mut backlog, 2), [[8, 9]]);
        assert!(taken(&mut backlog, 2).is_empty());
        // A quarter of their bytes are their tokens.
        let sizes = [4, 4, 4, 30, 1, 9, 1].map(|size| "p".repeat(4 * size));
        let sizes = sizes.each_ref().map(String::as_str);
        let mut backlog = with_limits(&sizes, all, limits(8, 10));
        let packs = [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6]];
        assert_eq!(taken(&mut backlog, 9), packs);
        let some = FileRunOptions {
            max_items: Some(3),
            ..all
        };
        let mut backlog = with_limits(&["p"; 10], some, limits(2, 100));
        assert_eq!(taken(&mut backlog, 9), [vec![0, 1], vec![2]]);
        assert!(taken(&mut backlog, 9).is_empty());
    }

    fn exclude_the_first(availability: &mut Availability) {
        let class = Class::new([QuotaId(1), QuotaId(2)]);
        let refused = Error::new(ErrorKind::Auth, "refused");
        availability.exclude_step(&class, 0, &refused, Time::FAR);
    }

    #[test]
    fn items_fail_over_at_once_and_the_file_is_not_read_while_none_can_be_called() {
        let (mut backlog, mut availability) = (backlog(), Availability::default());
        exclude_the_first(&mut availability);
        availability.pauses.set(QuotaId(2), Time::FAR);
        for _ in 0..3 {
            let taken = backlog.take(4, &availability, NOW);
            assert!(matches!(taken, Ok(Take::Idle { until: None, .. })));
        }
        assert_eq!((backlog.cursors[0].next, backlog.waiting.len()), (0, 0));
        let mut availability = Availability::default();
        availability.pauses.set(QuotaId(1), Time::FAR);
        let taken = backlog.take(4, &availability, NOW);
        assert!(matches!(taken, Ok(Take::Idle { .. })));
        exclude_the_first(&mut availability);
        let Ok(Take::Items(items)) = backlog.take(4, &availability, NOW) else {
            panic!("no item could run");
        };
        assert_eq!(items.len(), 4);
    }

    #[test]
    fn texts_with_other_fields_are_taken_in_one_pass_and_share_no_call() {
        let texts = PromptSettings::new().task(RequestTask::Embed);
        let rows = MOST_PACKED + 3;
        let text: String = (0..rows)
            .map(|i| format!("{{\"prompt\": \"p\", \"extra\": {{\"user\": \"{i}\"}}}}\n"))
            .collect();
        let file = checked_file("in.jsonl", &text, &texts);
        let packs: Vec<bool> = file.kinds.iter().map(|kind| kind.packs).collect();
        assert_eq!(packs.len(), MOST_PACKED + 1, "the last three share one");
        assert!(!packs[MOST_PACKED] && packs[..MOST_PACKED].iter().all(|packs| *packs));
        let class = Class::new([QuotaId(1)]);
        let mut backlog = FileBacklog::new(
            indexed(file),
            packs.into_iter().map(|packs| (class.clone(), packs)),
            FileRunOptions::default(),
            None,
            || PackLimits {
                inputs: 8,
                tokens: 1000,
            },
        );
        assert_eq!(backlog.cursors.len(), 1);
        assert_eq!(taken(&mut backlog, rows + 1).len(), rows);
    }
}
