//! Calls to a Batch API: the address and credential added, failures classified.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::base::json_mend::leniently;
use crate::base::secret::redacted_url;
use crate::base::{Context, Error, ErrorKind, Optional, Timestamp};
use crate::llm::batch::BatchRefusal;
use crate::llm::providers::access::{authority, escaped, origin};
use crate::llm::providers::answer::{WEB_PAGE, is_web_page, malformed};
use crate::llm::providers::dialect::request_id;
use crate::llm::providers::errors::failure;
use crate::llm::providers::limits::retry_after;
use crate::llm::transport::{HttpMethod, HttpReply, HttpTransfer};

use super::refusal::of_reply;
use super::{BatchApi, REPLY};

/// A list with more pages is assumed to repeat itself.
const MOST_PAGES: usize = 2_000;
/// A file may be stored on another host, which may redirect again.
const MOST_REDIRECTS: usize = 3;

/// The longest wait for the reply to a small request. Other batches wait meanwhile.
const SHORT_REPLY: Duration = Duration::from_secs(60);
const SHORT_BODY: u64 = 64 << 10;

/// Makes calls for one step. A `path` that begins with a slash is below the base URL; any other is a complete URL.
pub(super) struct Http<'a> {
    pub api: &'a BatchApi,
    pub ctx: &'a Context,
}

impl<'a> Http<'a> {
    /// Gets a resource that should exist.
    pub fn get(&self, path: &str) -> Result<HttpReply, Error> {
        let reply = self.exchange(HttpMethod::Get, path, &[], None, None)?;
        self.there(&self.url(path), reply)
    }

