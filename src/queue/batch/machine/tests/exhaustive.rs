//! Every order of steps, answers, deaths and decisions, up to what makes no difference, against a provider
//! of which is known what has happened there. It is the machine alone that is tried: whoever carries it
//! out writes down and does what it is told.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::base::{Error, ErrorKind};
use crate::config::choices::OnUnknown;
use crate::llm::batch::{BatchRefusal, BatchState, ListedBatches, RefusalOutcome};

use super::super::event::{
    Collected, Effect, Effects, Event, ItemEnds, ItemsSettled, Step, Written, next,
};
use super::super::state::State;
use super::examples::{self, error, lost, refusal, status, statuses, uploaded};
use super::situation::Node;

/// Tries everything.
#[derive(Default)]
struct Search {
    seen: HashSet<String>,
    queue: VecDeque<(Node, u32)>,
    /// Of the node that is expanded; the deepest comes last.
    depth: u32,
    ends: u64,
}

impl Search {
    fn reach(&mut self, node: Node) {
        if self.seen.insert(node.key()) {
            self.queue.push_back((node, self.depth + 1));
        }
    }

    fn run(&mut self) {
        while let Some((node, depth)) = self.queue.pop_front() {
            self.depth = depth;
            self.is_not_stuck(&node);
            self.expand(&node);
        }
    }

    fn expand(&mut self, node: &Node) {
        // Somebody decides otherwise, or cancels, or kills it.
        for policy in [OnUnknown::Hold, OnUnknown::Resubmit] {
            let other = Node {
                policy,
                ..node.clone()
            };
            self.feed(other, Event::Recheck);
        }
        if !node.is_stopped || node.stopped_early && node.record.uncollected().is_some() {
            let cancelled = Node {
                is_stopped: true,
                stopped_early: node.record.uncollected().is_none(),
                ..node.clone()
            };
            self.feed(cancelled, Event::Recheck);
        }
        self.reach(node.clone().dies());
        // Or its next step is taken.
        let mut due = node.clone();
        due.pass();
        for due in due.with_late_creation() {
            // Or cannot be: for the store, the client, or the key.
            self.feed(due.clone(), Event::Delayed(Duration::from_secs(1), None));
            if due.record.is_unsent() {
                let mut elsewhere = due.clone();
                elsewhere.is_elsewhere = true;
                self.feed(elsewhere, Event::GivenUp);
            }
            let step = next(&due.record.state, &due.facts());
            self.step(due, step);
        }
    }

    /// Takes a step, in all the ways that it may go.
    fn step(&mut self, node: Node, step: Step) {
        match step {
            Step::WriteInput => {
                for items in [200, 0] {
                    let written = Written { items, bytes: 9 };
                    self.feed(node.clone(), Event::Written(Ok(written)));
                }
                self.feed(node, Event::Written(Err(busy())));
            }
            Step::Submit => self.submit(node),
            Step::ReadList(_) => self.read_list(node),
            Step::DeleteFile(_) => {
                for (error, is_gone) in [(refusal(403), false), (lost(), false), (lost(), true)] {
                    let mut node = node.clone();
                    node.provider.file &= !is_gone;
                    self.feed(node, Event::FileDeleted(Err(error)));
                }
                let mut node = node;
                node.provider.file = false;
                self.feed(node, Event::FileDeleted(Ok(())));
            }
            Step::GiveUp => self.feed(node, Event::GivenUp),
            Step::Cancel(_) => {
                let unreachable = error(ErrorKind::Transient, None).with_unreachable();
                for answer in [Ok(()), Err(busy()), Err(unreachable)] {
                    let mut asked = node.clone();
                    let effects = asked.apply(Event::Cancelled(answer));
                    if count(&effects, |effect| matches!(effect, Effect::Save)) > 0 {
                        self.reach(asked.clone().dies());
                        asked.saved = asked.record.clone();
                    }
                    self.ask_status(asked);
                }
            }
            Step::AskStatus(_) => self.ask_status(node),
        }
    }

    /// An upload or a creation: written down first, and not sent when that fails.
    fn submit(&mut self, node: Node) {
        let State::Sending(sending) = &node.record.state else {
            panic!("nothing is sent: {node:?}");
        };
        let creates = sending.creates(node.uploads);
        assert!(!creates || !node.may_exist(), "created twice: {node:?}");
        let sends_input = node.record.file().is_none();
        if sends_input {
            let written = Written {
                items: 200,
                bytes: 9,
            };
            self.feed(node.clone(), Event::Written(Ok(written)));
        }
        let mut sent = node.clone();
        let effects = sent.apply(Event::Sending);
        assert!(!effects.refused, "{node:?}");
        assert!(matches!(effects.list[..], [Effect::Save]));
        for is_written in [false, true] {
            let mut unsaved = sent.clone();
            if is_written {
                unsaved.saved = unsaved.record.clone();
            }
            self.feed(unsaved, Event::NotSent(None));
        }
        sent.saved = sent.record.clone();
        if creates {
            self.create(&sent)
        } else {
            let mut there = sent.clone();
            there.provider.file = true;
            // One whose id nobody knows is another one than that of a later try.
            self.reach(sent.clone().dies());
            self.feed(there, Event::Submitted(Ok(uploaded())));
            for error in refusals().into_iter().chain([lost()]) {
                self.feed(sent.clone(), Event::Submitted(Err(error.into())));
            }
        }
    }

