//! How far a batch has come, with what is known at each point and nowhere else.
//!
//! The label of an arrow lists the [events](super::event::Event) that may cause the transition. A test compares the
//! diagram with the code.
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Forming
//!     Forming --> Sending: Written
//!     Sending --> Forming: Settled, Submitted
//!     Running --> Forming: Settled, Status
//!     Running --> Sending: Status
//!     Sending --> Unknown: Listed, Submitted
//!     Sending --> Running: Listed, Submitted
//!     Unknown --> Running: Listed
//!     Running --> Unknown: Collected
//!     Forming --> [*]: GivenUp, Written
//!     Sending --> [*]: GivenUp, Settled, Written
//!     Unknown --> [*]: GivenUp
//!     Running --> [*]: Collected, Settled, Status
//! ```
//!
//! A batch returns to `Forming` when its input is lost, locally or at the provider, or is written anew because the batch
//! was refused for some of it or for its size, and to `Sending` when it is sent again later. `Running` returns to `Unknown` when the results show that the batch belongs to another program.

use serde::{Deserialize, Serialize};

use crate::base::{Error, ErrorKind, Timestamp, form};
use crate::llm::batch::{BatchAccount, BatchCounts, BatchIntent, BatchStage};
use crate::llm::providers::vendor::Vendor;
use crate::queue::store::StoredBatch;

/// The progress of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum State {
    /// Jobs are being moved into it, and their lines written to a file.
    Forming,
    /// Its input is written and is being submitted step by step.
    Sending(Sending),
    /// It is unknown whether it was created: the provider's list is read.
    Unknown(Unknown),
    /// It is at the provider, until its results are stored.
    Running(Remote),
}

impl State {
    /// The name for log lines and for the diagram.
    pub(crate) fn name(&self) -> &'static str {
        self.into()
    }

    /// The provider's batch, once its id is known.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Running(remote) => Some(remote),
            _ => None,
        }
    }
}

/// A batch that is being submitted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sending {
    /// The location of its input.
    pub input: BatchStage,
    /// The next step was about to be sent, and its outcome is unknown.
    pub sent: bool,
}

impl Sending {
    /// Whether the next step creates the batch. Otherwise it uploads the input, which starts nothing.
    pub(crate) fn creates(&self, uploads: bool) -> bool {
        !uploads || self.input.input_file().is_some()
    }
}

impl BatchStage {
    /// The input file at the provider.
    pub(crate) fn input_file(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::Uploaded { file, .. } => Some(file),
            Self::Created { file, .. } => file.as_deref(),
        }
    }
}

/// A batch that may exist although its id is unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unknown {
    pub input: BatchStage,
    /// How often the provider's list did not show it.
    pub listings: u32,
    pub fence: Fence,
    /// Nothing is done until the user decides, or the list shows the batch.
    pub held: bool,
}

/// Whether a delayed creation can still take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum Fence {
    /// It can. The provider has refused to delete its input file this many times.
    Open { refusals: u32 },
    /// Its input file is deleted. `confirmed` if the list was read again since.
    Closed { confirmed: bool },
}

impl Default for Fence {
    fn default() -> Self {
        Self::Open { refusals: 0 }
    }
}

/// A batch at its provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remote {
    pub id: String,
    /// Its input file there.
    pub file: Option<String>,
    /// When its creation was answered, or it was found.
    pub created: Timestamp,
    /// The state as the provider names it.
    pub status: Option<String>,
    pub counts: Option<BatchCounts>,
    /// Its cancellation was requested.
    pub cancel_asked: bool,
    /// It was taken for ours only by its size and time. It is not cancelled, because it may belong to another program.
    pub presumed: bool,
    /// It has ended, and the provider does not return all of its results.
    pub uncollected: Option<Uncollected>,
    /// How often its results were requested without getting all of them.
    pub fetches: u32,
}

/// An ended batch whose billed results are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uncollected {
    /// When this was noticed first.
    pub since: Timestamp,
    /// Outcome of the last attempt, as a message.
    pub why: String,
}

// The record of a batch: its state, and what every batch has.

