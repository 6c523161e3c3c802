//! What is written down of a batch, before and after each step.

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchAccount, BatchCounts, BatchIntent, BatchStage};
use crate::llm::providers::vendor::Vendor;
use crate::queue::store::StoredBatch;

/// A batch as its row keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub account: BatchAccount,
    pub intent: BatchIntent,
    pub phase: Phase,
    /// The next step was about to be taken: nobody knows whether it was.
    #[serde(default)]
    pub tried: bool,
    /// It may have been created without our knowing its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// The provider's word for where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<BatchCounts>,
    /// When its creation was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Its end has been asked for.
    #[serde(default)]
    pub cancelled: bool,
    /// It was taken for ours by its size and time alone.
    #[serde(default)]
    pub provisional: bool,
    /// Batches that were taken for this one, and are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ours: Vec<String>,
    /// Batches that were created for the same intent, and have to be cancelled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spare: Vec<String>,
    /// Why nothing moves, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Failures of the present step in a row.
    #[serde(default)]
    pub failures: u32,
    /// Times its input file was found to be gone.
    #[serde(default)]
    pub uploads: u32,
    /// Times its results were asked for in vain, or not all of them came.
    #[serde(default)]
    pub fetches: u32,
    /// It has ended and does not give its results out, or not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncollected: Option<Uncollected>,
    /// When it is looked at next.
    #[serde(default)]
    pub due: Timestamp,
}

/// How far a batch has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum Phase {
    /// Jobs are moved into it.
    Filling,
    /// It has its jobs; their lines are to be written.
    Packed,
    /// It is being handed over.
    Handing { stage: BatchStage },
    /// It is at the provider.
    Running { id: String, file: Option<String> },
    /// It has ended there; its results are to be stored.
    Ended(Ended),
    /// Somewhere in it is a line that the provider refuses, and another batch, of this label, has half
    /// of what it held: when that one is accepted the line is in here.
    Suspect { half: String, why: Why },
}

/// A batch that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub id: String,
    pub file: Option<String>,
    /// What to download.
    pub results: Vec<String>,
    /// How many requests these must hold.
    pub expected: Option<u64>,
    /// Why requests have no result, if any have none.
    pub why: Why,
    /// The provider says that it has answered all that it could.
    #[serde(default)]
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

/// That a batch may exist without our knowing its id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doubt {
    /// Times the provider's list was read in vain.
    pub looks: u32,
    /// Its input file has been deleted: a creation under way comes to nothing.
    pub fenced: bool,
    /// The list was read once more after that.
    #[serde(default)]
    pub confirmed: bool,
    /// Times the deletion was refused.
    #[serde(default)]
    pub refusals: u32,
    /// Nothing can be done by itself.
    pub held: bool,
}

impl Record {
    /// A batch that has nothing in it yet.
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
            phase: Phase::Filling,
            tried: false,
            doubt: None,
            state: None,
            counts: None,
            created: None,
            cancelled: false,
            provisional: false,
            not_ours: Vec::new(),
            spare: Vec::new(),
            problem: None,
            failures: 0,
            uploads: 0,
            fetches: 0,
            uncollected: None,
            due: now,
        }
    }

    /// What the row of a batch says, if this version understands it.
    pub(crate) fn read(batch: &StoredBatch) -> Option<Self> {
        serde_json::from_str(&batch.record)
            .inspect_err(|error| {
                log::warn!("the record of batch {} cannot be read: {error}", batch.no.0);
            })
            .ok()
    }

    pub(crate) fn text(&self) -> String {
        // Strings, numbers and lists: none of it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Its id at the provider.
    pub(crate) fn id(&self) -> Option<&str> {
        match &self.phase {
            Phase::Running { id, .. } | Phase::Ended(Ended { id, .. }) => Some(id),
            _ => None,
        }
    }

    /// The input file at the provider.
    pub(crate) fn file(&self) -> Option<&str> {
        match &self.phase {
            Phase::Running { file, .. } | Phase::Ended(Ended { file, .. }) => file.as_deref(),
            Phase::Handing {
                stage: BatchStage::Uploaded { file, .. },
            } => Some(file),
            _ => None,
        }
    }

    /// True as long as nothing of it was sent, or all that was sent was refused: it belongs to no
    /// account.
    pub(crate) fn is_unsent(&self) -> bool {
        match &self.phase {
            Phase::Filling | Phase::Packed => true,
            Phase::Handing { stage } => *stage == BatchStage::Ready && !self.tried,
            _ => false,
        }
    }

    /// True while it waits for somebody's decision.
    pub(crate) fn is_held(&self) -> bool {
        self.doubt.is_some_and(|doubt| doubt.held)
    }

    /// True once the provider has it, or may have it.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.id().is_some() || self.is_held()
    }

    /// When it came into being.
    pub(crate) fn created(&self) -> Timestamp {
        self.created.unwrap_or(self.intent.begun)
    }

    /// Until when its provider says it keeps the results that it has not given out yet; `None` where it
    /// names no end.
    pub(crate) fn kept_until(&self, uncollected: &Uncollected) -> Option<Timestamp> {
        Vendor::retention_of(&self.account.provider).until(self.created(), uncollected.since)
    }

    /// Why nothing moves.
    pub(crate) fn trouble(&self) -> Option<&str> {
        let uncollected = self.uncollected.as_ref().map(|what| &*what.why);
        let presumed = (self.word() == PRESUMED).then_some(
            "its creation had no reply; its size and time are those of this one, and until its \
             results show whose it is it is not cancelled",
        );
        self.problem.as_deref().or(uncollected).or(presumed)
    }

    /// The word for people and JSON.
    pub(crate) fn word(&self) -> &str {
        match (&self.phase, &self.doubt) {
            (_, Some(doubt)) if doubt.held => "held",
            (_, Some(_)) => "looking_for",
            (Phase::Filling | Phase::Packed, _) => "preparing",
            (Phase::Handing { stage }, _) => match stage {
                BatchStage::Ready => "submitting",
                _ => "creating",
            },
            (Phase::Running { .. } | Phase::Ended(_), _) if self.uncollected.is_some() => {
                "uncollected"
            }
            (Phase::Running { .. }, _) if self.provisional => PRESUMED,
            (Phase::Running { .. }, _) => self.state.as_deref().unwrap_or("submitted"),
            (Phase::Ended(_), _) => "collecting",
            (Phase::Suspect { .. }, _) => "bisecting",
        }
    }

    /// Begins the next step anew, after something has gone well.
    pub(crate) fn went_well(&mut self) {
        self.failures = 0;
        self.problem = None;
    }
}

