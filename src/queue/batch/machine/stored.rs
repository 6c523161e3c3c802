//! What the row of a batch says, in the present form or in that of earlier versions.

use serde::Deserialize;

use crate::queue::store::StoredBatch;

use super::legacy::LegacyRecord;
use super::record::Record;

/// What a row may hold.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyRecord {
    Legacy(Box<LegacyRecord>),
    Present(Box<Record>),
}

impl Record {
    /// What the row of a batch says, if this version understands it.
    pub(crate) fn read(batch: &StoredBatch) -> Option<Self> {
        Self::parse(&batch.record)
            .inspect_err(|error| {
                log::warn!("the record of batch {} cannot be read: {error}", batch.no.0);
            })
            .ok()
    }

    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        Ok(match serde_json::from_str(text)? {
            AnyRecord::Legacy(record) => Self::from(*record),
            AnyRecord::Present(record) => *record,
        })
    }
}
