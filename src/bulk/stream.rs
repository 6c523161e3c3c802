//! Standard input: stored on the disk as it arrives, so that its items are read from there like those of a file. Each
//! is checked when it arrives, and matched with the lines of an earlier output.

use std::io::Read;
use std::sync::Arc;

use crate::base::Error;
use crate::base::thread::spawn;
use crate::engine::feeder::Feeder;
use crate::llm::params::RequestTask;

use super::id_key::{Key, key};
use super::input::{
    Arrival, EarlierResult, InputFile, Source, State, StreamLines, StreamedItem, hash_prefix,
};
use super::options::FileRunOptions;
use super::prompts::{Classes, PromptSettings};
use super::results::PreviousLine;
use super::spool::{SpoolFile, Spooled};

/// The contents of an earlier output, by id and request.
#[derive(Default)]
pub(crate) struct Previous {
    lines: Vec<Earlier>,
    /// Whether the output has several lines of one item.
    pub repeated: bool,
    /// Whether a line is marked as superseded.
    pub marked: bool,
}

/// A line of an earlier output.
struct Earlier {
    key: Key,
    request: u64,
    /// Its number.
    at: u32,
    ended: EarlierResult,
}

impl Previous {
    pub(crate) fn add(&mut self, line: &PreviousLine, redo_extracts: bool) {
        self.marked |= line.superseded;
        self.lines.push(Earlier {
            key: key(&line.id),
            request: line.prefix(redo_extracts),
            at: u32::try_from(self.lines.len()).unwrap_or(u32::MAX),
            ended: line.ended(),
        });
    }

    pub(crate) fn seal(&mut self) {
        self.lines
            .sort_unstable_by_key(|line| (line.key, line.request, std::cmp::Reverse(line.at)));
        self.repeated = self.lines.windows(2).any(|pair| pair[0].key == pair[1].key);
        self.lines.dedup_by_key(|line| (line.key, line.request));
    }

    /// The state of the item with this id. The last line for the same request counts.
    fn meet(&self, id: &str, request: u64) -> State {
        let key = key(id);
        let place = |line: &Earlier| (line.key, line.request);
        let found = self.lines.binary_search_by_key(&(key, request), place);
        match found.map(|at| self.lines[at].ended) {
            Ok(EarlierResult::Success) => State::Done,
            Ok(EarlierResult::Failure) => State::Failed,
            Ok(EarlierResult::Unusable) => State::Unusable,
            Err(_)
                if self
                    .lines
                    .binary_search_by_key(&key, |line| line.key)
                    .is_ok() =>
            {
                State::Changed
            }
            Err(_) => State::New,
        }
    }
}

/// A stream before reading, and the data that its items are compared with.
pub(super) struct StreamInput {
    pub name: String,
    pub reader: Box<dyn Read + Send>,
    pub settings: PromptSettings,
    pub previous: Previous,
}

/// Starts to read the stream on a separate thread. No one joins that thread, because a read may block for ever.
pub(super) fn read(
    stream: StreamInput,
    input: Arc<InputFile>,
    classes: Arc<Classes>,
    feeder: Feeder<Arrival>,
    options: &FileRunOptions,
) -> Result<(), Error> {
    let StreamInput {
        name,
        reader,
        settings,
        previous,
    } = stream;
    let folder = settings.spool_folder_or_default();
    // A run may have no writable folder.
    let spool = SpoolFile::new(&folder, &name, u64::MAX)
        .or_else(|_| SpoolFile::new(&std::env::temp_dir(), &name, u64::MAX))?;
    let (source, reader) = spool.growing(reader)?;
    let mut arrivals = Arrivals {
        lines: StreamLines::new(name, reader, settings),
        input,
        source: Some(source),
        classes,
        previous,
        options: *options,
        left: options.max_items.unwrap_or(usize::MAX),
        broken: None,
    };
    spawn("batchwright-source", move || {
        feeder.feed(std::iter::from_fn(|| arrivals.next().transpose()));
    })?;
    Ok(())
}

/// Maximum number of items without a call that are returned at once.
const MOST_AT_ONCE: usize = 4096;

/// Checks and matches arriving items.
struct Arrivals {
    lines: StreamLines<Spooled<Box<dyn Read + Send>>>,
    input: Arc<InputFile>,
    /// `None` until the first item shows the format of the text.
    source: Option<Source>,
    classes: Arc<Classes>,
    previous: Previous,
    options: FileRunOptions,
    /// Number of items that may still be sent.
    left: usize,
    /// Why reading ended with an error.
    broken: Option<Error>,
}

impl Arrivals {
    /// The items up to the next one that is sent.
    fn next(&mut self) -> Result<Option<Arrival>, Error> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let mut arrival = Arrival::default();
        while self.left > 0 && arrival.wanted == 0 && arrival.len() < MOST_AT_ONCE {
            match self.lines.next() {
                Ok(Some(item)) => {
                    let added = self.add(item, &mut arrival);
                    self.broken = added.err();
                }
                Ok(None) => {
                    self.input.end(self.lines.offset());
                    self.left = 0;
                }
                Err(error) => self.broken = Some(error),
            }
            if self.broken.is_some() {
                break;
            }
        }
        if arrival.len() > 0 {
            return Ok(Some(arrival));
        }
        self.broken.take().map_or(Ok(None), Err)
    }

    fn add(&mut self, item: StreamedItem, arrival: &mut Arrival) -> Result<(), Error> {
        if let Some(source) = self.source.take() {
            let (name, form) = (self.lines.name(), self.lines.form());
            self.input.begin(name, form, source);
        }
        let request = &item.item.request;
        let id = request.id.as_deref().unwrap_or_default();
        let hash = hash_prefix(&item.item.request_hash).unwrap_or(0);
        let state = self.previous.meet(id, hash);
        let class = self.classes.classify(request);
        let Some(class) = class else {
            return Err(Classes::too_many(self.lines.name()));
        };
        let is_wanted = self.options.want(state);
        arrival.add(&item, class, state);
        // The first arrival decides how far the others are read ahead.
        arrival.packs = request.task == RequestTask::Embed;
        if is_wanted {
            self.left -= 1;
            arrival.wanted += 1;
            arrival.bytes += request.weight();
        }
        Ok(())
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

    fn previous(lines: &[PreviousLine]) -> Previous {
        let mut previous = Previous::default();
        lines.iter().for_each(|line| previous.add(line, false));
        previous.seal();
        previous
    }

    #[test]
    fn the_last_line_of_a_request_counts() {
        let failed = || Some(json!({"kind": "Transient"}));
        for (first, second, state) in [
            (failed(), None, State::Done),
            (None, failed(), State::Failed),
        ] {
            let lines = [line("a", first), line("b", None), line("a", second)];
            let previous = previous(&lines);
            assert_eq!(previous.meet("a", 7), state);
            assert_eq!(previous.meet("a", 8), State::Changed);
            assert_eq!(previous.meet("c", 7), State::New);
            assert!(previous.repeated);
        }
    }
}