/// The word for a batch that was taken for ours by its size and time alone.
const PRESUMED: &str = "presumed";

/// The key of a job within its batch.
pub(crate) fn key(label: &str, number: u32) -> String {
    format!("{label}-{number}")
}

/// The number of the job that a key names, if the key is one of this batch.
pub(crate) fn number(label: &str, key: &str) -> Option<u32> {
    let digits = key.strip_prefix(label)?.strip_prefix('-')?;
    let number = digits.parse().ok()?;
    // `+7` and `007` are no keys of ours.
    (number_text(number) == digits).then_some(number)
}

fn number_text(number: u32) -> String {
    number.to_string()
}

/// A label that no other batch has: it is what finds one again.
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

    #[test]
    fn a_record_survives_its_text() {
        let account = BatchAccount {
            provider: "openai".to_owned(),
            base_url: "http://h/v1".to_owned(),
            credential: "ab".to_owned(),
        };
        let mut record = Record::new(account, new_label(), Some("m".to_owned()), Timestamp(5));
        let error = Error::new(ErrorKind::Invalid, "bad").with_status(400);
        for phase in [
            Phase::Filling,
            Phase::Packed,
            Phase::Handing {
                stage: BatchStage::Ready,
            },
            Phase::Handing {
                stage: BatchStage::Uploaded {
                    file: "file-1".to_owned(),
                    time: Some(Timestamp(7)),
                },
            },
            Phase::Running {
                id: "batch_1".to_owned(),
                file: None,
            },
            Phase::Ended(Ended {
                id: "batch_1".to_owned(),
                file: None,
                results: vec!["file-2".to_owned()],
                expected: Some(3),
                why: Why::from(&error),
                completed: true,
            }),
            Phase::Suspect {
                half: "bw-2".to_owned(),
                why: Why::from(&error),
            },
        ] {
            record.phase = phase;
            let read: Record = serde_json::from_str(&record.text()).unwrap();
            assert_eq!(read.phase, record.phase);
            assert_eq!(read.text(), record.text());
        }
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let text = r#"{"account":{"provider":"anthropic","base_url":"http://h","credential":"ab"},
            "intent":{"label":"bw-1","model":"m","items":2,"bytes":3,"begun":5},
            "phase":{"is":"ended","id":"batch_1","file":null,"results":["r"],"expected":2,
            "why":{"kind":"transient","message":"x","status":null}},"tried":false,"fetches":4,"due":9}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!((record.fetches, &record.uncollected), (4, &None));
        assert_eq!(record.word(), "collecting");
        let days = |n: i64| n * 86_400_000;
        let since = |since| Uncollected {
            since: Timestamp(since),
            why: String::new(),
        };
        let kept = |record: &Record, at| record.kept_until(&since(at)).map(|until| until.0);
        assert_eq!(kept(&record, days(1)), Some(days(29) + 5));
        let mut record = record;
        for (provider, ended, until) in [
            ("openai", days(1), Some(days(31))),
            // Seen late, it may have ended long before.
            ("groq", days(9), Some(days(32) + 5)),
            ("gemini", days(1), Some(days(3))),
            ("mistral", days(1), None),
            ("somebody's own", days(1), Some(days(3))),
        ] {
            record.account.provider = provider.to_owned();
            assert_eq!(kept(&record, ended), until, "{provider}");
        }
    }
}
