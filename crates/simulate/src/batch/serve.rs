//! Handles requests about batches; `rules/batches.json` has the routes and lists of each API.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::form::Query;
use super::life::Batch;
use super::results::{Results, Which};
use super::send::{Reply, Source};
use super::store::Spoiled;
use super::{BatchPoint, Desk, Family, Outcome, Refusal, create, files, show, uploads};
use crate::template::Facts;

/// The purpose of a request.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Upload,
    UploadParts,
    File,
    Content,
    Download,
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
    action: Action,
    /// The fields that its query may have.
    #[serde(default)]
    query: Vec<String>,
}

impl Route {
    /// The id in an address with this pattern; empty if the pattern has none.
    fn id<'p>(&self, method: &str, path: &'p str) -> Option<&'p str> {
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

/// Handles a request.
pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let mut routes = desk.wire().routes.iter();
    let found = routes.find_map(|route| Some((route, route.id(desk.method, &desk.address.path)?)));
    let (route, id) = found.ok_or(Refusal::Nowhere)?;
    let query = Query::read(&desk.address.query, &route.query)?;
    let show = |batch: &Batch, now| show::batch(desk, batch, now, true);
    match route.action {
        Action::Upload => files::upload(desk, body),
        Action::UploadParts => uploads::upload(desk, &query, body),
        Action::File => files::file(desk, id),
        Action::Content => files::content(desk, id),
        Action::Download if query.get("alt") != Some("media") => {
            Err(Refusal::bad(400, "A download is asked for with alt=media."))
        }
        Action::Download => files::content(desk, id),
        Action::DeleteFile => files::delete(desk, id),
        Action::Create if desk.family == Family::Anthropic => create::inline(desk, body),
        Action::Create => create::from_file(desk, id, &body),
        Action::List => list(desk, &query),
        Action::Status => desk.status(id, show),
        Action::Cancel if desk.family == Family::Gemini => desk.cancel(id, |_, _| json!({})),
        Action::Cancel => desk.cancel(id, show),
        Action::Delete => delete(desk, id),
        Action::Results => results(desk, id),
        Action::ResultPage => result_page(desk, id, &query),
    }
}

/// How an API cuts lists into pages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// The field for the size of a page, its default and its most.
    limit: (String, usize, usize),
    /// The fields for the id before the first item, and for the first id.
    after: Option<String>,
    from: Option<String>,
    /// The field for a page token, and the prefix of such tokens.
    token: Option<(String, String)>,
    /// The error for an unknown token.
    #[serde(default)]
    bad_token: String,
    /// A page as it is sent.
    #[serde(default)]
    reply: Value,
}

impl Paging {
    /// The position of a page among all `ids`, and the facts about it.
    pub(super) fn find(
        &self,
        query: &Query,
        ids: &[String],
        what: &str,
    ) -> Result<(Range<usize>, Facts), Refusal> {
        let get = |name: &Option<String>| query.get(name.as_deref()?);
        let place = |id: &str| ids.iter().position(|known| known == id);
        let known = |id: &str| place(id).ok_or_else(|| Refusal::missing(what, id));
        let bad_token = || Refusal::bad(400, self.bad_token.as_str());
        let (name, usual, most) = &self.limit;
        let limit = query.whole(name, 1..=*most, *usual)?;
        let mut start = 0;
        if let Some(after) = get(&self.after) {
            start = known(after)? + 1;
        }
        if let Some(from) = get(&self.from) {
            start = place(from).ok_or_else(bad_token)?;
        }
        if let Some((name, prefix)) = &self.token
            && let Some(token) = query.get(name)
        {
            let number = token.strip_prefix(prefix.as_str());
            let number = number.and_then(|number| number.parse().ok());
            start = number
                .filter(|start| *start <= ids.len())
                .ok_or_else(bad_token)?;
        }
        let end = ids.len().min(start.saturating_add(limit));
        let more = end < ids.len();
        let page = &ids[start..end];
        let last = page.last().map(String::as_str);
        let mut facts = Facts::default();
        facts.set("first", page.first().map(String::as_str));
        facts.set("last", last);
        facts.set("more", more);
        facts.set("total", ids.len());
        facts.set("cursor", last.filter(|_| more));
        facts.set("next_id", ids.get(end).map(String::as_str));
        let prefix = self.token.as_ref().map_or("", |(_, prefix)| prefix);
        facts.set("token", more.then(|| format!("{prefix}{end}")));
        Ok((start..end, facts))
    }

