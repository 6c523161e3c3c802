//! What the search of all orders does not look at.

use std::cell::Cell;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchRefusal, BatchStage, BatchState, RefusalOutcome};

use super::super::apply::apply;
use super::super::event::{Effect, Event, Facts, ItemEnds};
use super::super::state::{Refusals, Remote, Sending, State, Unknown};
use super::examples::{self, error, facts, record, refusal, remote, sending, status, uploaded};

#[test]
fn a_client_that_says_cancelled_although_nothing_was_is_asked_again_after_a_wait() {
    for input in [BatchStage::Ready, uploaded()] {
        let mut record = record(sending(input, true));
        let facts = facts(true, None, false);
        let answer = Event::Submitted(Err(error(ErrorKind::Cancelled, None).into()));
        apply(&mut record, answer.clone(), &facts);
        assert!(record.due > facts.now);
        // A worker that ends leaves the step to whoever comes next.
        let is_ending = Facts {
            is_ending: true,
            ..facts
        };
        let mut record = examples::record(sending(uploaded(), true));
        let effects = apply(&mut record, answer, &is_ending);
        assert!(matches!(effects.list[..], [Effect::Save]) && !effects.reschedules);
        assert_eq!(record.state, sending(uploaded(), false));
    }
}

#[test]
fn a_batch_that_is_refused_and_halved_leaves_no_input_at_the_provider() {
    let there = Remote {
        file: Some("file-1".to_owned()),
        ..remote()
    };
    let unnamed = examples::refused(RefusalOutcome::Unnamed);
    let too_large = examples::refused(RefusalOutcome::TooLarge);
    for state in [unnamed, too_large] {
        let event = Event::Status(Ok(status(state)));
        let mut record = record(State::Running(there.clone()));
        record.intent.items = 200;
        let effects = apply(&mut record, event, &facts(true, None, false)).list;
        let place = |which: fn(&Effect) -> bool| effects.iter().position(which);
        let deleted =
            place(|effect| matches!(effect, Effect::DeleteFile(file) if file == "file-1"));
        let saved = place(|effect| matches!(effect, Effect::Save));
        assert!(deleted.is_some() && deleted < saved, "{effects:?}");
        assert_eq!((record.state, record.most), (State::Forming, Some(100)));
        assert_eq!(record.not_ours, ["batch_1"]);
    }
}

#[test]
fn a_batch_that_is_held_or_stopped_is_sent_again_later_with_its_file() {
    let there = Remote {
        file: Some("file-1".to_owned()),
        ..remote()
    };
    let facts = facts(true, None, false);
    for (outcome, minutes) in [
        (
            RefusalOutcome::Wait { room: false },
            [1, 2, 4, 8, 16, 30, 30],
        ),
        (
            RefusalOutcome::Stops { of_account: true },
            [60, 120, 240, 480, 960, 1440, 1440],
        ),
    ] {
        let mut record = record(State::Sending(Sending::default()));
        for minutes in minutes {
            record.state = State::Running(there.clone());
            let refused = Event::Status(Ok(status(examples::refused(outcome.clone()))));
            apply(&mut record, refused, &facts);
            assert_eq!(record.file(), Some("file-1"));
            let wait = record.due.since(facts.now);
            assert_eq!(wait.as_secs(), 60 * minutes, "{outcome:?}");
        }
        // A batch that is accepted ends that.
        record.state = State::Running(there.clone());
        apply(
            &mut record,
            Event::Status(Ok(status(BatchState::Running))),
            &facts,
        );
        assert_eq!((record.halt, record.waits), (None, 0));
    }
}

/// A request that fits no queue is called, and one that is not allowed to be called fails.
#[test]
fn what_the_queue_of_an_account_never_takes_is_halved_and_then_called() {
    for (items, callable) in [(9, 99), (1, 99), (1, 0)] {
        let facts = Facts {
            callable,
            ..facts(true, None, false)
        };
        let mut record = record(sending(uploaded(), false));
        record.intent.items = items;
        let mut effects = Vec::new();
        for _ in 0..4 {
            record.state = State::Running(remote());
            let full = examples::refused(RefusalOutcome::Wait { room: true });
            effects = apply(&mut record, Event::Status(Ok(status(full))), &facts).list;
        }
        let settles = effects.iter().find_map(|effect| match effect {
            Effect::SettleItems(ends) => Some(matches!(ends, ItemEnds::Called(_))),
            _ => None,
        });
        assert_eq!(record.state == State::Forming, items > 1);
        assert_eq!(settles, (items == 1).then_some(callable > 0));
        assert_eq!(record.most, (items > 1).then_some(5));
    }
}

