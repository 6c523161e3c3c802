//! A batch in each state, and each event in all the ways that make a difference.

use std::time::Duration;

use crate::base::{Error, ErrorKind, Sent, Timestamp};
use crate::config::choices::OnUnknown;
use crate::llm::batch::{
    BatchAccount, BatchRefusal, BatchStage, BatchState, BatchStatus, ListedBatches, RefusalOutcome,
    RequestName,
};
use crate::queue::batch::settings::{BatchSettings, LISTINGS};

use super::super::event::{Collected, Event, Facts, ItemsSettled, Written};
use super::super::state::{Fence, Remote, Sending, State, Uncollected, Unknown};
use super::super::state::{Record, Refusals};

pub(super) const NOW: Timestamp = Timestamp(1_000_000_000);

pub(in crate::queue::batch) fn record(state: State) -> Record {
    let account = BatchAccount {
        provider: "openai".to_owned(),
        base_url: String::new(),
        credential: String::new(),
    };
    let mut record = Record::new(account, "bw-1".to_owned(), None, Timestamp(0));
    record.intent.items = 8;
    record.state = state;
    record
}

pub(in crate::queue::batch) fn facts(
    uploads: bool,
    policy: Option<OnUnknown>,
    is_stopped: bool,
) -> Facts {
    Facts {
        now: NOW,
        is_stopped,
        stopped_at: is_stopped.then_some(NOW),
        uploads,
        settings: BatchSettings::default().on_unknown(policy),
        is_elsewhere: false,
        has_input: true,
        is_ending: false,
        others_there: false,
        is_reached: true,
        refusals: Refusals::default(),
        callable: 99,
    }
}

pub(super) fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: Some(Timestamp(7)),
    }
}

pub(super) fn sending(input: BatchStage, sent: bool) -> State {
    State::Sending(Sending { input, sent })
}

pub(super) fn remote() -> Remote {
    Remote {
        id: "batch_1".to_owned(),
        ..Remote::default()
    }
}

pub(super) fn presumed() -> Remote {
    Remote {
        presumed: true,
        ..remote()
    }
}

fn withheld(remote: Remote) -> Remote {
    let uncollected = Uncollected {
        since: Timestamp(0),
        why: "no such file".to_owned(),
    };
    Remote {
        uncollected: Some(uncollected),
        fetches: 3,
        ..remote
    }
}

/// Each state, in all the ways that make a difference.
pub(in crate::queue::batch) fn states() -> Vec<State> {
    let fences = [
        Fence::default(),
        Fence::Open { refusals: 2 },
        Fence::Closed { confirmed: false },
        Fence::Closed { confirmed: true },
    ];
    let mut states = vec![State::Forming];
    for input in [BatchStage::Ready, uploaded()] {
        states.extend([false, true].map(|sent| sending(input.clone(), sent)));
        for listings in [0, LISTINGS - 1, LISTINGS] {
            let unknown = |held| {
                fences.map(|fence| Unknown {
                    input: input.clone(),
                    listings,
                    fence,
                    held,
                })
            };
            states.extend(
                [false, true]
                    .into_iter()
                    .flat_map(unknown)
                    .map(State::Unknown),
            );
        }
    }
    let asked = Remote {
        cancel_asked: true,
        ..remote()
    };
    for remote in [remote(), asked, presumed()] {
        states.extend([remote.clone(), withheld(remote)].map(State::Running));
    }
    states
}

pub(super) fn error(kind: ErrorKind, status: Option<u16>) -> Error {
    let error = Error::new(kind, "no");
    match status {
        Some(status) => error.with_status(status).with_sent(Sent::Answered),
        None => error.with_sent(Sent::No),
    }
}

pub(super) fn refusal(status: u16) -> Error {
    error(ErrorKind::Invalid, Some(status))
}

/// An error without an answer, after which anything may have happened.
pub(super) fn lost() -> Error {
    Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe)
}

/// Errors of each kind that is treated differently.
pub(super) fn errors() -> Vec<Error> {
    let unreachable = error(ErrorKind::Transient, None).with_unreachable();
    let no_api = refusal(405).with_unreachable();
    vec![
        lost(),
        unreachable,
        no_api,
        refusal(400),
        refusal(404),
        refusal(413),
        error(ErrorKind::RateLimited, Some(429)),
        error(ErrorKind::Transient, Some(503)),
        error(ErrorKind::Auth, Some(401)),
        error(ErrorKind::Quota, Some(402)),
        error(ErrorKind::DeadlineExceeded, None),
        error(ErrorKind::Cancelled, None),
    ]
}