    /// A page with these things on it.
    pub(super) fn reply(&self, mut facts: Facts, data: Vec<Value>) -> Reply {
        facts.set("data", data);
        Reply::Json(facts.fill(&self.reply))
    }
}

fn list(desk: &Desk<'_>, query: &Query) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    let known: Vec<_> = query.all("id").collect();
    if known.len() > 200 {
        return Err(Refusal::bad(400, "At most 200 ids can be asked for."));
    }
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let mut batches = inner.listed(desk.family, now, desk.batches());
        batches.retain(|batch| known.is_empty() || known.contains(&batch.id.as_str()));
        let paging = &desk.wire().batches;
        let ids: Vec<_> = batches.iter().map(|batch| batch.id.clone()).collect();
        let (range, facts) = paging.find(query, &ids, "batch")?;
        let full = desk.family != Family::Gemini;
        let shown = batches[range].iter();
        let shown = shown.map(|batch| show::batch(desk, batch, now, full));
        Ok(paging.reply(facts, shown.collect()))
    })
}

/// The results of a batch as one download.
fn results(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|inner, now| {
        let place = inner.batch(desk.family, id)?;
        match inner.batches[place].ended(now, desk.batches()) {
            None => {
                let message = format!("Batch {id} has no available results.");
                Err(Refusal::bad(404, message))
            }
            Some(ended) if !desk.is_kept(ended, now) => {
                let message = format!("The results of batch {id} are gone.");
                Err(Refusal::told(404, message))
            }
            Some(_) => Ok(desk.results(inner, place, Which::All)),
        }
    })
}

fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    desk.with(|inner, now: Duration| {
        let place = inner.batch(desk.family, id)?;
        let batch = &mut inner.batches[place];
        let has_ended = batch.ended(now, desk.batches()).is_some();
        if desk.family == Family::Anthropic && !has_ended {
            let message = format!("Batch {id} has not ended; cancel it first.");
            return Err(Refusal::bad(400, message));
        }
        batch.deleted = true;
        Ok(())
    })?;
    desk.pass(BatchPoint::DeleteDone);
    Ok(desk.deleted(&desk.wire().deleted_batch, id))
}

/// A page of a batch's results.
fn result_page(desk: &Desk<'_>, id: &str, query: &Query) -> Outcome {
    desk.with(|inner, now| {
        let batch = &inner.batches[inner.batch(desk.family, id)?];
        let ended = batch.ended(now, desk.batches());
        if ended.is_some_and(|ended| !desk.is_kept(ended, now)) {
            return Err(Refusal::missing("batch result", id));
        }
        let created = desk.unix(batch.created);
        let results = Results::new(batch, desk.config(), Which::All, created);
        let paging = desk.wire().parts.as_ref().ok_or(Refusal::Nowhere)?;
        let all = vec![String::new(); results.len()];
        let (mut range, facts) = paging.find(query, &all, "result")?;
        let spoiled = inner.next_download();
        if spoiled == Spoiled::Short {
            range.end = range.start + range.len() * 2 / 3;
        }
        let mut body = br#"{"results":["#.to_vec();
        for line in range.clone() {
            if line > range.start {
                body.push(b',');
            }
            results.write(&mut body, desk.config(), line);
        }
        let next = facts.fill(&"$token".into());
        body.extend_from_slice(format!(r#"],"pagination_token":{next}}}"#).as_bytes());
        Ok(Reply::Download(Source::Page(body), spoiled))
    })
}
