//! Standard input: lines checked as they come, matched with an earlier output by id.

use std::io::Read;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::base::memory::{MemoryHold, MemoryManager};
use crate::base::thread::spawn;
use crate::engine::feeder::Feeder;
use crate::llm::request::Request;

use super::id_key::{Key, key};
use super::input::{EarlierResult, StreamLines, StreamedItem, hash_prefix, old_id, renamed};
use super::lines::{Identified, Named};
use super::list::Item;
use super::options::FileRunOptions;
use super::prompts::{PromptSource, Prompts};
use super::results::superseded::turn;
use super::results::{PreviousLine, ResultsFile};
use super::tidy::{BestLines, FAILED, Tidy};

/// One line of the stream.
pub(crate) struct StreamItem {
    pub request: Request,
    pub named: Named,
    /// Why it is not sent.
    pub unsent: Option<Error>,
    supersedes: bool,
    /// In memory, for a large line.
    _room: Option<MemoryHold>,
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
    fn is_bad_row(&self) -> bool {
        self.request.unsent.is_some()
    }
}

/// What an earlier output says, by id and request; the last line of both wins.
#[derive(Default)]
pub(crate) struct Previous {
    lines: Vec<Earlier>,
    redo_extracts: bool,
    repeated: bool,
}

/// A line of an earlier output.
struct Earlier {
    key: Key,
    request: u64,
    ended: EarlierResult,
    is_marked: bool,
    standing: ItemState,
}

/// What the stream has said so far of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ItemState {
    /// Its id has not come.
    Unmet,
    /// What it answers is asked.
    Current,
    /// Its id has come, and asks something else.
    Superseded,
}

impl Earlier {
    fn should_be_marked(&self) -> bool {
        match self.standing {
            ItemState::Unmet => self.is_marked,
            ItemState::Current => false,
            ItemState::Superseded => true,
        }
    }
}

