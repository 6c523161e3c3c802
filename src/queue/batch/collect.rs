//! Fetching the results of a batch: downloaded to a file first, then stored in chunks, matched by the key of each
//! request. Stored chunks remain if this is interrupted; the others are read again.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use crate::base::{Error, ErrorKind, Sent};
use crate::llm::batch::{BatchLineResult, RequestName};
use crate::queue::store::{ClaimedJob, Settlement};

use super::context::check;
use super::machine::{Collected, ItemEnds, ItemsSettled, Record, Results, number};
use super::settle_items::has;
use super::spool::{Draft, unreadable};
use super::transfer::Transfer;
use super::write_input::{CHUNK, CHUNK_BYTES};

/// The maximum number of result bytes per request of a batch, on average. If a download is longer, its beginning is
/// read, and the other results count as missing.
const RESULT_BYTES: u64 = 16 << 20;
/// Longer lines are not results.
const LONGEST: u64 = 64 << 20;

/// Downloads the results and settles every job. If results are missing, the readable ones are stored.
pub(crate) fn collect(batch: &Transfer<'_>, results: &Results) -> Result<Collected, Error> {
    let (context, record) = (batch.context, batch.record);
    let id = record.id().unwrap_or_default();
    let files = results.files.iter();
    let fetched = files.map(|file| fetch(batch, id, file));
    let mut fetched: Vec<Fetched> = fetched.collect::<Result<_, _>>()?;
    let mut reader = ResultReader {
        batch,
        seen: HashSet::new(),
        lines: BTreeMap::new(),
        bytes: 0,
        has_failures: false,
        collected: Collected::default(),
    };
    // An answer takes precedence over a failure of the same request, so failures are stored last.
    for answers in [true, false] {
        if answers || reader.has_failures {
            for file in &mut fetched {
                reader.file(file, answers)?;
            }
            reader.store()?;
        }
    }
    let refused = fetched.into_iter().find_map(|file| file.refused);
    let mut collected = reader.collected;
    // A batch that answered nothing cannot be identified by its results: nothing was billed, and ours may be another
    // one.
    let unanswered_at_all = results.expected == Some(0) && collected.broken == 0;
    let not_shown = collected.foreign_lines > 0 || unanswered_at_all;
    if record.is_presumed() && collected.requests == 0 && not_shown && refused.is_none() {
        collected.foreign = true;
        return Ok(collected);
    }
    // Answered requests were billed and are not sent again automatically. A proxy may reply 404 too, and a provider
    // may name the files of a batch too early.
    let withheld = withheld(record, results, &collected, refused.as_ref());
    let any_waits = || context.store.batch_jobs(batch.no, None, 1, 1);
    if withheld.is_some() && !any_waits()?.is_empty() {
        collected.asked = refused.and_then(|error| error.retry_after());
        collected.withheld = withheld;
        return Ok(collected);
    }
    collected.missing = unanswered(batch, &results.why)?;
    batch.tidy();
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
    let (requests, answered, broken) = (found.requests, found.answered, found.broken);
    let expected = results.expected.unwrap_or(0);
    // A batch without files may not have started at all.
    let is_due = results.completed || expected > 0;
    // If it was identified only by its size and time, its results do not confirm that.
    let must_show = results.completed && results.expected.is_none() || record.is_presumed();
    Some(match refused {
        Some(error) => format!(
            "{provider} does not give all of its results out: {}",
            error.message()
        ),
        None if broken > 0 => format!(
            "{broken} lines of its results at {provider} cannot be read; {requests} of {} requests have a readable \
             result",
            record.intent.items
        ),
        None if results.files.is_empty() && is_due => {
            format!("{provider} names no file with its results")
        }
        None if answered < expected => format!(
            "its results at {provider} are incomplete: {answered} of {expected} can be read"
        ),
        None if must_show && requests == 0 => {
            format!("its results at {provider} contain no request of this queue")
        }
        None => return None,
    })
}

/// A file of results, or the part of it that arrived. It is deleted with the draft.
struct Fetched {
    draft: Draft,
    /// Why the rest is missing.
    refused: Option<Error>,
}

