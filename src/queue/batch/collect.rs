//! Fetching the results of a batch: downloaded to a file first, then stored in chunks, matched by the key of each
//! request. Stored chunks remain if this is interrupted; the others are read again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Context, Error, ErrorKind, Sent};
use crate::llm::batch::{BatchClient, BatchLineResult, RequestName};
use crate::queue::store::{BatchNo, Settlement};

use super::context::{BatchContext, check};
use super::machine::{Collected, Record, Results, number};
use super::settle_items::{AskedProvider, is_unchecked, keeps_reply};
use super::spool::Stopped;

/// Results that are stored in one transaction.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
/// Longer lines are not results.
const LONGEST: u64 = 64 << 20;

/// How often results of another program must arrive before the batch counts as foreign.
const FOREIGN_FETCHES: u32 = 3;

/// Results that a batch has at its provider.
pub(crate) struct ResultsToFetch<'a> {
    /// The batch's id at the provider.
    pub id: &'a str,
    pub results: &'a Results,
    /// The most bytes of a reply to one request.
    pub most_each: u64,
}

/// Downloads the results and settles every job. If results are missing, the readable ones are stored.
pub(crate) fn collect(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    to_fetch: &ResultsToFetch<'_>,
    client: &Arc<dyn BatchClient>,
    ctx: &Context,
) -> Result<Collected, Error> {
    let results = to_fetch.results;
    let most = record
        .intent
        .items
        .max(1)
        .saturating_mul(to_fetch.most_each);
    let label = &record.intent.label;
    let here = fetch_all(context, label, to_fetch, most, client, ctx)?;
    let mut reader = ResultReader {
        context,
        no,
        label,
        client,
        asked: AskedProvider::from(record),
        seen: HashSet::new(),
        chunk: HashMap::new(),
        bytes: 0,
        second_pass: None,
        collected: Collected::default(),
    };
    // A deleted file is fetched again, because its results were billed.
    for file in &here {
        reader.file(&file.path, file.refused.is_none(), ctx)?;
    }
    // An answer takes precedence over a failure of the same request anywhere in the files.
    if reader.begin_second_pass() {
        for file in &here {
            reader.file(&file.path, file.refused.is_none(), ctx)?;
        }
    }
    let refused = here.into_iter().find_map(|file| file.refused);
    let mut collected = reader.collected;
    let foreign = record.is_presumed() && collected.requests == 0;
    // A batch that answered nothing cannot be identified by its results: nothing was billed, and ours may be another
    // one.
    let unanswered_at_all = results.expected == Some(0) && collected.broken == 0;
    let not_shown = collected.foreign_lines > 0 || unanswered_at_all;
    let theirs = foreign && not_shown && refused.is_none();
    if theirs && record.fetches() + 1 >= FOREIGN_FETCHES {
        context.spool.drop_results(label, results.files.len());
        collected.foreign = true;
        return Ok(collected);
    }
    // Answered requests were billed and are not sent again automatically. A proxy may reply 404 too, and a provider
    // may name the files of a batch too early.
    let withheld = withheld(record, results, &collected, refused.as_ref());
    let nobody_waits = || {
        let left = context.store.batch_jobs(no, None, 1, 1)?;
        Ok::<_, Error>(left.is_empty())
    };
    if withheld.is_some() && !nobody_waits()? {
        context.spool.drop_results(label, results.files.len());
        collected.asked = refused.and_then(|error| error.retry_after());
        collected.withheld = withheld;
        return Ok(collected);
    }
    let why = results.why.error();
    collected.missing = unanswered(context, no, record, &why, ctx)?;
    Ok(collected)
}