impl Previous {
    pub(crate) fn new(redo_extracts: bool) -> Self {
        Self {
            redo_extracts,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, line: &PreviousLine) {
        self.lines.push(Earlier {
            key: key(&line.id),
            request: line.prefix(self.redo_extracts),
            ended: line.ended(),
            is_marked: line.superseded,
            standing: ItemState::Unmet,
        });
    }

    pub(crate) fn seal(&mut self) {
        // Stable, so the last line stays last, and turned round it is the one that deduplication
        // keeps.
        self.lines.reverse();
        self.lines.sort_by_key(|line| (line.key, line.request));
        self.repeated = self.lines.windows(2).any(|pair| pair[0].key == pair[1].key);
        self.lines.dedup_by_key(|line| (line.key, line.request));
    }

    /// Records an item of the stream. Its fingerprint had the second form in earlier versions, and its line may have one of
    /// the other ids. Returns whether a line has its own id, and the best result of those that answer the same request.
    fn meet(
        &mut self,
        id: &str,
        others: &[String],
        requests: [u64; 2],
    ) -> (bool, Option<EarlierResult>) {
        let key = key(id);
        let start = self.lines.partition_point(|line| line.key < key);
        let of_item = self.lines[start..].iter_mut();
        let mut any = false;
        for line in of_item.take_while(|line| line.key == key) {
            any = true;
            line.standing = ItemState::Superseded;
        }
        let place = |id: &str| requests.map(|request| self.place(id, request));
        let own = place(id).into_iter().flatten();
        // Met before, it is the line of an item that has this id of its own.
        let unmet = |at: &usize| self.lines[*at].standing == ItemState::Unmet;
        let others = others.iter().flat_map(|other| place(other)).flatten();
        let others: Vec<usize> = others.filter(unmet).collect();
        // Of equals the one that has its id.
        let lines: Vec<usize> = others.iter().copied().chain(own).collect();
        for at in others {
            self.lines[at].standing = ItemState::Superseded;
        }
        let lines = lines.into_iter();
        let best = lines.max_by_key(|at| self.lines[*at].ended);
        let best = best.map(|at| &mut self.lines[at]);
        let ended = best.map(|line| {
            line.standing = ItemState::Current;
            line.ended
        });
        (any, ended)
    }

    fn place(&self, id: &str, request: u64) -> Option<usize> {
        let place = (key(id), request);
        let at = self
            .lines
            .binary_search_by_key(&place, |line| (line.key, line.request));
        at.ok()
    }

    fn find(&self, line: &PreviousLine) -> Option<&Earlier> {
        let at = self.place(&line.id, line.prefix(self.redo_extracts))?;
        Some(&self.lines[at])
    }
}

/// What the reading thread has seen.
#[derive(Default)]
struct SeenIds {
    skipped: u64,
    kept_failed: u64,
    /// Of these, with a reply that was paid for and cannot be used.
    unusable: u64,
    previous: Previous,
    /// The ids in the order of the input, for putting results into that order.
    order: Vec<Key>,
}

/// A stream that is being read.
pub(crate) struct StreamReader(Arc<Mutex<SeenIds>>);

/// Starts to read the stream on a thread of its own, which nobody joins: it may be blocked in a
/// read for ever.
pub(crate) fn read(
    prompts: Prompts,
    previous: Previous,
    feeder: Feeder<StreamItem>,
    options: &FileRunOptions,
) -> Result<StreamReader, Error> {
    let PromptSource::Stream { name, reader } = prompts.source else {
        unreachable!("asked for streams only");
    };
    let seen = Arc::new(Mutex::new(SeenIds {
        previous,
        ..SeenIds::default()
    }));
    let mut lines = Lines {
        stream: StreamLines::new(name, reader, prompts.settings.0),
        seen: seen.clone(),
        options: *options,
        left: options.max_items.unwrap_or(usize::MAX),
    };
    spawn("batchwright-source", move || {
        feeder.feed(std::iter::from_fn(|| lines.next().transpose()));
    })?;
    Ok(StreamReader(seen))
}

struct Lines<R> {
    stream: StreamLines<R>,
    seen: Arc<Mutex<SeenIds>>,
    options: FileRunOptions,
    left: usize,
}

impl<R: Read> Lines<R> {
    fn next(&mut self) -> Result<Option<StreamItem>, Error> {
        while self.left > 0 {
            let Some(StreamedItem {
                item,
                bytes,
                order,
                unsent,
            }) = self.stream.next()?
            else {
                return Ok(None);
            };
            let id = item.request.id.clone().unwrap_or_default();
            let mut seen = self.seen.lock();
            let request = hash_prefix(&item.request_hash).unwrap_or(0);
            // The first sample of an item is the item itself, as it was called without samples.
            let mut others = Vec::from_iter(renamed(&id, item.request.sample));
            if order != 0 {
                let ids = others.iter().chain([&id]);
                let old: Vec<String> = ids.filter_map(|id| old_id(id, order)).collect();
                others.extend(old);
            }
            let requests = [request, request ^ order];
            let (supersedes, same) = seen.previous.meet(&id, &others, requests);
            if self.options.ordered {
                seen.order.push(key(&id));
            }
            match same {
                Some(EarlierResult::Success) => {
                    seen.skipped += 1;
                    continue;
                }
                Some(EarlierResult::Failure) if self.options.keep_failed => {
                    seen.kept_failed += 1;
                    continue;
                }
                Some(EarlierResult::Unusable) if !self.options.ask_again => {
                    seen.kept_failed += 1;
                    seen.unusable += 1;
                    continue;
                }
                _ => {}
            }
            self.left -= 1;
            drop(seen);
            let mut room = MemoryManager::of_process().wait_for_prompts(bytes, &Context::new())?;
            if let Some(room) = &mut room {
                room.holds_requests();
            }
            let request = item.request;
            return Ok(Some(StreamItem {
                named: Named {
                    id,
                    request_hash: item.request_hash,
                    model: request.model.clone(),
                    input: request.input.clone(),
                },
                request,
                unsent,
                supersedes,
                _room: room,
            }));
        }
        Ok(None)
    }
}

impl StreamReader {
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
        self.0.lock().previous.repeated
    }

