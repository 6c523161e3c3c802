//! How far a batch has come, with what is known at each point and nowhere else.
//!
//! The label of an arrow lists the [events](super::event::Event) that may cause the transition. A test compares the
//! diagram with the code.
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Forming
//!     Forming --> Sending: Written
//!     Sending --> Forming: Submitted
//!     Sending --> Unknown: Listed, Submitted
//!     Sending --> Running: Listed, Submitted
//!     Unknown --> Running: Listed
//!     Running --> Collecting: Status
//!     Collecting --> Unknown: Collected
//!     Collecting --> Running: Collected
//!     Forming --> [*]: GivenUp, Written
//!     Sending --> [*]: GivenUp, Settled, Submitted, Written
//!     Unknown --> [*]: GivenUp
//!     Running --> [*]: Settled, Status
//!     Collecting --> [*]: Collected
//! ```
//!
//! A batch returns to `Forming` when its input is lost, locally or at the provider. The jobs of a divided batch form new
//! ones. `Collecting` returns to `Running` while the provider does not return the results, and to `Unknown` when the
//! results show that the batch belongs to another program.

use serde::{Deserialize, Serialize};

use crate::base::{Error, ErrorKind, Optional, Sent, Timestamp};
use crate::llm::batch::{BatchCounts, BatchStage};

/// The progress of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum State {
    /// Jobs are being moved into it, and their lines written to a file.
    Forming(Forming),
    /// Its input is written and is being submitted step by step.
    Sending(Sending),
    /// It is unknown whether it was created: the provider's list is read.
    Unknown(Unknown),
    /// It is at the provider.
    Running(Remote),
    /// It has ended there; its results must be stored.
    Collecting(Collecting),
}

impl State {
    /// The name for log lines and for the diagram.
    pub(crate) fn name(&self) -> &'static str {
        self.into()
    }

    /// The provider's batch, once its id is known.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Running(remote) | Self::Collecting(Collecting { remote, .. }) => Some(remote),
            _ => None,
        }
    }

    /// The location of its input, until its id is known.
    pub(crate) fn input(&self) -> Option<&Input> {
        match self {
            Self::Sending(Sending { input, .. }) | Self::Unknown(Unknown { input, .. }) => {
                Some(input)
            }
            _ => None,
        }
    }
}

/// A batch whose lines must be written, possibly again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Forming {
    /// It has its jobs.
    pub is_filled: bool,
    /// How often its input file was missing at the provider.
    #[serde(default)]
    pub lost_files: u32,
}

/// A batch that is being submitted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sending {
    pub input: Input,
    /// The next step was about to be sent, and its outcome is unknown.
    pub sent: bool,
    /// How often its input file was missing at the provider.
    #[serde(default)]
    pub lost_files: u32,
}

impl Sending {
    /// Whether the next step creates the batch. Otherwise it uploads the input, which starts nothing.
    pub(crate) fn creates(&self, uploads: bool) -> bool {
        !uploads || self.input.file().is_some()
    }
}

/// The location of the input of a batch without an id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub(crate) enum Input {
    /// In a local file; the provider does not have it.
    #[default]
    Local,
    /// At the provider.
    Uploaded {
        file: String,
        /// Time of the upload by the provider's clock, if reported.
        time: Option<Timestamp>,
    },
}

impl Input {
    pub(crate) fn file(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Uploaded { file, .. } => Some(file),
        }
    }

    /// The same for clients of Batch APIs.
    pub(crate) fn stage(&self) -> BatchStage {
        match self.clone() {
            Self::Local => BatchStage::Ready,
            Self::Uploaded { file, time } => BatchStage::Uploaded { file, time },
        }
    }
}

/// A batch that may exist although its id is unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unknown {
    pub input: Input,
    /// How often the provider's list did not show it.
    pub listings: u32,
    pub fence: Fence,
    /// Nothing is done until the user decides, or the list shows the batch.
    pub held: bool,
    /// Batches that were taken for this one by mistake.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ours: Vec<String>,
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

/// A batch that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Collecting {
    pub remote: Remote,
    pub results: Results,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<BatchCounts>,
    /// Its cancellation was requested.
    #[serde(default)]
    pub cancel_asked: bool,
    /// It was taken for ours only by its size and time: the batches that were so taken by mistake before it. It is not
    /// cancelled, because it may belong to another program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presumed: Option<Vec<String>>,
    /// It has ended, and the provider does not return all of its results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncollected: Option<Uncollected>,
    /// How often its results were requested without getting all of them.
    #[serde(default)]
    pub fetches: u32,
}

/// The results of an ended batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Files to download.
    pub files: Vec<String>,
    /// Number of requests that the files must contain.
    pub expected: Option<u64>,
    /// Why requests have no result.
    pub why: Why,
    /// The provider reports that it has answered everything it could.
    pub completed: bool,
}

/// An ended batch whose billed results are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uncollected {
    /// When this was noticed first.
    pub since: Timestamp,
    /// Outcome of the last attempt, as a message.
    pub why: String,
}

/// A stored error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Why {
    pub kind: ErrorKind,
    pub message: String,
    pub status: Option<u16>,
    /// The provider did not work on the requests, so they cost nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unworked: bool,
}

impl Why {
    pub(crate) fn error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone());
        let error = error.with_sent(if self.unworked {
            Sent::No
        } else {
            Sent::Answered
        });
        error.set(self.status, Error::with_status)
    }
}

impl From<&Error> for Why {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.message().to_owned(),
            status: error.status(),
            unworked: false,
        }
    }
}
