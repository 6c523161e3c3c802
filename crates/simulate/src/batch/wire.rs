//! The wire formats of files and batches, as `rules/batches.json` has them for each API.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::Refusal;
use super::form::Query;
use super::life::Phase;
use crate::rules;
use crate::template::Facts;

/// The APIs by name.
pub(super) static TABLE: LazyLock<BTreeMap<String, Wire>> =
    LazyLock::new(|| rules::table("batches", include_str!("../../rules/batches.json")));

/// How one API shows batches, and how large they may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    pub(super) max_requests: Option<u64>,
    pub(super) max_bytes: u64,
    /// The requests that there are, and how lists are cut: of batches, and of results.
    pub(super) routes: Vec<Route>,
    pub(super) batches: Paging,
    pub(super) parts: Option<Paging>,
    /// The address in the requests of a batch, which have a method and an address then.
    pub(super) url: Option<String>,
    pub(super) create: Option<Create>,
    /// The reply to a deletion.
    #[serde(default)]
    pub(super) deleted_batch: Value,
    #[serde(default)]
    pub(super) deleted_file: Value,
    /// The word for a missing file.
    #[serde(default)]
    pub(super) file_word: String,
    /// The names of the phases; empty for APIs that only report counts.
    #[serde(default)]
    states: BTreeMap<String, String>,
    /// Further fields of a batch in this final state.
    #[serde(default)]
    pub(super) errors: BTreeMap<String, Value>,
    /// What ids begin with.
    pub(super) batch_id: String,
    pub(super) file_id: String,
    pub(super) batch: Value,
    #[serde(default)]
    pub(super) file: Value,
    /// How long a file is kept.
    #[serde(default)]
    pub(super) file_hours: u64,
    /// A result: of a success, of an error, and of a request that was not processed.
    line: Value,
    failed_line: Option<Value>,
    pub(super) left_line: Value,
}

/// A request that creates a batch from a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// The rule for its body.
    pub(super) api: String,
    pub(super) rule: String,
    /// The hours until the batch expires.
    pub(super) hours: u64,
    /// Whether a missing file is rejected immediately instead of by validation.
    #[serde(default)]
    pub(super) needs_file: bool,
    /// Whether the file must have been polled before.
    #[serde(default)]
    pub(super) looked_at: bool,
}

impl Wire {
    /// The line of a result: its `body` as a call would get it, and the status.
    pub(super) fn line(&self, mut facts: Facts, status: u16, body: &[u8]) -> Vec<u8> {
        facts.set("status", status);
        // A placeholder for the body, which is not parsed: no other text has this character.
        facts.set("body", "\0");
        let failed = self.failed_line.as_ref().filter(|_| status != 200);
        let line = facts.fill(failed.unwrap_or(&self.line)).to_string();
        match line.split_once(r#""\u0000""#) {
            Some((before, behind)) => [before.as_bytes(), body, behind.as_bytes()].concat(),
            None => line.into_bytes(),
        }
    }

    /// The API's name of a phase.
    pub(super) fn state(&self, phase: Phase) -> &str {
        self.states.get(phase.name()).map_or("", String::as_str)
    }
}

/// The purpose of a request.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Upload,
    UploadParts,
    File,
    Content,
    DeleteFile,
    Create,
    List,
    Status,
    Cancel,
    Delete,
    Results,
    ResultPage,
}

/// One kind of request.
#[derive(Debug, Deserialize)]
pub(super) struct Route {
    method: String,
    /// An address, in which `<>` stands for an id; text inside of the brackets belongs to the id.
    path: String,
    pub(super) action: Action,
    /// The fields that its query may have.
    #[serde(default)]
    pub(super) query: Vec<String>,
}

impl Route {
    /// The id in an address with this pattern; empty if the pattern has none.
    pub(super) fn id<'p>(&self, method: &str, path: &'p str) -> Option<&'p str> {
        if method != self.method {
            return None;
        }
        let Some((before, rest)) = self.path.split_once('<') else {
            return (path == self.path).then_some("");
        };
        let (folder, behind) = rest.split_once('>')?;
        let id = path.strip_prefix(before)?.strip_suffix(behind)?;
        let name = id.strip_prefix(folder)?;
        (!name.is_empty() && !name.contains('/')).then_some(id)
    }
}

/// How an API cuts lists into pages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// The field for the size of a page, its default and its most.
    limit: (String, usize, usize),
    /// The field for the id before the first item, or for the first id.
    after: Option<String>,
    from: Option<String>,
    /// A page as it is sent.
    pub(super) reply: Value,
}

impl Paging {
    /// The position of a page among all `ids`, and the facts about it.
    pub(super) fn find(
        &self,
        query: &Query,
        ids: &[String],
    ) -> Result<(Range<usize>, Facts), Refusal> {
        let (name, usual, most) = &self.limit;
        let limit = query.whole(name, 1..=*most, *usual)?;
        let place = |field: &Option<String>| {
            let id = query.get(field.as_deref()?)?;
            let place = ids.iter().position(|known| known == id);
            Some(place.ok_or_else(|| Refusal::bad(400, format!("There is no page at '{id}'."))))
        };
        let start = match place(&self.after).transpose()? {
            Some(after) => after + 1,
            None => place(&self.from).transpose()?.unwrap_or(0),
        };
        let end = ids.len().min(start.saturating_add(limit));
        let id = |place: Option<usize>| ids.get(place?).map(String::as_str);
        let last = end.checked_sub(1).filter(|last| *last >= start);
        let more = end < ids.len();
        let mut facts = Facts::default();
        facts.set("first", id(last.map(|_| start)));
        facts.set("last", id(last));
        facts.set("more", more);
        facts.set("cursor", id(last.filter(|_| more)));
        facts.set("next_id", id(Some(end)));
        Ok((start..end, facts))
    }
}
