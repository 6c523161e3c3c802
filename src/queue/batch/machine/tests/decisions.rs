//! What is next for a batch.

use crate::base::{Error, ErrorKind};
use crate::config::choices::OnUnknown::{Hold, Resubmit};
use crate::llm::batch::{BatchRefusal, BatchState, ListedBatches};
use crate::queue::batch::settings::LISTINGS;

use super::super::apply::apply;
use super::super::event::{Effect, Event, Facts, ItemEnds, ItemsSettled, Refusals, Step, next};
use super::super::state::{Fence, Forming, Input, Remote, State, Unknown};
use super::examples::{
    self, error, facts, presumed, record, refusal, remote, sending, status, uploaded,
};

fn unknown(input: Input, listings: u32, fence: Fence, held: bool) -> State {
    State::Unknown(Unknown {
        input,
        listings,
        fence,
        held,
        not_ours: Vec::new(),
    })
}

#[test]
fn nothing_is_sent_again_before_the_file_is_gone_and_the_list_was_read_once_more() {
    let facts = facts(true, Some(Resubmit), false);
    let mut record = record(sending(uploaded(), true));
    let mut steps = Vec::new();
    for _ in 0..20 {
        let step = next(&record.state, &facts);
        steps.push(step.clone());
        let event = match step {
            Step::ReadList(_) => Event::Listed(Ok(ListedBatches::None)),
            Step::DeleteFile(_) => Event::FileDeleted(Ok(())),
            _ => break,
        };
        apply(&mut record, event, &facts);
    }
    let reads = vec![Step::ReadList(uploaded()); LISTINGS as usize];
    assert_eq!(steps[..reads.len()], reads);
    let delete = Step::DeleteFile("file-1".to_owned());
    let then = [delete, Step::ReadList(uploaded()), Step::GiveUp];
    assert_eq!(steps[reads.len()..], then);
}

#[test]
fn what_cannot_be_fenced_is_held_unless_told_otherwise() {
    for listings in 0..100 {
        let state = unknown(Input::Local, listings, Fence::default(), false);
        let step = next(&state, &facts(false, Some(Hold), false));
        assert_eq!(step, Step::ReadList(Input::Local));
    }
    let state = unknown(Input::Local, LISTINGS, Fence::default(), false);
    let step = next(&state, &facts(false, Some(Resubmit), false));
    assert_eq!(step, Step::GiveUp);
}

#[test]
fn a_cancelled_process_takes_its_batches_along() {
    let next = |state: State| next(&state, &facts(true, Some(Resubmit), true));
    for (state, step) in [
        (State::Forming(Forming::default()), Step::GiveUp),
        (sending(Input::Local, false), Step::GiveUp),
        (sending(uploaded(), false), Step::GiveUp),
        (State::Running(remote()), Step::Cancel("batch_1".to_owned())),
    ] {
        assert_eq!(next(state), step);
    }
    // What may exist is found first, and cancelled then.
    let sent = sending(uploaded(), true);
    assert_eq!(next(sent), Step::ReadList(uploaded()));
    let asked = Remote {
        cancel_asked: true,
        ..remote()
    };
    assert_eq!(
        next(State::Running(asked)),
        Step::AskStatus("batch_1".to_owned())
    );
    assert_eq!(
        next(State::Running(presumed())),
        Step::AskStatus("batch_1".to_owned())
    );
}

#[test]
fn who_hurries_a_list_that_is_to_confirm_the_fence_does_not_shorten_its_time() {
    let facts = facts(true, Some(Resubmit), false);
    let confirms_at = facts.now.after(facts.settings.reconcile_wait);
    let mut record = record(unknown(uploaded(), LISTINGS, Fence::default(), true));
    apply(&mut record, Event::FileDeleted(Ok(())), &facts);
    assert_eq!(record.due, confirms_at);
    // A second cancellation, another setting, another worker.
    for event in [Event::Recheck, Event::TakenOver, Event::Recheck] {
        apply(&mut record, event, &facts);
        assert_eq!(record.due, confirms_at);
    }
    // As earlier versions wrote it down.
    let fence = Fence::Closed { confirmed: false };
    record.state = unknown(uploaded(), LISTINGS, fence, true);
    apply(&mut record, Event::TakenOver, &facts);
    assert_eq!(record.due, confirms_at);
}

#[test]
fn a_client_that_says_cancelled_although_nothing_was_is_asked_again_after_a_wait() {
    for input in [Input::Local, uploaded()] {
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
}

fn refused_for(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, why).with_status(400)
}

#[test]
fn requests_fail_only_when_all_are_refused_in_the_same_way() {
    let unnamed = BatchState::Refused(BatchRefusal::Unnamed(refusal(400)));
    let refused = Event::Status(Ok(status(unnamed)));
    let facts = facts(true, None, false);
    let mut several = record(State::Running(remote()));
    several.intent.items = 201;
    let effects = apply(&mut several, refused.clone(), &facts).list;
    assert!(
        matches!(
            effects[..],
            [.., Effect::GiveBack, Effect::Close, Effect::Divide]
        ),
        "{effects:?}"
    );
    for items in [99, 1] {
        let mut few = record(State::Running(remote()));
        few.intent.items = items;
        let effects = apply(&mut few, refused.clone(), &facts).list;
        assert!(
            matches!(effects[..], [.., Effect::SettleItems(ItemEnds::Called(_))]),
            "{effects:?}"
        );
    }
    // Whatever is sent is refused: the requests are not the cause.
    let facts = Facts {
        refusals: (0..15).fold(Refusals::default(), |all, _| all.and(&refusal(400))),
        ..facts
    };
    let effects = apply(&mut record(State::Running(remote())), refused, &facts).list;
    assert!(
        matches!(effects[..], [.., Effect::SettleItems(ItemEnds::All(_))]),
        "{effects:?}"
    );
    // Another reason begins anew.
    let other = BatchState::Refused(BatchRefusal::Unnamed(refused_for("something else")));
    let other = Event::Status(Ok(status(other)));
    let effects = apply(&mut several.clone(), other, &facts).list;
    assert!(
        matches!(
            effects[..],
            [.., Effect::GiveBack, Effect::Close, Effect::Divide]
        ),
        "{effects:?}"
    );
}