/// A batch as stored in its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub account: BatchAccount,
    pub intent: BatchIntent,
    pub state: State,
    /// Why it makes no progress, as a message.
    pub problem: Option<String>,
    /// Consecutive failures of the present step.
    pub failures: u32,
    /// When its next step is due.
    pub due: Timestamp,
    /// How often its input file was missing at the provider.
    pub lost_files: u32,
    /// Batches that were taken for this one by mistake, or were refused before this one.
    pub not_ours: Vec<String>,
    /// The most requests of it, if a larger batch was refused.
    #[serde(default)]
    pub most: Option<u64>,
    /// How often it was held in a row.
    #[serde(default)]
    pub waits: u32,
    /// As known when it was refused last.
    #[serde(default)]
    pub refusals: Refusals,
    /// It is not sent for now, nor any like it.
    #[serde(default)]
    pub halt: Option<Halt>,
}

/// Why no batch is sent for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Halt {
    pub kind: ErrorKind,
    /// It concerns its account; otherwise, its process and model.
    pub of_account: bool,
    pub tries: u32,
}

/// Alike refusals in a row of batches with jobs of one process and model, without an accepted batch in between.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusals {
    /// Their account, model, status, code and parameter, and whether they name requests.
    alike: String,
    pub count: u32,
    /// Creations in a row whose outcome is unknown. They say nothing about requests, and leave the count as it is.
    #[serde(skip)]
    pub unknown: u32,
}

impl Refusals {
    /// With this one of a batch. If it is not alike, the count begins anew.
    pub(super) fn and(&self, batch: &Record, why: &Error, code: &str, is_named: bool) -> Self {
        let key = (
            &batch.account,
            &batch.intent.model,
            why.status(),
            code,
            is_named,
        );
        let alike = serde_json::to_string(&key).unwrap_or_default();
        let count = if self.alike == alike { self.count } else { 0 };
        Self {
            alike,
            count: count.saturating_add(1),
            unknown: 0,
        }
    }

    /// A batch was accepted. Creations whose outcome is unknown may go on.
    pub(super) fn forgotten(&self) -> Self {
        Self {
            unknown: self.unknown,
            ..Self::default()
        }
    }
}

impl Record {
    /// The record of a batch without jobs.
    pub(crate) fn new(
        account: BatchAccount,
        label: String,
        model: Option<String>,
        now: Timestamp,
    ) -> Self {
        Self {
            account,
            intent: BatchIntent {
                label,
                model,
                items: 0,
                bytes: 0,
                begun: now,
            },
            state: State::Forming,
            problem: None,
            failures: 0,
            due: now,
            lost_files: 0,
            not_ours: Vec::new(),
            most: None,
            waits: 0,
            refusals: Refusals::default(),
            halt: None,
        }
    }

    /// The record in a batch's row, if it can be read.
    pub(crate) fn read(batch: &StoredBatch) -> Option<Self> {
        form::read(
            &format!("the record of batch {}", batch.no.0),
            &batch.record,
        )
        .inspect_err(|error| log::warn!("{error}"))
        .ok()
    }

    pub(crate) fn text(&self) -> String {
        form::write(self)
    }

    /// Its id at the provider.
    pub(crate) fn id(&self) -> Option<&str> {
        self.state.remote().map(|remote| &*remote.id)
    }

    /// Its name in log lines: its id at the provider, or its label.
    pub(crate) fn name(&self) -> &str {
        self.id().unwrap_or(&self.intent.label)
    }

    /// The input file at the provider.
    pub(crate) fn file(&self) -> Option<&str> {
        match &self.state {
            State::Forming => None,
            State::Sending(Sending { input, .. }) | State::Unknown(Unknown { input, .. }) => {
                input.input_file()
            }
            State::Running(remote) => remote.file.as_deref(),
        }
    }

    /// Whether nothing of it was sent, or all of it was rejected: it belongs to no account then.
    pub(crate) fn is_unsent(&self) -> bool {
        match &self.state {
            State::Forming => true,
            State::Sending(Sending { input, sent, .. }) => *input == BatchStage::Ready && !sent,
            _ => false,
        }
    }

    /// Whether it may be created at any moment. If only their times distinguish batches, no other one is created
    /// meanwhile.
    pub(crate) fn may_be_created(&self) -> bool {
        match &self.state {
            State::Sending(sending) => sending.sent,
            State::Unknown(unknown) => !unknown.held,
            _ => false,
        }
    }