/// Downloads the files that are not here yet.
fn fetch_all(
    context: &BatchContext,
    label: &str,
    &ResultsToFetch { id, results, .. }: &ResultsToFetch<'_>,
    most: u64,
    client: &Arc<dyn BatchClient>,
    ctx: &Context,
) -> Result<Vec<Fetched>, Error> {
    let mut here = Vec::new();
    for (index, file) in results.files.iter().enumerate() {
        let path = context.spool.results(label, index);
        here.push(if path.exists() {
            Fetched {
                path,
                refused: None,
            }
        } else {
            // A later reader must not take it for the complete file.
            let partial = context.spool.partial(label, index);
            download(context, path, partial, most, ctx, &mut |sink| {
                client.download(id, file, sink, ctx)
            })?
        });
    }
    Ok(here)
}

/// If billed results are missing: why.
fn withheld(
    record: &Record,
    results: &Results,
    found: &Collected,
    refused: Option<&Error>,
) -> Option<String> {
    let provider = &record.account.provider;
    let (requests, answered) = (record.intent.items, found.answered);
    if let Some(error) = refused {
        let why = error.message();
        return Some(format!(
            "{provider} does not give all of its results out: {why}"
        ));
    }
    if found.broken > 0 {
        let (lines, read) = (found.broken, found.requests);
        return Some(format!(
            "{lines} lines of its results at {provider} cannot be read; {read} of {requests} requests \
             have a readable result"
        ));
    }
    // A truncated batch may not have started at all.
    let is_due = results.completed || results.expected.is_some_and(|least| least > 0);
    if results.files.is_empty() && is_due {
        return Some(format!("{provider} names no file with its results"));
    }
    if let Some(expected) = results.expected.filter(|expected| answered < *expected) {
        return Some(format!(
            "its results at {provider} are incomplete: {answered} of {expected} can be read"
        ));
    }
    // The batch was identified only by its size and time, and its results do not confirm it.
    if record.is_presumed() && found.requests == 0 {
        return Some(format!(
            "its results at {provider} contain no request of this queue"
        ));
    }
    let empty = results.completed && found.requests == 0;
    (empty && results.expected.is_none()).then(|| format!("its results at {provider} are empty"))
}

/// A file of results, or the part of it that arrived.
struct Fetched {
    path: PathBuf,
    /// Why the rest is missing.
    refused: Option<Error>,
}

/// Downloads a file of results to `path`, or to `partial` as much of it as arrives.
fn download(
    context: &BatchContext,
    path: PathBuf,
    partial: PathBuf,
    most: u64,
    ctx: &Context,
    fetch: &mut dyn FnMut(&mut dyn Write) -> Result<(), Error>,
) -> Result<Fetched, Error> {
    check(ctx)?;
    let mut draft = context.spool.draft(path.clone())?;
    let mut sink = draft.sink(most);
    let result = fetch(&mut sink);
    let refused = match (sink.stopped(), result) {
        (Some(Stopped::NoRoom(error)), _) => return Err(error),
        (Some(Stopped::TooLong), _) => too_long(most),
        (None, Err(error)) if !is_refusal(&error) => return Err(error),
        (None, Err(error)) => error,
        (None, Ok(())) => {
            draft.keep()?;
            return Ok(Fetched {
                path,
                refused: None,
            });
        }
    };
    draft.keep_partial(partial.clone())?;
    Ok(Fetched {
        path: partial,
        refused: Some(refused),
    })
}

fn too_long(most: u64) -> Error {
    let why = format!(
        "they are larger than {:.1} MiB, the limit for its requests",
        most as f64 / 1_048_576.0
    );
    Error::new(ErrorKind::Malformed, why).with_sent(Sent::Answered)
}

/// Whether a download failed because of the results themselves: not because of this machine, the network, or the
/// account, which affect all batches there.
fn is_refusal(error: &Error) -> bool {
    let shared = matches!(
        error.kind(),
        ErrorKind::Auth | ErrorKind::Quota | ErrorKind::Cancelled
    );
    let reached = error.status().is_some() || error.sent() != Sent::No && !error.is_unreachable();
    !shared && reached
}

