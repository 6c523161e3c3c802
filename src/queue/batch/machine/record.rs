//! The stored record of a batch, written before and after each step.

use serde::{Deserialize, Serialize};

use crate::base::Timestamp;
use crate::llm::batch::{BatchAccount, BatchIntent};
use crate::llm::providers::vendor::Vendor;
use crate::queue::store::StoredBatch;

use super::state::{Forming, Input, Sending, State, Uncollected};

/// A batch as stored in its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub account: BatchAccount,
    pub intent: BatchIntent,
    pub state: State,
    /// Why it makes no progress, as a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Consecutive failures of the present step.
    #[serde(default)]
    pub failures: u32,
    /// When its next step is due.
    #[serde(default)]
    pub due: Timestamp,
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
            state: State::Forming(Forming::default()),
            problem: None,
            failures: 0,
            due: now,
        }
    }

    /// The record in a batch's row, if it can be read.
    pub(crate) fn read(batch: &StoredBatch) -> Option<Self> {
        serde_json::from_str(&batch.record)
            .inspect_err(|error| {
                log::warn!("the record of batch {} cannot be read: {error}", batch.no.0);
            })
            .ok()
    }

    pub(crate) fn text(&self) -> String {
        // Serializing strings, numbers and lists cannot fail.
        serde_json::to_string(self).unwrap_or_default()
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
        match (self.state.remote(), self.state.input()) {
            (Some(remote), _) => remote.file.as_deref(),
            (None, Some(input)) => input.file(),
            (None, None) => None,
        }
    }

    /// Whether nothing of it was sent, or all of it was rejected: it belongs to no account then.
    pub(crate) fn is_unsent(&self) -> bool {
        match &self.state {
            State::Forming(_) => true,
            State::Sending(Sending { input, sent, .. }) => *input == Input::Local && !sent,
            _ => false,
        }
    }

    /// Whether its provider was asked to cancel it.
    pub(crate) fn is_cancel_asked(&self) -> bool {
        let remote = self.state.remote();
        remote.is_some_and(|remote| remote.cancel_asked)
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

    /// How often its results were requested without getting all of them.
    pub(crate) fn fetches(&self) -> u32 {
        self.state.remote().map_or(0, |remote| remote.fetches)
    }

    /// Batches that were adopted as this one by mistake.
    pub(crate) fn not_ours(&self) -> &[String] {
        match &self.state {
            State::Unknown(unknown) => &unknown.not_ours,
            _ => &[],
        }
    }

    /// Whether its results must show that it is ours.
    pub(crate) fn is_presumed(&self) -> bool {
        let remote = self.state.remote();
        remote.is_some_and(|remote| remote.presumed.is_some())
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
            State::Forming(_) => "preparing",
            State::Sending(sending) => match &sending.input {
                Input::Local => "submitting",
                Input::Uploaded { .. } => "creating",
            },
            State::Unknown(unknown) if unknown.held => "held",
            State::Unknown(_) => "looking_for",
            _ if self.uncollected().is_some() => "uncollected",
            State::Running(remote) if remote.presumed.is_some() => PRESUMED,
            State::Running(remote) => remote.status.as_deref().unwrap_or("submitted"),
            State::Collecting(_) => "collecting",
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
    (number_text(number) == digits).then_some(number)
}

fn number_text(number: u32) -> String {
    number.to_string()
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
