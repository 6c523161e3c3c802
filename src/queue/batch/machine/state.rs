//! How far a batch has come, with what is known at each point and nowhere else.
//!
//! An arrow bears the [events](super::event::Event) that may lead along it. It is drawn for people, and
//! compared with the code by a test.
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Forming
//!     [*] --> Formed
//!     Forming --> Submitting: InputWritten
//!     Formed --> Submitting: InputWritten
//!     Submitting --> Formed: InputRemoved, Submitted
//!     Submitting --> Running: Listed, Submitted
//!     Submitting --> Reconciling: Listed, Submitted
//!     Reconciling --> Running: Listed
//!     Reconciling --> Held: Listed
//!     Held --> Running: Listed
//!     Held --> Reconciling: FileDeleted, Listed, TakenOver
//!     Running --> Ended: StatusAnswered
//!     Ended --> Running: Collected
//!     Ended --> Reconciling: Collected
//!     Running --> Bisecting: ItemsSettled, StatusAnswered
//!     Bisecting --> Formed: HalfAccepted
//!     Forming --> [*]: AccountChanged, GivenUp, InputWritten
//!     Formed --> [*]: AccountChanged, GivenUp, InputWritten
//!     Submitting --> [*]: AccountChanged, GivenUp, ItemsSettled, NotDivided
//!     Reconciling --> [*]: GivenUp
//!     Held --> [*]: GivenUp
//!     Running --> [*]: ItemsSettled, NotDivided, StatusAnswered
//!     Ended --> [*]: Collected
//!     Bisecting --> [*]: GivenUp, HalfGone, NotDivided
//! ```
//!
//! `Formed` is where halves of a batch begin. A batch comes back to it when its input is lost, here or at
//! the provider. `Ended` goes back to `Running` while the results are not given out, and to `Reconciling`
//! when they show that it was somebody else's.

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchCounts, BatchStage};

/// How far a batch has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum State {
    /// Jobs are moved into it.
    Forming,
    /// It has its jobs; their lines are to be written to a file.
    Formed(Formed),
    /// Its input is written, and given to the provider step by step.
    Submitting(Submitting),
    /// Nobody knows whether it was created: the provider's list is read.
    Reconciling(Reconciling),
    /// As before, and nothing is done about it before somebody decides, or the list shows it.
    Held(Reconciling),
    /// It is at the provider.
    Running(Running),
    /// It has ended there; its results are to be stored.
    Ended(Ended),
    /// One of its lines makes the provider refuse it, or one of the other half's.
    Bisecting(Bisecting),
}

impl State {
    /// For log lines, and for the diagram.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Forming => "Forming",
            Self::Formed(_) => "Formed",
            Self::Submitting(_) => "Submitting",
            Self::Reconciling(_) => "Reconciling",
            Self::Held(_) => "Held",
            Self::Running(_) => "Running",
            Self::Ended(_) => "Ended",
            Self::Bisecting(_) => "Bisecting",
        }
    }

    /// The provider's batch, once its id is known.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Running(Running { remote, .. }) | Self::Ended(Ended { remote, .. }) => {
                Some(remote)
            }
            _ => None,
        }
    }

    /// Where its input is, until its id is known.
    pub(crate) fn input(&self) -> Option<&Input> {
        match self {
            Self::Submitting(Submitting { input, .. })
            | Self::Reconciling(Reconciling { input, .. })
            | Self::Held(Reconciling { input, .. }) => Some(input),
            _ => None,
        }
    }
}

/// A batch whose lines are to be written, again perhaps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Formed {
    /// Times its input file was found to be gone at the provider.
    #[serde(default)]
    pub lost_files: u32,
}

/// A batch that is given to its provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Submitting {
    pub input: Input,
    /// The next step was about to be sent: what came of it is not known.
    pub sent: bool,
    /// Times its input file was found to be gone at the provider.
    #[serde(default)]
    pub lost_files: u32,
}