/// Results that are being stored.
struct ResultReader<'a> {
    context: &'a BatchContext,
    no: BatchNo,
    label: &'a str,
    client: &'a Arc<dyn BatchClient>,
    asked: AskedProvider,
    seen: HashSet<u32>,
    /// All from the file that is being read.
    chunk: HashMap<u32, ReadLine>,
    bytes: usize,
    second_pass: Option<SecondPass>,
    collected: Collected,
}

/// The result of a request, and the position of its line in its file.
struct ReadLine {
    result: BatchLineResult,
    offset: u64,
    bytes: usize,
}

/// Reads lines of results again for replies that must be kept. Holding all replies until their jobs are settled would
/// take several times the memory.
struct Replies {
    path: PathBuf,
    file: File,
}

impl Replies {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    fn line(&mut self, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        let mut line = vec![0; bytes];
        let read = self.file.seek(SeekFrom::Start(offset));
        let read = read.and_then(|_| self.file.read_exact(&mut line));
        read.map_err(|error| unreadable(&self.path, error))?;
        Ok(line)
    }
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let why = format!("cannot read {}: {error}", path.display());
    Error::new(ErrorKind::Transient, why)
}

/// How lines without an answer are handled; they come after all answers.
#[derive(PartialEq, Eq)]
enum SecondPass {
    /// Such lines exist, and were skipped in the first pass.
    Needed,
    /// Only such lines are read.
    Running,
}

impl ResultReader<'_> {
    /// Starts the second pass if there were failed requests. Returns whether the files must be read again.
    fn begin_second_pass(&mut self) -> bool {
        let left = self.second_pass.is_some();
        self.second_pass = left.then_some(SecondPass::Running);
        left
    }

    fn file(&mut self, path: &Path, is_whole: bool, ctx: &Context) -> Result<(), Error> {
        let unreadable = |error| unreadable(path, error);
        let mut lines = BufReader::with_capacity(1 << 18, File::open(path).map_err(unreadable)?);
        let (mut line, mut offset) = (Vec::new(), 0);
        let mut replies = Replies::open(path)?;
        loop {
            offset += line.len() as u64;
            line.clear();
            let read = (&mut lines).take(LONGEST).read_until(b'\n', &mut line);
            if read.map_err(unreadable)? == 0 {
                return self.store(&mut replies);
            }
            let is_cut = !is_whole && line.last() != Some(&b'\n');
            if is_cut || line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            self.line(&line, offset);
            if self.chunk.len() >= CHUNK || self.bytes >= CHUNK_BYTES {
                self.store(&mut replies)?;
                check(ctx)?;
            }
        }
    }

    fn line(&mut self, line: &[u8], offset: u64) {
        let is_first = self.second_pass != Some(SecondPass::Running);
        let read = match self.client.read(line) {
            Ok(read) => read,
            Err(error) => {
                log::debug!("a line of results that cannot be read: {error}");
                self.collected.broken += u64::from(is_first);
                return;
            }
        };
        let Some(number) = number(self.label, &read.key) else {
            self.collected.foreign_lines += u64::from(is_first);
            return;
        };
        let is_answer = matches!(&read.result, BatchLineResult::Answered(result) if result.is_ok());
        if is_answer != is_first {
            if is_first {
                self.second_pass = Some(SecondPass::Needed);
            }
            return;
        }
        if !self.seen.insert(number) {
            self.collected.duplicates += 1;
            return;
        }
        self.collected.requests += 1;
        self.collected.answered += u64::from(matches!(read.result, BatchLineResult::Answered(_)));
        self.bytes += line.len();
        let read = ReadLine {
            result: read.result,
            offset,
            bytes: line.len(),
        };
        self.chunk.insert(number, read);
    }

    /// Stores the chunk; jobs that were stored before are no longer in the batch.
    fn store(&mut self, replies: &mut Replies) -> Result<(), Error> {
        let mut chunk = std::mem::take(&mut self.chunk);
        self.bytes = 0;
        if chunk.is_empty() {
            return Ok(());
        }
        let mut numbers: Vec<u32> = chunk.keys().copied().collect();
        numbers.sort_unstable();
        let jobs = self.context.store.batch_jobs_by(self.no, &numbers)?;
        let mut ends = Vec::with_capacity(jobs.len());
        for claimed in &jobs {
            let Some(read) = chunk.remove(&claimed.receipt.number()) else {
                continue;
            };
            let result = match read.result {
                BatchLineResult::Answered(result) => match *result {
                    Ok(mut response) if keeps_reply(claimed) => {
                        let line = replies.line(read.offset, read.bytes)?;
                        response.details_mut().reply = Some(self.client.reply(&line));
                        Ok(response)
                    }
                    Err(error) if is_unchecked(claimed) => {
                        let line = replies.line(read.offset, read.bytes)?;
                        self.client.unchecked_answer(&line).ok_or(error)
                    }
                    result => result,
                },
                // The provider did not process the request, so it is not the cause.
                BatchLineResult::NotProcessed(error) => {
                    Err(Error::new(ErrorKind::Transient, error.message()))
                }
            };
            let settler = &self.context.settler;
            ends.push(settler.settlement(claimed, &self.asked, result));
        }
        self.context.settle(&ends, &self.asked)
    }
}

