//! What the search of all orders does not look at.

use std::cell::Cell;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchRefusal, BatchStage, BatchState};

use super::super::apply::apply;
use super::super::event::{Effect, Event, Facts, ItemEnds, ItemsSettled, Refusals};
use super::super::state::{Remote, State, Unknown};
use super::examples::{self, error, facts, record, refusal, remote, sending, status, uploaded};

#[test]
fn a_client_that_says_cancelled_although_nothing_was_is_asked_again_after_a_wait() {
    for input in [BatchStage::Ready, uploaded()] {
        let mut record = record(sending(input, true));
        let facts = facts(true, None, false);
        let answer = Event::Submitted(Err(error(ErrorKind::Cancelled, None)));
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
    let no_such_line = Event::Settled(Ok(ItemsSettled::NoSuchRequest(refusal(400))));
    let unnamed = BatchState::Refused(BatchRefusal::Unnamed(refusal(400)));
    for event in [no_such_line, Event::Status(Ok(status(unnamed)))] {
        let mut record = record(State::Running(there.clone()));
        record.intent.items = 200;
        let effects = apply(&mut record, event, &facts(true, None, false)).list;
        let place = |which: fn(&Effect) -> bool| effects.iter().position(which);
        let deleted =
            place(|effect| matches!(effect, Effect::DeleteFile(file) if file == "file-1"));
        let divided = place(|effect| matches!(effect, Effect::Divide));
        assert!(deleted.is_some() && deleted < divided, "{effects:?}");
    }
    // Until items of a batch that is not divided are settled, it is shown as refused.
    let whole = BatchRefusal::Whole(refusal(400));
    let refused = Event::Status(Ok(status(BatchState::Refused(whole))));
    let mut kept = record(State::Running(there));
    apply(&mut kept, refused, &facts(true, None, false));
    let shown = kept.state.remote().and_then(|remote| remote.status.clone());
    assert_eq!(shown.as_deref(), Some("refused"));
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
fn refusals_are_alike_if_their_words_are_whatever_their_numbers() {
    let refused = |why: &str| Error::new(ErrorKind::Invalid, why);
    let one = Refusals::default().and(&refused("line 4 is bad"));
    let two = one.and(&refused("line 5 is bad"));
    assert_eq!((one.count, two.count), (1, 2));
    // Another reason begins anew.
    let other = refused("something else");
    assert_eq!(two.and(&other).count, 1);
}

/// They are no refusals, however alike their words are.
#[test]
fn creations_with_an_unknown_outcome_are_counted_apart_from_refusals() {
    let known = Cell::new(Refusals::default());
    let answered = |answer| {
        let mut refusals = known.get();
        let mut record = record(sending(uploaded(), true));
        let facts = Facts {
            refusals,
            ..facts(true, None, false)
        };
        let effects = apply(&mut record, Event::Submitted(answer), &facts).list;
        for effect in &effects {
            match effect {
                Effect::CountRefusals(now) => refusals = *now,
                Effect::SettleItems(ItemEnds::All(_)) => panic!("all fail"),
                _ => {}
            }
        }
        known.set(refusals);
        let held = |effect: &Effect| matches!(effect, Effect::ReportHeld(_));
        (refusals.count, effects.iter().any(held))
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
    let mut refusals = known.get();
    refusals.forget();
    assert_eq!((refusals.count, refusals.unknown), (0, 3));
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