    /// Whether it waits for the user's decision.
    pub(crate) fn is_held(&self) -> bool {
        matches!(&self.state, State::Unknown(unknown) if unknown.held)
    }

    /// Whether it is not sent for now because it was refused for a reason that others share.
    pub(crate) fn is_halted(&self) -> bool {
        self.halt.is_some() && !self.is_submitted()
    }

    /// Whether it is on its way to the provider.
    pub(crate) fn is_being_sent(&self) -> bool {
        !self.is_submitted() && self.halt.is_none()
    }

    /// Whether the provider has it, or may have it.
    pub(crate) fn is_submitted(&self) -> bool {
        self.id().is_some() || self.is_held()
    }

    /// When it was created at the provider, or else formed.
    pub(crate) fn created(&self) -> Timestamp {
        let created = self.state.remote().map(|remote| remote.created);
        created.unwrap_or(self.intent.begun)
    }

    /// Its missing results.
    pub(crate) fn uncollected(&self) -> Option<&Uncollected> {
        self.state.remote()?.uncollected.as_ref()
    }

    /// Whether its results must show that it is ours.
    pub(crate) fn is_presumed(&self) -> bool {
        self.state.remote().is_some_and(|remote| remote.presumed)
    }

    /// How long its provider keeps the missing results, according to its documentation; `None` without a limit.
    pub(crate) fn kept_until(&self, uncollected: &Uncollected) -> Option<Timestamp> {
        Vendor::retention_of(&self.account.provider).until(self.created(), uncollected.since)
    }

    /// Why it makes no progress.
    pub(crate) fn trouble(&self) -> Option<&str> {
        let uncollected = self.uncollected().map(|what| &*what.why);
        let presumed = (self.word() == PRESUMED).then_some(
            "its creation got no reply, and this batch has its size and time; it is not cancelled until its \
             results show whether it belongs to this queue",
        );
        self.problem.as_deref().or(uncollected).or(presumed)
    }

    /// The state for people and JSON.
    pub(crate) fn word(&self) -> &str {
        match &self.state {
            State::Sending(_) if self.halt.is_some() => "stopped",
            State::Forming => "preparing",
            State::Sending(sending) => match &sending.input {
                BatchStage::Ready => "submitting",
                _ => "creating",
            },
            State::Unknown(unknown) if unknown.held => "held",
            State::Unknown(_) => "looking_for",
            _ if self.uncollected().is_some() => "uncollected",
            State::Running(remote) if remote.presumed => PRESUMED,
            State::Running(remote) => remote.status.as_deref().unwrap_or("submitted"),
        }
    }

    /// Clears the failures after a success, for the next step.
    pub(super) fn clear_failures(&mut self) {
        self.failures = 0;
        self.problem = None;
    }
}

/// The state of a batch that was identified only by its size and time.
const PRESUMED: &str = "presumed";

/// The key of a job within its batch.
pub(crate) fn key(label: &str, number: u32) -> String {
    format!("{label}-{number}")
}

/// The number of the job with this key, if the key belongs to this batch.
pub(crate) fn number(label: &str, key: &str) -> Option<u32> {
    let digits = key.strip_prefix(label)?.strip_prefix('-')?;
    let number = digits.parse().ok()?;
    // `+7` and `007` are not keys of a batch.
    (u32::to_string(&number) == digits).then_some(number)
}

/// A unique label, by which the batch can be found at its provider.
pub(crate) fn new_label() -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("bw-{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_back_to_their_jobs_and_strangers_to_none() {
        let label = new_label();
        assert!(label.len() <= 40 && key(&label, u32::MAX).len() <= 64);
        for n in [0, 7, u32::MAX] {
            assert_eq!(number(&label, &key(&label, n)), Some(n));
        }
        let strange = [
            label.clone(),
            format!("{label}-"),
            format!("{label}-x"),
            format!("{label}-+7"),
            format!("{label}-007"),
            format!("{label}-4294967296"),
            format!("x{label}-7"),
            key(&new_label(), 7),
        ];
        for key in strange {
            assert_eq!(number(&label, &key), None, "{key}");
        }
    }
}