/// Settles all remaining jobs of a batch with `error`. Returns their number.
pub(crate) fn unanswered(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    error: &Error,
    ctx: &Context,
) -> Result<u64, Error> {
    let asked = AskedProvider::from(record);
    let (mut after, mut count) = (None, 0);
    loop {
        check(ctx)?;
        let jobs = context.store.batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
        let Some(last) = jobs.last() else {
            return Ok(count);
        };
        after = Some(last.receipt.job);
        count += jobs.len() as u64;
        let settler = &context.settler;
        let settle = |claimed| settler.settlement(claimed, &asked, Err(error.clone()));
        let ends: Vec<Settlement> = jobs.iter().map(settle).collect();
        context.settle(&ends, &asked)?;
    }
}

/// Fails or retries the jobs of these requests of a batch. The lines of its input have the order of the jobs in it.
pub(crate) fn fail_named(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    names: &[(RequestName, Error)],
) -> Result<u64, Error> {
    let asked = AskedProvider::from(record);
    let label = &record.intent.label;
    let (mut after, mut line) = (None, 0_u64);
    let mut ends = Vec::new();
    loop {
        let jobs = context.store.batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
        let Some(end) = jobs.last() else {
            break;
        };
        after = Some(end.receipt.job);
        for claimed in &jobs {
            line += 1;
            let is_it = |name: &RequestName| match name {
                RequestName::Line(named) => *named == line,
                RequestName::Key(key) => number(label, key) == Some(claimed.receipt.number()),
            };
            if let Some((_, error)) = names.iter().find(|(name, _)| is_it(name)) {
                let error = Err(error.clone());
                ends.push(context.settler.settlement(claimed, &asked, error));
            }
        }
    }
    context.settle(&ends, &asked)?;
    Ok(ends.len() as u64)
}

/// Returns the jobs of a refused batch to the queue, to be called one by one. Nothing was billed for them.
pub(crate) fn call_each(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    ctx: &Context,
) -> Result<u64, Error> {
    let asked = AskedProvider::from(record);
    let (mut after, mut count) = (None, 0);
    loop {
        check(ctx)?;
        let jobs = context.store.batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
        let Some(last) = jobs.last() else {
            return Ok(count);
        };
        after = Some(last.receipt.job);
        count += jobs.len() as u64;
        let ends: Vec<Settlement> = jobs
            .iter()
            .map(|claimed| context.settler.called(claimed))
            .collect();
        context.settle(&ends, &asked)?;
    }
}
