//! Records as earlier versions wrote them: a phase, and flags beside it. They are read, and written in the
//! present form from then on.

use serde::Deserialize;

use crate::base::clock::Timestamp;
use crate::llm::batch::{BatchAccount, BatchCounts, BatchIntent, BatchStage};

use super::record::Record;
use super::state::{
    Bisecting, Ended, Fence, Formed, Input, Owner, Reconciling, Remote, Results, Running, State,
    Submitting, Uncollected, Why,
};

#[derive(Deserialize)]
pub(super) struct LegacyRecord {
    account: BatchAccount,
    intent: BatchIntent,
    phase: Phase,
    #[serde(default)]
    tried: bool,
    doubt: Option<Doubt>,
    state: Option<String>,
    counts: Option<BatchCounts>,
    created: Option<Timestamp>,
    #[serde(default)]
    cancelled: bool,
    #[serde(default)]
    provisional: bool,
    #[serde(default)]
    not_ours: Vec<String>,
    #[serde(default)]
    spare: Vec<String>,
    problem: Option<String>,
    #[serde(default)]
    failures: u32,
    #[serde(default)]
    uploads: u32,
    #[serde(default)]
    fetches: u32,
    uncollected: Option<Uncollected>,
    #[serde(default)]
    due: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
enum Phase {
    Filling,
    Packed,
    Handing {
        stage: BatchStage,
    },
    Running {
        id: String,
        file: Option<String>,
    },
    Ended {
        id: String,
        file: Option<String>,
        results: Vec<String>,
        expected: Option<u64>,
        why: Why,
        #[serde(default)]
        completed: bool,
    },
    Suspect {
        half: String,
        why: Why,
    },
}

/// It may have been created without our knowing its id.
#[derive(Deserialize)]
struct Doubt {
    looks: u32,
    fenced: bool,
    #[serde(default)]
    confirmed: bool,
    #[serde(default)]
    refusals: u32,
    held: bool,
}

impl From<LegacyRecord> for Record {
    fn from(old: LegacyRecord) -> Self {
        let created = old.created.unwrap_or(old.intent.begun);
        let remote = |id, file| Remote {
            id,
            file,
            created,
            status: old.state,
            counts: old.counts,
            owner: if old.provisional {
                Owner::Presumed {
                    not_ours: old.not_ours.clone(),
                }
            } else {
                Owner::Ours {
                    cancel_asked: old.cancelled,
                }
            },
            uncollected: old.uncollected,
            fetches: old.fetches,
        };
        let state = match old.phase {
            Phase::Filling => State::Forming,
            Phase::Packed => State::Formed(Formed {
                lost_files: old.uploads,
            }),
            Phase::Handing {
                stage: BatchStage::Created { id, file },
            } => State::Running(Running {
                remote: remote(id, file),
                spare: old.spare,
            }),
            Phase::Handing { stage } => {
                let input = match stage {
                    BatchStage::Uploaded { file, time } => Input::Uploaded { file, time },
                    _ => Input::Local,
                };
                match old.doubt {
                    None => State::Submitting(Submitting {
                        input,
                        sent: old.tried,
                        lost_files: old.uploads,
                    }),
                    Some(doubt) => reconciling(&doubt, input, old.not_ours),
                }
            }
            Phase::Running { id, file } => State::Running(Running {
                remote: remote(id, file),
                spare: old.spare,
            }),
            Phase::Ended {
                id,
                file,
                results,
                expected,
                why,
                completed,
            } => State::Ended(Ended {
                remote: remote(id, file),
                results: Results {
                    files: results,
                    expected,
                    why,
                    completed,
                },
            }),
            Phase::Suspect { half, why } => State::Bisecting(Bisecting { half, why }),
        };
        Self {
            account: old.account,
            intent: old.intent,
            state,
            problem: old.problem,
            failures: old.failures,
            due: old.due,
        }
    }
}

fn reconciling(doubt: &Doubt, input: Input, not_ours: Vec<String>) -> State {
    let reconciling = Reconciling {
        input,
        listings: doubt.looks,
        fence: if doubt.fenced {
            Fence::Closed {
                confirmed: doubt.confirmed,
            }
        } else {
            Fence::Open {
                refusals: doubt.refusals,
            }
        },
        not_ours,
    };
    if doubt.held {
        State::Held(reconciling)
    } else {
        State::Reconciling(reconciling)
    }
}