    fn create(&mut self, sent: &Node) {
        let mut created = sent.clone();
        created.provider.exists = true;
        let mut coming = sent.clone();
        coming.provider.coming = true;
        for node in [sent, &created, &coming] {
            // Nobody hears what came of it.
            self.reach(node.clone().dies());
            let panicked = Event::Delayed(Duration::from_secs(10), Some("it panicked"));
            self.feed(node.clone(), panicked);
            for status in [None, Some(503), Some(409)] {
                let error =
                    status.map_or_else(lost, |status| error(ErrorKind::Transient, Some(status)));
                self.feed(node.clone(), Event::Submitted(Err(error.into())));
            }
        }
        self.feed(created, Event::Submitted(Ok(examples::created("ours"))));
        for error in refusals() {
            self.feed(sent.clone(), Event::Submitted(Err(error.into())));
        }
        let mut gone = sent.clone();
        gone.provider.file = false;
        self.feed(gone, Event::Submitted(Err(refusal(404).into())));
    }

    /// A list shows what exists, or not yet. Where nothing but size and time tells batches apart it may
    /// show another program's.
    fn read_list(&mut self, node: Node) {
        let mut shown: Vec<Result<ListedBatches, Error>> = vec![Err(busy())];
        let named = |id: &str| id.to_owned();
        if node.provider.exists {
            shown.push(Ok(ListedBatches::One(named("ours"))));
            shown.push(Ok(ListedBatches::Many(vec![named("ours"), named("spare")])));
        }
        if !node.provider.is_listed {
            shown.push(Ok(ListedBatches::None));
        }
        if !node.uploads {
            shown.push(Ok(ListedBatches::Undecidable(named("several"))));
            let known = node.record.not_ours.contains(&named("theirs"));
            if !known {
                shown.push(Ok(ListedBatches::One(named("theirs"))));
            }
        }
        for found in shown {
            self.feed(node.clone(), Event::Listed(found));
        }
    }

    fn ask_status(&mut self, node: Node) {
        for error in [busy(), refusal(404), error(ErrorKind::Auth, Some(401))] {
            self.feed(node.clone(), Event::Status(Err(error)));
        }
        let is_tried = |state: &BatchState| match state {
            BatchState::Refused(BatchRefusal {
                outcome: RefusalOutcome::Named(names),
                ..
            }) => !names.is_empty(),
            BatchState::Cancelling | BatchState::Cancelled => false,
            BatchState::Unknown(_) | BatchState::Failed(_) => false,
            _ => true,
        };
        let is_paid = node.provider.paid;
        for state in statuses().into_iter().filter(is_tried) {
            let mut node = node.clone();
            if let BatchState::Refused(_) = state {
                // What was paid for was not refused; nor is another program's batch refused for a line.
                if is_paid || node.record.is_presumed() {
                    continue;
                }
                node.provider.exists = false;
            }
            let is_ours = node.record.id() == Some("ours");
            node.provider.paid |= state.is_final() && is_ours && node.provider.exists;
            self.feed(node, Event::Status(Ok(status(state))));
        }
    }

    fn collect(&mut self, node: Node) {
        let [whole, withheld, foreign] = examples::collected();
        self.feed(node.clone(), Event::Collected(Err(busy())));
        self.feed(node.clone(), Event::Collected(Ok(withheld)));
        if node.record.id() == Some("theirs") {
            self.feed(node, Event::Collected(Ok(foreign)))
        } else {
            let mut node = node;
            node.provider.paid = false;
            self.feed(node, Event::Collected(Ok(whole)));
        }
    }

