//! Fetching what a batch has come to: downloaded to a file first, then stored in pieces, each line by
//! the key that our request had. What was stored stays when this is cut off; the rest is read again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::llm::batch::{BatchClient, BatchLineResult};
use crate::queue::store::{BatchNo, Settlement};

use super::context::{BatchContext, check};
use super::machine::{Collected, Record, Results, number};
use super::settle_items::{AskedProvider, keeps_reply};
use super::spool::Stopped;

/// Results that are stored in one transaction.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
/// Longer lines are no results.
const LONGEST: u64 = 64 << 20;
/// That the results of a batch are those of somebody else is believed when it has shown this often.
const FOREIGN_FETCHES: u32 = 3;

/// Downloads the results, and gives every job its end. What can be read of results that are not all
/// there is stored.
pub(crate) fn collect(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    (id, results, most_each): (&str, &Results, u64),
    client: &Arc<dyn BatchClient>,
    ctx: &Context,
) -> Result<Collected, Error> {
    let most = record.intent.items.max(1).saturating_mul(most_each);
    let label = &record.intent.label;
    let (mut refused, mut here) = (None, Vec::new());
    for (i, file) in results.files.iter().enumerate() {
        let fetched = download(context, (label, i), (id, file), most, client, ctx)?;
        here.push((fetched.path, fetched.refused.is_none()));
        refused = refused.or(fetched.refused);
    }
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
    // One that was removed since is fetched again: what is in it was paid for.
    for (path, is_whole) in &here {
        reader.file(path, *is_whole, ctx)?;
    }
    // An answer counts, wherever a failure of the same request stands.
    if reader.begin_second_pass() {
        for (path, is_whole) in &here {
            reader.file(path, *is_whole, ctx)?;
        }
    }
    let mut collected = reader.collected;
    let foreign = record.is_presumed() && collected.requests == 0;
    // Nor is it known for ours by a batch of which the provider says that nothing in it was answered:
    // then nothing was paid for, and ours may be another one.
    let unanswered_at_all = results.expected == Some(0) && collected.broken == 0;
    let not_shown = collected.strangers > 0 || unanswered_at_all;
    let theirs = foreign && not_shown && refused.is_none();
    if theirs && record.fetches() + 1 >= FOREIGN_FETCHES {
        context.spool.drop_results(label, results.files.len());
        collected.foreign = true;
        return Ok(collected);
    }
    // What the provider says it has answered was paid for, and is not bought again unasked. A proxy may
    // say 404, too, and whoever finishes a batch may name its files too early.
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
    collected.missing = unanswered(context, no, record, &results.why.error(), ctx)?;
    Ok(collected)
}

/// Why these cannot be all the results that were paid for, if they cannot.
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
    // Nothing says that a batch which was cut short had begun.
    let is_due = results.completed || results.expected.is_some_and(|least| least > 0);
    if results.files.is_empty() && is_due {
        return Some(format!("{provider} names no file with its results"));
    }
    if let Some(expected) = results.expected.filter(|expected| answered < *expected) {
        return Some(format!(
            "its results at {provider} are incomplete: {answered} of {expected} can be read"
        ));
    }
    // Nothing but its size and time told that it is ours, and its results do not.
    if record.is_presumed() && found.requests == 0 {
        return Some(format!(
            "its results at {provider} contain no request of this queue"
        ));
    }
    let empty = results.completed && found.requests == 0;
    (empty && results.expected.is_none()).then(|| format!("its results at {provider} are empty"))
}

/// A file of results, or as much of it as came.
struct Fetched {
    path: PathBuf,
    /// Why there is no more of it.
    refused: Option<Error>,
}

fn download(
    context: &BatchContext,
    (label, i): (&str, usize),
    (id, file): (&str, &str),
    most: u64,
    client: &Arc<dyn BatchClient>,
    ctx: &Context,
) -> Result<Fetched, Error> {
    let path = context.spool.results(label, i);
    if path.exists() {
        return Ok(Fetched {
            path,
            refused: None,
        });
    }
    check(ctx)?;
    let mut draft = context.spool.draft(path.clone())?;
    let mut sink = draft.sink(most);
    let result = client.download(id, file, &mut sink, ctx);
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
    // Whoever comes back to it must not take it for all there is.
    let path = context.spool.partial(label, i);
    draft.keep_partial(path.clone())?;
    Ok(Fetched {
        path,
        refused: Some(refused),
    })
}

fn too_long(most: u64) -> Error {
    let why = format!(
        "they are larger than {:.1} MiB, the limit for its requests (llm.max_reply_mib for each)",
        most as f64 / 1_048_576.0
    );
    Error::new(ErrorKind::Malformed, why).with_sent(Sent::Answered)
}

/// Whether a download failed for the results' own sake: not for trouble on this machine, on the way, or
/// with the account, which all batches there share.
fn is_refusal(error: &Error) -> bool {
    let shared = matches!(
        error.kind(),
        ErrorKind::Auth | ErrorKind::Quota | ErrorKind::Cancelled
    );
    let reached = error.status().is_some() || error.sent() != Sent::No && !error.is_unreachable();
    !shared && reached
}

/// Results on their way into the store.
struct ResultReader<'a> {
    context: &'a BatchContext,
    no: BatchNo,
    label: &'a str,
    client: &'a Arc<dyn BatchClient>,
    asked: AskedProvider,
    seen: HashSet<u32>,
    /// All of them of the file that is being read.
    chunk: HashMap<u32, ReadLine>,
    bytes: usize,
    second_pass: Option<SecondPass>,
    collected: Collected,
}

/// What came of a request, and where its line stands in its file.
struct ReadLine {
    result: BatchLineResult,
    offset: u64,
    bytes: usize,
}

/// Reads lines of results once more, for the replies in them that are kept: held until all are settled, they
/// would take several times their room.
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

/// What is done about lines that hold no answer, which come after all that do.
#[derive(PartialEq, Eq)]
enum SecondPass {
    /// There are such lines, passed over in the first reading.
    Needed,
    /// They alone are looked at.
    Running,
}

impl ResultReader<'_> {
    /// True when the files are to be read once more, for the requests that failed.
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
            self.collected.strangers += u64::from(is_first);
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

    /// Stores what has been read; what was stored before is no longer in the batch.
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
                    result => result,
                },
                // Whatever kept the provider from it, the request is not at fault.
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

/// Gives all that is left in a batch the end that `error` leads to. Returns how many there were.
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
        let end = |claimed| {
            context
                .settler
                .settlement(claimed, &asked, Err(error.clone()))
        };
        let ends: Vec<Settlement> = jobs.iter().map(end).collect();
        context.settle(&ends, &asked)?;
    }
}

/// Fails, or tries again, the jobs of these lines of a batch's input, counted from 1. The lines were
/// written in the order of the jobs that are in it.
pub(crate) fn fail_lines(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    lines: &[(u64, Error)],
) -> Result<u64, Error> {
    let asked = AskedProvider::from(record);
    let (mut after, mut line, mut hit) = (None, 0_u64, 0);
    let last = lines.iter().map(|(line, _)| *line).max().unwrap_or(0);
    let mut ends = Vec::new();
    while line < last {
        let jobs = context.store.batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
        let Some(end) = jobs.last() else {
            break;
        };
        after = Some(end.receipt.job);
        for claimed in &jobs {
            line += 1;
            if let Some((_, error)) = lines.iter().find(|(named, _)| *named == line) {
                ends.push(
                    context
                        .settler
                        .settlement(claimed, &asked, Err(error.clone())),
                );
                hit += 1;
            }
        }
    }
    context.settle(&ends, &asked)?;
    Ok(hit)
}
