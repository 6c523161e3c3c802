//! Standard input: lines checked as they come, matched with an earlier output by id.

use std::io::Read;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::base::error::{Error, ErrorKind};
use crate::llm::request::Request;

use super::input::{StreamLines, hash_prefix};
use super::lines::{Identified, Named};
use super::list::{Feeder, Item};
use super::options::FileRunOptions;
use super::prompts::{PromptSource, Prompts};
use super::results::{Ended, PreviousLine, ResultsFile};

/// One line of the stream.
pub(crate) struct StreamItem {
    pub request: Request,
    pub named: Named,
    supersedes: bool,
}

impl std::borrow::Borrow<Request> for StreamItem {
    fn borrow(&self) -> &Request {
        &self.request
    }
}

impl Identified for Item<StreamItem> {
    fn named(&self) -> Option<&Named> {
        Some(&self.request.named)
    }
    fn supersedes(&self) -> bool {
        self.request.supersedes
    }
}

pub(super) type Key = u128;

pub(super) fn key(id: &str) -> Key {
    key_of(id.as_bytes())
}

pub(super) fn key_of(bytes: &[u8]) -> Key {
    let digest = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    Key::from_be_bytes(half)
}

/// What an earlier output says, by id; the last line of an id wins.
#[derive(Default)]
pub(crate) struct Previous {
    lines: Vec<(Key, u64, Ended)>,
    repeated: bool,
}

impl Previous {
    pub(crate) fn add(&mut self, line: &PreviousLine, redo_extracts: bool) {
        let hash = line.prefix(redo_extracts);
        self.lines.push((key(&line.id), hash, line.ended()));
    }

    pub(crate) fn seal(&mut self) {
        let before = self.lines.len();
        // Stable, so the last line of an id stays last, and turned round it is the one that
        // deduplication keeps.
        self.lines.reverse();
        self.lines.sort_by_key(|(key, ..)| *key);
        self.lines.dedup_by_key(|(key, ..)| *key);
        self.repeated = self.lines.len() < before;
    }

    fn find(&self, id: &str) -> Option<(u64, Ended)> {
        let key = key(id);
        let at = self
            .lines
            .binary_search_by_key(&key, |(key, ..)| *key)
            .ok()?;
        Some((self.lines[at].1, self.lines[at].2))
    }
}

/// What the reading thread has seen.
#[derive(Default)]
struct Seen {
    skipped: u64,
    kept_failed: u64,
    /// Of these, with a reply that was paid for and cannot be used.
    unusable: u64,
    repeated: bool,
    /// The ids in the order of the input, for putting results into that order.
    order: Vec<Key>,
}

/// A stream that is being read.
pub(crate) struct Reading(Arc<Mutex<Seen>>);

/// Starts to read the stream on a thread of its own, which nobody joins: it may be blocked in a
/// read for ever.
pub(crate) fn read(
    prompts: Prompts,
    previous: Previous,
    feeder: Feeder<StreamItem>,
    options: &FileRunOptions,
) -> Result<Reading, Error> {
    let PromptSource::Stream(reader) = prompts.source else {
        unreachable!("asked for streams only");
    };
    let seen = Arc::new(Mutex::new(Seen {
        repeated: previous.repeated,
        ..Seen::default()
    }));
    let mut lines = Lines {
        stream: StreamLines::new(reader, prompts.settings.0),
        previous,
        seen: seen.clone(),
        options: *options,
        left: options.max_items.unwrap_or(usize::MAX),
    };
    thread::Builder::new()
        .name("batchwright-source".to_owned())
        .spawn(move || feeder.feed(std::iter::from_fn(|| lines.next().transpose())))
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("cannot start a thread: {e}")))?;
    Ok(Reading(seen))
}

struct Lines<R> {
    stream: StreamLines<R>,
    previous: Previous,
    seen: Arc<Mutex<Seen>>,
    options: FileRunOptions,
    left: usize,
}

impl<R: Read> Lines<R> {
    fn next(&mut self) -> Result<Option<StreamItem>, Error> {
        while self.left > 0 {
            let Some(item) = self.stream.next()? else {
                return Ok(None);
            };
            let id = item.request.id.clone().unwrap_or_default();
            let before = self.previous.find(&id);
            let mut seen = self.seen.lock();
            if self.options.ordered {
                seen.order.push(key(&id));
            }
            let same = before.filter(|(hash, _)| Some(*hash) == hash_prefix(&item.request_hash));
            match same {
                Some((_, Ended::Success)) => {
                    seen.skipped += 1;
                    continue;
                }
                Some((_, Ended::Failure)) if self.options.keep_failed => {
                    seen.kept_failed += 1;
                    continue;
                }
                Some((_, Ended::Unusable)) if !self.options.ask_again => {
                    seen.kept_failed += 1;
                    seen.unusable += 1;
                    continue;
                }
                _ => {}
            }
            self.left -= 1;
            return Ok(Some(StreamItem {
                named: Named {
                    id,
                    request_hash: item.request_hash,
                    model: item.request.model.clone(),
                },
                request: item.request,
                supersedes: before.is_some(),
            }));
        }
        Ok(None)
    }
}

impl Reading {
    /// Items that needed no sending: finished before, and failed before and left so.
    pub(crate) fn skipped(&self) -> (u64, u64) {
        let seen = self.0.lock();
        (seen.skipped, seen.kept_failed)
    }

    /// Of those that failed before and were left so, the ones that have a reply that was paid for.
    pub(crate) fn unusable(&self) -> u64 {
        self.0.lock().unusable
    }

    /// True when the earlier output held several lines of one item.
    pub(crate) fn repeated(&self) -> bool {
        self.0.lock().repeated
    }

    /// Rewrites the output without superseded lines, in the order of the stream if asked to.
    pub(crate) fn compact(&self, file: &mut ResultsFile, ordered: bool) -> Result<(), Error> {
        let mut lines: Vec<(Key, u64)> = Vec::new();
        file.scan(&mut |line, at| lines.push((key(&line.id), at)))?;
        lines.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
        lines.dedup_by_key(|(key, _)| *key);
        if !ordered {
            lines.sort_unstable_by_key(|(_, at)| *at);
            return file.rewrite(lines.into_iter().map(|(_, at)| at));
        }
        let mut places: Vec<(Key, usize)> = {
            let seen = self.0.lock();
            let places = seen.order.iter().enumerate();
            places.map(|(place, key)| (*key, place)).collect()
        };
        places.sort_unstable();
        let place = |key: &Key| {
            let at = places.binary_search_by_key(key, |(key, _)| *key);
            // What the stream does not have comes last, as it stood.
            at.map_or(usize::MAX, |at| places[at].1)
        };
        lines.sort_by_cached_key(|(key, at)| (place(key), *at));
        file.rewrite(lines.into_iter().map(|(_, at)| at))
    }
}