    /// Applies an event, and does what follows, in all the ways that it may go.
    fn feed(&mut self, mut node: Node, event: Event) {
        let before = node.clone();
        let what = event.name();
        let is_given_up = matches!(event, Event::GivenUp);
        let effects = node.apply(event);
        assert!(!effects.refused, "{what} was refused: {before:?}");
        let is_counted = count(&effects, |effect| {
            matches!(effect, Effect::CountPossiblyPaidTwice(_))
        });
        for effect in effects.list {
            match effect {
                Effect::Save => {
                    // It may die before that.
                    self.reach(node.clone().dies());
                    node.saved = node.record.clone();
                }
                Effect::Close => {
                    self.may_end(&node, what, is_given_up, is_counted > 0);
                    // That may fail, and is tried again.
                    break;
                }
                Effect::SettleItems(ends) => {
                    assert!(!node.may_exist(), "{what}: {before:?}");
                    node.provider.paid = false;
                    let settled = Ok(ItemsSettled::Jobs(1));
                    self.feed(node.clone(), Event::Settled(settled));
                    self.feed(node.clone(), Event::Settled(Err(busy())));
                    if let ItemEnds::Named(_) = ends {
                        let none = Ok(ItemsSettled::NoSuchRequest(refusal(400)));
                        self.feed(node, Event::Settled(none));
                    }
                    return;
                }
                Effect::Collect(_) => return self.collect(node),
                _ => {}
            }
        }
        self.reach(node);
    }

    /// Whether the jobs that are left in a batch may go back, to be sent again.
    fn may_end(&mut self, node: &Node, what: &str, is_given_up: bool, is_counted: bool) {
        self.ends += 1;
        let is_presumed = node.record.is_presumed();
        let risk = node.may_exist() || is_presumed && node.provider.exists;
        let person = node.is_stopped || node.policy == OnUnknown::Resubmit;
        if risk && !is_presumed {
            assert!(is_given_up && !node.uploads && person, "{what}: {node:?}");
            assert!(is_counted || node.is_stopped, "{what}: {node:?}");
        }
        if node.provider.paid {
            assert!(node.is_stopped, "{what} drops what was paid for: {node:?}");
        }
    }

    /// Whether something goes on from here: with answers as they mostly are, it comes to its end.
    fn is_not_stuck(&self, node: &Node) {
        let mut node = node.clone();
        // What is held waits for this decision, and for nothing else.
        node.policy = OnUnknown::Resubmit;
        node.apply(Event::Recheck);
        for _ in 0..60 {
            node.pass();
            let step = next(&node.record.state, &node.facts());
            let is_held = node.record.is_held();
            assert!(!is_held || step != Step::Submit);
            let events = usual(&node, &step);
            for event in events {
                let mut effects = node.apply(event);
                if count(&effects, |effect| matches!(effect, Effect::Collect(_))) > 0 {
                    effects = node.apply(Event::Collected(Ok(Collected::default())));
                }
                let ends =
                    |effect: &Effect| matches!(effect, Effect::Close | Effect::SettleItems(_));
                if count(&effects, ends) > 0 {
                    return;
                }
            }
        }
        panic!("it does not end: {node:?}");
    }
}

fn count(effects: &Effects, which: impl Fn(&Effect) -> bool) -> usize {
    effects.list.iter().filter(|effect| which(effect)).count()
}

fn usual(node: &Node, step: &Step) -> Vec<Event> {
    let written = Written { items: 1, bytes: 1 };
    vec![match step {
        Step::WriteInput => Event::Written(Ok(written)),
        Step::Submit => {
            let is_local = node.uploads && node.record.file().is_none();
            let stage = if is_local {
                uploaded()
            } else {
                examples::created("ours")
            };
            return vec![Event::Sending, Event::Submitted(Ok(stage))];
        }
        Step::ReadList(_) => Event::Listed(Ok(if node.provider.exists {
            ListedBatches::One("ours".to_owned())
        } else {
            ListedBatches::None
        })),
        Step::DeleteFile(_) => Event::FileDeleted(Ok(())),
        Step::GiveUp => Event::GivenUp,
        Step::Cancel(_) => Event::Cancelled(Ok(())),
        Step::AskStatus(_) => Event::Status(Ok(status(BatchState::Completed))),
    }]
}

fn busy() -> Error {
    error(ErrorKind::RateLimited, Some(429))
}

/// Answers after which nothing was created.
fn refusals() -> Vec<Error> {
    vec![
        busy(),
        refusal(400),
        refusal(413),
        error(ErrorKind::Auth, Some(401)),
        error(ErrorKind::Transient, None).with_unreachable(),
        error(ErrorKind::DeadlineExceeded, None),
    ]
}

#[test]
fn no_order_of_events_buys_twice_drops_what_was_paid_for_or_ends_nowhere() {
    let search = |uploads| {
        let mut search = Search::default();
        search.reach(Node::new(uploads));
        search.run();
        // All that can happen has: what is left out makes no difference.
        let (seen, depth, ends) = (search.seen.len(), search.depth, search.ends);
        println!("{seen} nodes, {depth} steps deep, {ends} ends");
        assert!(seen > 3000 && depth > 12 && ends > 3000);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| search(true));
        search(false);
    });
}