    /// Posts an action on a resource that should exist.
    pub fn ask(&self, path: &str) -> Result<(), Error> {
        let nothing = Some((&mut "{}".as_bytes() as &mut dyn Read, 2));
        let reply = self.exchange(HttpMethod::Post, path, &[], nothing, None)?;
        self.there(&self.url(path), reply).map(drop)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<HttpReply, BatchRefusal> {
        let body = body.to_string();
        let length = body.len() as u64;
        self.upload(path, &[], &mut body.as_bytes(), length)
    }

    /// Deletes a resource that may not exist any more.
    pub fn delete(&self, path: &str) -> Result<(), Error> {
        let reply = self.exchange(HttpMethod::Delete, path, &[], None, None)?;
        if is_gone(&reply) && self.is_own(&self.url(path), &reply) {
            Ok(())
        } else {
            self.judged(&reply)
        }
    }

    /// Posts a body of this length. `headers` replace default headers of the same name.
    pub fn upload(
        &self,
        path: &str,
        headers: &[(Cow<'static, str>, String)],
        body: &mut dyn Read,
        length: u64,
    ) -> Result<HttpReply, BatchRefusal> {
        let reply = self.exchange(HttpMethod::Post, path, headers, Some((body, length)), None)?;
        let failed = |error| of_reply(self.api.vendor, &reply, error);
        self.judged(&reply).map_err(failed)?;
        Ok(reply)
    }

    /// Writes a resource to `sink`. It follows redirects: to the provider's own host through the base URL, to other
    /// hosts without the credential.
    pub fn download(&self, path: &str, sink: &mut dyn Write) -> Result<(), Error> {
        let mut at = self.url(path);
        for _ in 0..=MOST_REDIRECTS {
            let reply = self.exchange(HttpMethod::Get, &at, &[], None, Some(&mut *sink))?;
            let location = match reply.status {
                301 | 302 | 303 | 307 | 308 => reply.headers.get("location"),
                _ => None,
            };
            let is_place = |there: &&str| there.starts_with('/') || there.starts_with("http");
            let Some(there) = location.filter(is_place) else {
                return self.there(&at, reply).map(drop);
            };
            let there = if there.starts_with('/') {
                format!("{}{there}", origin(&at))
            } else {
                there.to_owned()
            };
            at = self.by_way_of_base(&there).unwrap_or(there);
        }
        Err(Error::new(
            ErrorKind::Invalid,
            "a file is kept behind too many redirects",
        ))
    }

    /// The URL of a path that replaces the API's version in the base URL.
    pub fn root(&self, path: &str) -> String {
        format!("{}{path}", self.above_version())
    }

    /// The URL for a request to an address that a reply contains.
    ///
    /// # Errors
    /// If its host is neither that of the base URL nor the provider's own. Nothing is sent there.
    pub fn named_place(&self, url: &str) -> Result<String, Error> {
        self.by_way_of_base(url).ok_or_else(|| {
            let (vendor, named) = (self.api.vendor.name, redacted_url(origin(url)));
            let base = redacted_url(&self.api.access.base_url);
            let why = format!(
                "{vendor} at {base} names {named} as the place to send to; nothing is sent to a \
                 host that is not configured"
            );
            Error::new(ErrorKind::Invalid, why).with_unreachable()
        })
    }

    fn above_version(&self) -> &str {
        let base = &self.api.access.base_url;
        let above = base.strip_suffix(self.api.vendor.segment);
        above.unwrap_or(base)
    }

    /// A URL on the host of the base URL or on the provider's own, rewritten to be below the base URL. A gateway at
    /// the base URL, which may hold the credential, must not be bypassed.
    fn by_way_of_base(&self, url: &str) -> Option<String> {
        let above = self.above_version();
        let (home, prefix) = above.split_at(origin(above).len());
        let (from, path) = url.split_at(origin(url).len());
        let known = [home, origin(self.api.vendor.base_url)].map(authority);
        if !known.contains(&authority(from)) {
            return None;
        }
        let below = path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        Some(if below {
            format!("{home}{path}")
        } else {
            format!("{home}{prefix}{path}")
        })
    }

    /// Gets the pages of a list one by one, which have their entries under this name. `after` is the parameter for the last
    /// id of the page before, in lists that have it.
    pub fn pages<'h>(
        &'h self,
        list: &'h str,
        entries: &'h str,
        after: &'h str,
    ) -> impl Iterator<Item = Result<Vec<Value>, Error>> + 'h {
        let mut next = Some(list.to_owned());
        let mut left = MOST_PAGES;
        std::iter::from_fn(move || {
            let path = next.take()?;
            if left == 0 {
                let why = format!("a list has more than {MOST_PAGES} pages");
                return Some(Err(Error::new(ErrorKind::Invalid, why)));
            }
            left -= 1;
            let entries = self.get(&path).and_then(|reply| {
                let page = page(list, entries, after, &json(&reply)?);
                let (entries, then) = page.ok_or_else(|| unusable("no list", &reply))?;
                if then.as_ref() == Some(&path) {
                    return Err(unusable("a page that follows itself", &reply));
                }
                next = then;
                Ok(entries)
            });
            Some(entries)
        })
    }

    fn url(&self, path: &str) -> String {
        if path.starts_with('/') {
            self.api.access.url(path)
        } else {
            path.to_owned()
        }
    }

    fn exchange(
        &self,
        method: HttpMethod,
        path: &str,
        headers: &[(Cow<'static, str>, String)],
        body: Option<(&mut dyn Read, u64)>,
        into: Option<&mut dyn Write>,
    ) -> Result<HttpReply, Error> {
        let url = self.url(path);
        let access = &self.api.access;
        let own = access.headers.iter().filter(|(name, _)| {
            let replaced = headers.iter().any(|(other, _)| other == name);
            // The credential may be sent only to the base URL.
            !replaced && self.is_at_home(&url)
        });
        let headers: Vec<_> = own.chain(headers).cloned().collect();
        let long = into.is_some()
            || body
                .as_ref()
                .is_some_and(|(_, length)| *length > SHORT_BODY);
        let transfer = HttpTransfer {
            method,
            url: &url,
            headers: &headers,
            body: body.map(|(reader, length)| (reader as _, length)),
            into: into.map(|sink| sink as _),
            idle: self.api.idle,
            reply: if long { REPLY } else { SHORT_REPLY },
        };
        self.api.transport.transfer(transfer, self.ctx)
    }

    /// The reply from `url`, if it is a success. A 404 or 410 counts only if the API itself sent it; from any other
    /// server it becomes an error without a status.
    fn there(&self, url: &str, reply: HttpReply) -> Result<HttpReply, Error> {
        let Err(error) = self.judged(&reply) else {
            return Ok(reply);
        };
        if !is_gone(&reply) || self.is_own(url, &reply) {
            return Err(error);
        }
        let why = format!("not from the API itself: {}", error.message());
        let again = Error::new(ErrorKind::Transient, why).with_sent(error.sent());
        Err(again.with_request_id(error.request_id()))
    }

    /// Whether the API itself sent the reply from `url`, not a proxy or a file server.
    fn is_own(&self, url: &str, reply: &HttpReply) -> bool {
        self.is_at_home(url) && json(reply).is_ok()
    }

    fn is_at_home(&self, url: &str) -> bool {
        origin(url) == origin(&self.api.access.base_url)
    }

    /// The failure of a reply without success.
    fn judged(&self, reply: &HttpReply) -> Result<(), Error> {
        if (200..300).contains(&reply.status) {
            return Ok(());
        }
        let error = failure(self.api.vendor, reply).with_request_id(request_id(reply));
        let redirect = self.api.access.redirect(self.api.vendor, reply);
        Err(error.set(redirect, Error::reworded))
    }
}

/// The parameters of the next page of a list, by the places of their values in a page.
const TOKENS: [(&str, &str); 3] = [
    ("/paging/next_cursor", "cursor"),
    ("/pagination_token", "pagination_token"),
    ("/nextPageToken", "pageToken"),
];

/// The entries of a page of a list, and the path of the next page.
fn page(list: &str, name: &str, after: &str, page: &Value) -> Option<(Vec<Value>, Option<String>)> {
    let known = ["pagination_token", "nextPageToken", "unreachable"];
    let entries = match page.get(name) {
        Some(entries) => entries.as_array()?.clone(),
        // An empty list may be absent, but then there is nothing else.
        None if after.is_empty() && page.as_object()?.keys().all(|k| known.contains(&&**k)) => {
            Vec::new()
        }
        None => return None,
    };
    let tokens = TOKENS.into_iter();
    let mut tokens =
        tokens.filter_map(|(place, name)| Some((name, page.pointer(place)?.as_str()?)));
    let next = match tokens.find(|(_, token)| !token.is_empty()) {
        // A list that has more entries but names no next page cannot be read to its end.
        None if page["has_more"] == true => {
            let last = text(page, "last_id").or_else(|| text(entries.last()?, "id"))?;
            Some((after, last))
        }
        next => next,
    };
    let then = next.map(|(name, value)| {
        let separator = if list.contains('?') { '&' } else { '?' };
        format!("{list}{separator}{name}={}", escaped(value))
    });
    Some((entries, then))
}

fn is_gone(reply: &HttpReply) -> bool {
    matches!(reply.status, 404 | 410)
}

/// The JSON of a success reply.
pub(super) fn json(reply: &HttpReply) -> Result<Value, Error> {
    let read = leniently(&reply.body, |text| serde_json::from_str(text));
    read.map(|(value, _)| value).map_err(|error| {
        if is_web_page(&reply.body) {
            return unusable(WEB_PAGE, reply).with_unreachable();
        }
        unusable(error, reply)
    })
}

/// The first of these fields in a success reply that must have one, such as the id of a new resource.
pub(super) fn named(reply: &HttpReply, fields: &[&str]) -> Result<String, Error> {
    let value = json(reply)?;
    let texts = fields.iter().filter_map(|field| value.get(field)?.as_str());
    let mut found = texts.filter(|text| !text.is_empty());
    let text = found.next().map(str::to_owned);
    text.ok_or_else(|| unusable(format!("no {}", fields.join(" or ")), reply))
}

/// The failure of a success reply without a required part. Its status shows that the call may have had its effect.
pub(super) fn unusable(what: impl std::fmt::Display, reply: &HttpReply) -> Error {
    let error = malformed(what, &reply.body).with_status(reply.status);
    error.with_request_id(request_id(reply))
}

/// How long the server asks the client to wait before the next request.
pub(super) fn poll_after(reply: &HttpReply) -> Option<Duration> {
    retry_after(None, &reply.headers)
}

/// The time of the server's clock when it replied.
pub(super) fn served_at(reply: &HttpReply) -> Option<Timestamp> {
    let date = reply.headers.get("date")?;
    let time: SystemTime = httpdate::parse_http_date(date.trim()).ok()?;
    Some(Timestamp::from(time))
}

/// A field with a text that is not empty.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    let text = value.get(field)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// A time: Unix seconds, RFC 3339, or a bare date, which is its beginning (UTC).
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(number) => {
            let seconds = number.as_f64().filter(|seconds| *seconds > 0.0)?;
            Some(Timestamp((seconds * 1e3) as i64))
        }
        Value::String(text) => written(text.trim()),
        _ => None,
    }
}

/// A time at which something ends. For a bare date it is the end of that day plus one day to be safe.
pub(super) fn end(value: &Value) -> Option<Timestamp> {
    let written = time(value)?;
    let by_the_day = value.as_str().is_some_and(|text| is_a_day(text.trim()));
    Some(if by_the_day {
        written.after(2 * DAY)
    } else {
        written
    })
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn is_a_day(text: &str) -> bool {
    text.len() == 10 && text.parse::<f64>().is_err()
}

fn written(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<f64>() {
        return time(&Value::from(seconds));
    }
    if is_a_day(text) {
        return written(&format!("{text}T00:00:00Z"));
    }
    // Providers write UTC. A time of another zone counts as unknown.
    let utc = text.trim_end_matches(['Z', 'z']);
    let utc = utc.strip_suffix("+00:00").unwrap_or(utc);
    let time = humantime::parse_rfc3339_weak(utc).ok();
    time.filter(|_| !utc.contains('+')).map(Timestamp::from)
}
