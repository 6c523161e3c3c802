//! Fetching the results of a batch: downloaded to a file first, then stored in chunks, matched by the key of each
//! request. Stored chunks remain if this is interrupted; the others are read again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Sent};
use crate::llm::batch::{BatchLineResult, RequestName};
use crate::queue::store::{ClaimedJob, Settlement};

use super::context::check;
use super::machine::{Collected, ItemEnds, ItemsSettled, Record, Results, number};
use super::settle_items::{is_unchecked, keeps_reply};
use super::spool::Stopped;
use super::transfer::Transfer;

/// Results that are stored in one transaction.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
/// Longer lines are not results.
const LONGEST: u64 = 64 << 20;

/// Downloads the results and settles every job. If results are missing, the readable ones are stored.
pub(crate) fn collect(
    batch: &Transfer<'_>,
    id: &str,
    results: &Results,
) -> Result<Collected, Error> {
    let (context, record) = (batch.context, batch.record);
    let files = results.files.iter().enumerate();
    let here = files.map(|(index, file)| fetch(batch, id, index, file));
    let here: Vec<Fetched> = here.collect::<Result<_, _>>()?;
    let mut reader = ResultReader {
        batch,
        seen: HashSet::new(),
        answers: Chunk::default(),
        failures: Chunk::default(),
        collected: Collected::default(),
    };
    // A deleted file is fetched again, because its results were billed.
    for file in &here {
        reader.file(&file.path, file.refused.is_none())?;
    }
    reader.store_answers()?;
    reader.store_failures()?;
    let refused = here.into_iter().find_map(|file| file.refused);
    let mut collected = reader.collected;
    // A batch that answered nothing cannot be identified by its results: nothing was billed, and ours may be another
    // one.
    let unanswered_at_all = results.expected == Some(0) && collected.broken == 0;
    let not_shown = collected.foreign_lines > 0 || unanswered_at_all;
    if record.is_presumed() && collected.requests == 0 && not_shown && refused.is_none() {
        context
            .spool
            .drop_results(batch.label(), results.files.len());
        collected.foreign = true;
        return Ok(collected);
    }
    // Answered requests were billed and are not sent again automatically. A proxy may reply 404 too, and a provider
    // may name the files of a batch too early.
    let withheld = withheld(record, results, &collected, refused.as_ref());
    let any_waits = || context.store.batch_jobs(batch.no, None, 1, 1);
    if withheld.is_some() && !any_waits()?.is_empty() {
        context
            .spool
            .drop_results(batch.label(), results.files.len());
        collected.asked = refused.and_then(|error| error.retry_after());
        collected.withheld = withheld;
        return Ok(collected);
    }
    collected.missing = unanswered(batch, &results.why.error())?;
    batch.tidy();
    context
        .spool
        .drop_results(batch.label(), results.files.len());
    Ok(collected)
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

/// Downloads a file of results that is not here yet, or as much of it as arrives.
fn fetch(batch: &Transfer<'_>, id: &str, index: usize, file: &str) -> Result<Fetched, Error> {
    let (context, ctx) = (batch.context, batch.ctx);
    let path = context.spool.results(batch.label(), index);
    let whole = |path| Fetched {
        path,
        refused: None,
    };
    if path.exists() {
        return Ok(whole(path));
    }
    check(ctx)?;
    let most_each = context.kinds.setup.now().settings.batches.max_result_bytes;
    let most = batch.record.intent.items.max(1).saturating_mul(most_each);
    let mut draft = context.spool.draft(path.clone())?;
    draft.left = most;
    let result = batch.client.download(id, file, &mut draft, ctx);
    let refused = match (draft.stopped.take(), result) {
        (Some(Stopped::NoRoom(error)), _) => return Err(error),
        (Some(Stopped::TooLong), _) => too_long(most),
        (None, Err(error)) if !is_refusal(&error) => return Err(error),
        (None, Err(error)) => error,
        (None, Ok(())) => {
            draft.keep()?;
            return Ok(whole(path));
        }
    };
    // A later reader must not take it for the complete file.
    let path = context.spool.partial(batch.label(), index);
    draft.keep_partial(path.clone())?;
    Ok(Fetched {
        path,
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
    batch: &'a Transfer<'a>,
    /// Requests whose line is stored, or in `answers`.
    seen: HashSet<u32>,
    answers: Chunk,
    /// Requests that failed. They are stored last, because an answer to the same request takes precedence.
    failures: Chunk,
    collected: Collected,
}

/// Lines that are stored together.
#[derive(Default)]
struct Chunk {
    /// The result of each request, and its line.
    lines: HashMap<u32, (BatchLineResult, Vec<u8>)>,
    bytes: usize,
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let why = format!("cannot read {}: {error}", path.display());
    Error::new(ErrorKind::Transient, why)
}

impl ResultReader<'_> {
    fn file(&mut self, path: &Path, is_whole: bool) -> Result<(), Error> {
        let unreadable = |error| unreadable(path, error);
        let mut lines = BufReader::with_capacity(1 << 18, File::open(path).map_err(unreadable)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut lines).take(LONGEST).read_until(b'\n', &mut line);
            if read.map_err(unreadable)? == 0 {
                return Ok(());
            }
            let is_cut = !is_whole && line.last() != Some(&b'\n');
            if is_cut || line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            self.line(&line);
            if self.answers.lines.len() >= CHUNK || self.answers.bytes >= CHUNK_BYTES {
                self.store_answers()?;
                check(self.batch.ctx)?;
            }
            if self.failures.bytes >= CHUNK_BYTES {
                self.store_failures()?;
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let read = match self.batch.client.read(line) {
            Ok(read) => read,
            Err(error) => {
                log::debug!("a line of results that cannot be read: {error}");
                self.collected.broken += 1;
                return;
            }
        };
        let Some(number) = number(self.batch.label(), &read.key) else {
            self.collected.foreign_lines += 1;
            return;
        };
        let is_answer = matches!(&read.result, BatchLineResult::Answered(result) if result.is_ok());
        let has_failed = self.failures.lines.contains_key(&number);
        if self.seen.contains(&number) || has_failed {
            self.collected.duplicates += 1;
            if !(is_answer && has_failed) {
                return;
            }
        } else {
            self.collected.requests += 1;
            self.collected.answered +=
                u64::from(matches!(read.result, BatchLineResult::Answered(_)));
        }
        let chunk = if is_answer {
            self.failures.lines.remove(&number);
            self.seen.insert(number);
            &mut self.answers
        } else {
            &mut self.failures
        };
        chunk.bytes += line.len();
        chunk.lines.insert(number, (read.result, line.to_owned()));
    }

    fn store_answers(&mut self) -> Result<(), Error> {
        let answers = std::mem::take(&mut self.answers);
        self.store(answers)
    }

    fn store_failures(&mut self) -> Result<(), Error> {
        let failures = std::mem::take(&mut self.failures);
        self.seen.extend(failures.lines.keys());
        self.store(failures)
    }

    /// Stores these lines; jobs that were stored before are no longer in the batch.
    fn store(&self, mut chunk: Chunk) -> Result<(), Error> {
        let context = self.batch.context;
        let mut numbers: Vec<u32> = chunk.lines.keys().copied().collect();
        numbers.sort_unstable();
        for some in numbers.chunks(CHUNK) {
            let jobs = context.store.batch_jobs_by(self.batch.no, some)?;
            let ends = jobs.iter().filter_map(|claimed| {
                let (result, line) = chunk.lines.remove(&claimed.receipt.number())?;
                Some(self.end(claimed, result, &line))
            });
            let ends: Vec<Settlement> = ends.collect();
            context.settle(&ends, self.batch.record)?;
        }
        Ok(())
    }

    fn end(&self, claimed: &ClaimedJob, result: BatchLineResult, line: &[u8]) -> Settlement {
        let client = self.batch.client;
        let result = match result {
            BatchLineResult::Answered(result) => match *result {
                Ok(mut response) if keeps_reply(claimed) => {
                    response.details_mut().reply = Some(client.reply(line));
                    Ok(response)
                }
                Err(error) if is_unchecked(claimed) => client.unchecked_answer(line).ok_or(error),
                result => result,
            },
            // The provider did not process the request, so it is not the cause.
            BatchLineResult::NotProcessed(error) => {
                Err(Error::new(ErrorKind::Transient, error.message()))
            }
        };
        let record = self.batch.record;
        self.batch.context.settlement(claimed, record, result)
    }
}

/// Settles jobs of a batch that was refused.
pub(crate) fn settle_items(batch: &Transfer<'_>, ends: ItemEnds) -> Result<ItemsSettled, Error> {
    let jobs = match ends {
        ItemEnds::All(error) => unanswered(batch, &error)?,
        // They return to the queue, to be called one by one. Nothing was billed for them.
        ItemEnds::Called(_) => {
            settle_each(batch, &|claimed, _| Some(batch.context.called(claimed)))?
        }
        ItemEnds::Named(names) => {
            // If a job of the batch is already settled, its line numbers no longer match the sent input.
            let whole = batch.context.store.batches(None)?;
            let whole = whole.iter().find(|whole| whole.no == batch.no);
            if whole.is_none_or(|whole| whole.jobs != batch.record.intent.items) {
                0
            } else {
                match (fail_named(batch, &names)?, names.into_iter().next()) {
                    (0, Some((_, error))) => return Ok(ItemsSettled::NoSuchRequest(error)),
                    (hit, _) => hit,
                }
            }
        }
    };
    batch.tidy();
    Ok(ItemsSettled::Jobs(jobs))
}

/// Settles all remaining jobs of a batch with `error`. Returns their number.
fn unanswered(batch: &Transfer<'_>, error: &Error) -> Result<u64, Error> {
    settle_each(batch, &|claimed, _| Some(failed(batch, claimed, error)))
}

/// Fails or retries the jobs of these requests of a batch. The lines of its input have the order of the jobs in it.
fn fail_named(batch: &Transfer<'_>, names: &[(RequestName, Error)]) -> Result<u64, Error> {
    settle_each(batch, &|claimed, line| {
        let is_it = |name: &RequestName| match name {
            RequestName::Line(named) => *named == line,
            RequestName::Key(key) => number(batch.label(), key) == Some(claimed.receipt.number()),
        };
        let (_, error) = names.iter().find(|(name, _)| is_it(name))?;
        Some(failed(batch, claimed, error))
    })
}

fn failed(batch: &Transfer<'_>, claimed: &ClaimedJob, error: &Error) -> Settlement {
    let result = Err(error.clone());
    batch.context.settlement(claimed, batch.record, result)
}

/// Settles the jobs of a batch for which there is an end, given their lines in its input. Returns their number.
fn settle_each(
    batch: &Transfer<'_>,
    end: &dyn Fn(&ClaimedJob, u64) -> Option<Settlement>,
) -> Result<u64, Error> {
    let (mut after, mut line, mut count) = (None, 0, 0);
    loop {
        check(batch.ctx)?;
        let store = &batch.context.store;
        let jobs = store.batch_jobs(batch.no, after, CHUNK, CHUNK_BYTES)?;
        let Some(last) = jobs.last() else {
            return Ok(count);
        };
        after = Some(last.receipt.job);
        let lines = (line + 1..).zip(&jobs);
        let ends = lines.filter_map(|(line, claimed)| end(claimed, line));
        let ends: Vec<Settlement> = ends.collect();
        (line, count) = (line + jobs.len() as u64, count + ends.len() as u64);
        batch.context.settle(&ends, batch.record)?;
    }
}