impl Submitting {
    /// Whether the next step creates the batch; else it uploads the input, which alone starts nothing.
    pub(crate) fn creates(&self, uploads: bool) -> bool {
        !uploads || self.input.file().is_some()
    }
}

/// Where the input of a batch is that has no id yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub(crate) enum Input {
    /// Here; the provider knows nothing of it.
    #[default]
    Local,
    /// At the provider.
    Uploaded {
        file: String,
        /// Since when, by the provider's clock, if it told.
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

    /// As clients of Batch APIs call it.
    pub(crate) fn stage(&self) -> BatchStage {
        match self.clone() {
            Self::Local => BatchStage::Ready,
            Self::Uploaded { file, time } => BatchStage::Uploaded { file, time },
        }
    }
}

/// A batch that may exist without our knowing its id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reconciling {
    pub input: Input,
    /// Times the provider's list was read in vain.
    pub listings: u32,
    pub fence: Fence,
    /// Batches that were taken for this one, and are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ours: Vec<String>,
}

/// Whether a creation that is still on its way can take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum Fence {
    /// It can. The deletion of its input file was refused this often.
    Open { refusals: u32 },
    /// Its input file is deleted. `confirmed` when the list was read once more since then.
    Closed { confirmed: bool },
}

impl Default for Fence {
    fn default() -> Self {
        Self::Open { refusals: 0 }
    }
}

/// A batch that is worked on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub remote: Remote,
    /// Batches that were created for the same intent, and have to be cancelled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spare: Vec<String>,
}

/// A batch that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub remote: Remote,
    pub results: Results,
}

/// A batch at its provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remote {
    pub id: String,
    /// Its input file there.
    pub file: Option<String>,
    /// When its creation was answered, or it was found.
    pub created: Timestamp,
    /// The provider's word for where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<BatchCounts>,
    pub owner: Owner,
    /// It has ended and does not give its results out, or not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncollected: Option<Uncollected>,
    /// Times its results were asked for in vain, or not all of them came.
    #[serde(default)]
    pub fetches: u32,
}

impl Remote {
    pub(crate) fn is_presumed(&self) -> bool {
        matches!(self.owner, Owner::Presumed { .. })
    }
}

/// Whose a batch is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum Owner {
    Ours {
        /// Its end has been asked for.
        cancel_asked: bool,
    },
    /// Ours by its size and time alone. It is not cancelled: it may be another program's.
    Presumed {
        /// Batches that were presumed to be this one before, and are not.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        not_ours: Vec<String>,
    },
}

/// What a batch that has ended has to give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What to download.
    pub files: Vec<String>,
    /// How many requests these must hold.
    pub expected: Option<u64>,
    /// Why requests have no result, if any have none.
    pub why: Why,
    /// The provider says that it has answered all that it could.
    pub completed: bool,
}

/// That a batch which has ended does not give out results that were paid for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uncollected {
    /// When that was found first.
    pub since: Timestamp,
    /// What came of the last try, for people.
    pub why: String,
}

/// A batch that was refused for a line that nobody has named, less the half that was sent again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bisecting {
    /// The label of the batch that has the other half. When it is accepted the line is in this one.
    pub half: String,
    pub why: Why,
}

/// An error that outlives its process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Why {
    #[serde(with = "kind_name")]
    pub kind: ErrorKind,
    pub message: String,
    pub status: Option<u16>,
}

mod kind_name {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::base::error::ErrorKind;

    pub(super) fn serialize<S: Serializer>(kind: &ErrorKind, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(kind.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(text: D) -> Result<ErrorKind, D::Error> {
        let name = String::deserialize(text)?;
        // One of a newer version is not known here.
        Ok(ErrorKind::parse(&name).unwrap_or(ErrorKind::Transient))
    }
}

impl Why {
    pub(crate) fn error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone());
        let error = error.with_sent(crate::base::error::Sent::Answered);
        match self.status {
            Some(status) => error.with_status(status),
            None => error,
        }
    }
}

impl From<&Error> for Why {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.message().to_owned(),
            status: error.status(),
        }
    }
}