pub(super) fn created(id: &str) -> BatchStage {
    BatchStage::Created {
        id: id.to_owned(),
        file: None,
    }
}

/// Results that are whole, withheld, and another program's.
pub(super) fn collected() -> [Collected; 3] {
    let whole = Collected {
        requests: 8,
        answered: 8,
        ..Collected::default()
    };
    let withheld = Collected {
        withheld: Some("no such file".to_owned()),
        ..Collected::default()
    };
    let foreign = Collected {
        foreign: true,
        ..Collected::default()
    };
    [whole, withheld, foreign]
}

/// The state of a batch that was refused in this way.
pub(in crate::queue::batch) fn refused(outcome: RefusalOutcome) -> BatchState {
    let error = refusal(400);
    BatchState::Refused(BatchRefusal {
        outcome,
        error,
        code: String::new(),
    })
}

pub(super) fn statuses() -> Vec<BatchState> {
    let bad = || refusal(400);
    vec![
        BatchState::Validating,
        BatchState::Running,
        BatchState::Cancelling,
        BatchState::Unknown("resting".to_owned()),
        BatchState::Completed,
        BatchState::Expired,
        BatchState::Cancelled,
        BatchState::Failed(bad()),
        refused(RefusalOutcome::Named(vec![(RequestName::Line(1), bad())])),
        refused(RefusalOutcome::Named(Vec::new())),
        refused(RefusalOutcome::Unnamed),
        refused(RefusalOutcome::Wait { room: true }),
        refused(RefusalOutcome::Stops { of_account: false }),
        refused(RefusalOutcome::NoFile),
        refused(RefusalOutcome::TooLarge),
    ]
}

pub(super) fn status(state: BatchState) -> BatchStatus {
    BatchStatus {
        results: if state.is_final() {
            vec!["file-2".to_owned()]
        } else {
            Vec::new()
        },
        state,
        counts: None,
        expected: None,
        poll_after: None,
    }
}

/// Each event, in all the ways that make a difference.
pub(super) fn events() -> Vec<Event> {
    let second = Duration::from_secs(1);
    let mut events = vec![
        Event::TakenOver,
        Event::Recheck,
        Event::Delayed(second, None),
        Event::Delayed(second, Some("its API key is not set")),
        Event::Sending,
        Event::NotSent(None),
        Event::NotSent(Some(second)),
        Event::GivenUp,
        Event::FileDeleted(Ok(())),
        Event::Cancelled(Ok(())),
        Event::Settled(Ok(ItemsSettled::Jobs(1))),
        Event::Settled(Ok(ItemsSettled::NoSuchRequest(refusal(400)))),
    ];
    events.extend(answers());
    for error in errors() {
        let error = || error.clone();
        events.extend([
            Event::Written(Err(error())),
            Event::Submitted(Err(error().into())),
            Event::Listed(Err(error())),
            Event::FileDeleted(Err(error())),
            Event::Cancelled(Err(error())),
            Event::Status(Err(error())),
            Event::Collected(Err(error())),
            Event::Settled(Err(error())),
        ]);
    }
    events
}

fn answers() -> impl Iterator<Item = Event> {
    let written = [0, 8].map(|items| Event::Written(Ok(Written { items, bytes: 9 })));
    let submitted = [uploaded(), created("batch_1")].map(|stage| Event::Submitted(Ok(stage)));
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let listed = [
        ListedBatches::None,
        ListedBatches::One("batch_1".to_owned()),
        ListedBatches::Many(ids(&["batch_1", "batch_2"])),
        ListedBatches::Undecidable("several".to_owned()),
    ];
    let listed = listed.map(|found| Event::Listed(Ok(found)));
    let collected = collected().map(|found| Event::Collected(Ok(found)));
    let statuses = statuses().into_iter().map(status);
    let statuses = statuses.map(|status| Event::Status(Ok(status)));
    let answers = written.into_iter().chain(submitted).chain(listed);
    answers.chain(collected).chain(statuses)
}