/// Downloads a file of results, or as much of it as arrives.
fn fetch(batch: &Transfer<'_>, id: &str, file: &str) -> Result<Fetched, Error> {
    check(batch.ctx)?;
    let spool = &batch.context.spool;
    let mut draft = spool.draft(spool.results(batch.label()))?;
    let items = batch.record.intent.items.max(1);
    draft.most = items.saturating_mul(RESULT_BYTES);
    let result = batch.client.download(id, file, &mut draft, batch.ctx);
    let refused = match draft.stopped.take().map_or(result, Err) {
        Ok(()) => None,
        Err(error) if is_refusal(&error) => Some(error),
        Err(error) => return Err(error),
    };
    Ok(Fetched { draft, refused })
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
    /// Requests whose line is stored, or in `lines`.
    seen: HashSet<u32>,
    /// Results that are stored together, with their lines.
    lines: BTreeMap<u32, (BatchLineResult, Vec<u8>)>,
    bytes: usize,
    /// Lines without an answer were seen.
    has_failures: bool,
    collected: Collected,
}

impl ResultReader<'_> {
    /// Stores the answers of a file, or its failures.
    fn file(&mut self, file: &mut Fetched, answers: bool) -> Result<(), Error> {
        let path = file.draft.written()?;
        let unreadable = |error| unreadable(&path, error);
        let opened = File::open(&path).map_err(unreadable)?;
        let mut lines = BufReader::with_capacity(1 << 18, opened);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut lines).take(LONGEST).read_until(b'\n', &mut line);
            if read.map_err(unreadable)? == 0 {
                return Ok(());
            }
            let is_cut = file.refused.is_some() && line.last() != Some(&b'\n');
            if is_cut || line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            self.line(&line, answers);
            if self.lines.len() >= CHUNK || self.bytes >= CHUNK_BYTES {
                self.store()?;
                check(self.batch.ctx)?;
            }
        }
    }

    fn line(&mut self, line: &[u8], answers: bool) {
        let found = &mut self.collected;
        let read = match self.batch.client.read(line) {
            Ok(read) => read,
            Err(error) => {
                log::debug!("a line of results that cannot be read: {error}");
                found.broken += u64::from(answers);
                return;
            }
        };
        let Some(number) = number(self.batch.label(), &read.key) else {
            found.foreign_lines += u64::from(answers);
            return;
        };
        let is_answer = matches!(&read.result, BatchLineResult::Answered(result) if result.is_ok());
        self.has_failures |= !is_answer;
        if is_answer != answers {
            return;
        }
        if !self.seen.insert(number) {
            found.duplicates += 1;
            return;
        }
        found.requests += 1;
        found.answered += u64::from(matches!(read.result, BatchLineResult::Answered(_)));
        self.bytes += line.len();
        self.lines.insert(number, (read.result, line.to_owned()));
    }

    /// Stores these lines; jobs that were stored before are no longer in the batch.
    fn store(&mut self) -> Result<(), Error> {
        let mut lines = std::mem::take(&mut self.lines);
        self.bytes = 0;
        if lines.is_empty() {
            return Ok(());
        }
        let context = self.batch.context;
        let numbers: Vec<u32> = lines.keys().copied().collect();
        let jobs = context.store.batch_jobs_by(self.batch.no, &numbers)?;
        let ends = jobs.iter().filter_map(|claimed| {
            let (result, line) = lines.remove(&claimed.receipt.number())?;
            Some(self.end(claimed, result, &line))
        });
        let ends: Vec<Settlement> = ends.collect();
        context.settle(&ends, self.batch.record)
    }

    fn end(&self, claimed: &ClaimedJob, result: BatchLineResult, line: &[u8]) -> Settlement {
        let client = self.batch.client;
        let result = match result {
            BatchLineResult::Answered(result) => match *result {
                Ok(mut response) if has(claimed, "\"keep_reply\"", |it| it.keep_reply) => {
                    response.details_mut().reply = Some(client.reply(line));
                    Ok(response)
                }
                Err(error) if has(claimed, "\"unchecked\"", |it| it.unchecked) => {
                    client.unchecked_answer(line).ok_or(error)
                }
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
    // The input has all jobs: if this is interrupted, it is not used again.
    batch.tidy();
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