    /// Tidies up the output: marks the lines of earlier runs, which end at `before`, that the stream has superseded,
    /// and keeps one line of each item if asked to.
    pub(crate) fn tidy(&self, file: &mut ResultsFile, before: u64, how: Tidy) -> Result<(), Error> {
        let seen = self.0.lock();
        let is_marked = |line: &PreviousLine, at: u64| {
            let earlier = seen.previous.find(line).filter(|_| at < before);
            earlier.map_or(line.superseded, Earlier::should_be_marked)
        };
        let (mut best, mut changed) = (BestLines::default(), how.compacts);
        file.scan(&mut |line, at| {
            let is_marked = is_marked(&line, at);
            changed |= is_marked != line.superseded;
            if how.compacts {
                best.add(None, &line, is_marked, at);
            }
        })?;
        if !changed {
            return Ok(());
        }
        let mut order: Vec<(Key, usize)> = Vec::new();
        if how.ordered {
            order.extend(seen.order.iter().enumerate().map(|(at, key)| (*key, at)));
            order.sort_unstable();
        }
        let number = |key: &Key| {
            let at = order.binary_search_by_key(key, |(key, _)| *key);
            // What the stream does not have comes last, as it stood.
            at.map_or(usize::MAX, |at| order[at].1)
        };
        let mut places = None;
        if how.compacts {
            file.archive(std::mem::take(&mut best.replaced))?;
            places = Some(best.into_places_by(how.ordered.then_some(&number)));
        }
        file.rewrite(FAILED, places, &mut |at, text| {
            let line = serde_json::from_slice::<PreviousLine>(text);
            if line.is_ok_and(|line| is_marked(&line, at) != line.superseded) {
                turn(text);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn line(id: &str, error: Option<serde_json::Value>) -> PreviousLine {
        let hash = format!("{:016x}", 7);
        let line =
            json!({"id": id, "success": error.is_none(), "request_hash": hash, "error": error});
        from_value(line).unwrap()
    }

    #[test]
    fn of_an_item_with_two_ids_the_better_line_counts() {
        let failed = || Some(json!({"kind": "Transient"}));
        let unusable = || Some(json!({"unusable_reply": true}));
        let cases = [
            (failed(), None, EarlierResult::Success),
            (failed(), unusable(), EarlierResult::Unusable),
            (unusable(), None, EarlierResult::Success),
        ];
        for (worse, better, ended) in cases {
            for (first, second) in [("a", "a#1"), ("a#1", "a")] {
                let lines = [line(first, worse.clone()), line(second, better.clone())];
                for (id, renamed) in [("a", "a#1"), ("a#1", "a")] {
                    let mut previous = Previous::new(false);
                    lines.iter().for_each(|line| previous.add(line));
                    previous.seal();
                    let met = previous.meet(id, &[renamed.to_owned()], [7; 2]);
                    assert_eq!(met, (true, Some(ended)), "{first} {id}");
                    let marked = lines
                        .each_ref()
                        .map(|line| previous.find(line).unwrap().should_be_marked());
                    assert_eq!(marked, [true, false], "{first} {id}");
                }
            }
        }
    }

    #[test]
    fn an_item_with_an_id_like_a_samples_keeps_its_line() {
        let numbered = line("a#1", None);
        let mut previous = Previous::new(false);
        previous.add(&numbered);
        previous.seal();
        let success = Some(EarlierResult::Success);
        assert_eq!(previous.meet("a#1", &[], [7; 2]), (true, success));
        assert_eq!(
            previous.meet("a", &["a#1".to_owned()], [7; 2]),
            (false, None)
        );
        assert!(!previous.find(&numbered).unwrap().should_be_marked());
    }
}