/// The disk is full, or the address of the results cannot be reached.
#[test]
fn results_that_cannot_be_stored_are_fetched_ever_more_rarely() {
    let facts = facts(true, None, false);
    let mut record = record(State::Running(remote()));
    let mut fails = || {
        for event in [
            Event::Status(Ok(status(BatchState::Completed))),
            Event::Collected(Err(error(ErrorKind::Transient, None))),
        ] {
            apply(&mut record, event, &facts);
        }
        record.due
    };
    let (first, second, third) = (fails(), fails(), fails());
    assert!(
        first < second && second < third,
        "{first:?} {second:?} {third:?}"
    );
}

#[test]
fn refusals_are_alike_if_their_codes_are_whatever_their_words_and_sixteen_stop_the_batch() {
    let mut facts = facts(true, None, false);
    let mut refused = |why: &str, code: &str| {
        let mut record = record(sending(uploaded(), true));
        let refusal = BatchRefusal {
            code: code.to_owned(),
            ..refusal(400).reworded(why.to_owned()).into()
        };
        apply(&mut record, Event::Submitted(Err(refusal)), &facts);
        facts.refusals = record.refusals;
        (facts.refusals.count, record.halt.is_some())
    };
    assert_eq!(refused("one", "invalid a"), (1, false));
    assert_eq!(refused("other", "invalid a"), (2, false));
    assert_eq!(refused("one", "invalid b"), (1, false));
    for n in 2..20 {
        assert_eq!(refused("one", "invalid b"), (n, n >= 16));
    }
}

/// They are no refusals, however alike their words are.
#[test]
fn creations_with_an_unknown_outcome_are_counted_apart_from_refusals() {
    let known = Cell::new(Refusals::default());
    let answered = |answer: Result<BatchStage, Error>| {
        let mut record = record(sending(uploaded(), true));
        let facts = Facts {
            refusals: known.take(),
            ..facts(true, None, false)
        };
        let answer = answer.map_err(BatchRefusal::from);
        let effects = apply(&mut record, Event::Submitted(answer), &facts).list;
        let refusals = record.refusals;
        let count = refusals.count;
        known.set(refusals);
        let held = |effect: &Effect| matches!(effect, Effect::ReportHeld(_));
        (count, effects.iter().any(held))
    };
    assert_eq!(answered(Err(refusal(400))), (1, false));
    for n in 1..20 {
        let unknown = error(ErrorKind::Transient, Some(502));
        assert_eq!(answered(Err(unknown)), (1, n >= 4));
    }
    assert_eq!(answered(Err(refusal(400))), (2, false));
    for _ in 0..3 {
        answered(Err(examples::lost()));
    }
    // The status of another batch shows that one was accepted.
    let refusals = known.take();
    let forgotten = refusals.forgotten();
    assert_eq!((forgotten.count, forgotten.unknown), (0, 3));
    known.set(refusals);
    answered(Ok(examples::created("b")));
    assert_eq!(answered(Err(examples::lost())), (2, false));
}

#[test]
fn each_worker_has_four_attempts_and_a_batch_on_hold_ends_none() {
    for held in [false, true] {
        let unknown = Unknown {
            held,
            ..Unknown::default()
        };
        let mut record = record(State::Unknown(unknown));
        record.failures = 9;
        let facts = facts(true, None, false);
        apply(&mut record, Event::TakenOver, &facts);
        if let State::Unknown(unknown) = &mut record.state {
            unknown.held = held;
        }
        for n in 1..6 {
            let answer = Event::Listed(Err(error(ErrorKind::Transient, Some(503))));
            let effects = apply(&mut record, answer, &facts).list;
            let mut effects = effects.iter();
            let ends = effects.any(|effect| matches!(effect, Effect::ReportHeld(_)));
            assert_eq!(ends, n >= 4 && !held);
        }
    }
}
