//! Writing and checking the input of a batch: the lines of its jobs. Jobs that do not fit are returned.

use crate::base::{Error, ErrorKind};
use crate::engine::route::Tries;
use crate::llm::batch::BatchLimits;
use crate::llm::pricing;
use crate::llm::request::Request;
use crate::queue::store::{ClaimedJob, Settlement};

use super::context::check;
use super::machine::{State, Written, key};
use super::settle_items::request;
use super::spool::Draft;
use super::transfer::Transfer;

/// Jobs that are read at once.
pub(super) const CHUNK: usize = 500;
pub(super) const CHUNK_BYTES: usize = 8 << 20;
/// Jobs that are moved into a batch at once. Their files may not fit; then they go back.
const MOVED: usize = 100;

/// Writes the input of a batch. Jobs are moved into it meanwhile, unless it already has all of them.
pub(crate) fn write_input(batch: &Transfer<'_>, limits: BatchLimits) -> Result<Written, Error> {
    let (context, no, record) = (batch.context, batch.no, batch.record);
    let mut fills = record.state == State::Forming;
    let mut input = Input {
        batch,
        limits,
        draft: context.spool.draft(context.spool.input(batch.label()))?,
        written: Written::default(),
        held: (0, 0),
    };
    let (store, worker) = (&context.store, context.worker);
    let mut after = None;
    loop {
        check(batch.ctx)?;
        let jobs = store.batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
        let wall = context.clock.wall();
        let Some(last) = jobs.last() else {
            let room = limits.requests.saturating_sub(input.written.items as usize);
            if !fills || room == 0 {
                break;
            }
            let most = MOVED.min(room);
            let filled = store.fill_batch(worker, no, after, most, CHUNK_BYTES as u64, wall)?;
            if filled.jobs == 0 {
                break;
            }
            fills = filled.next.is_some();
            continue;
        };
        after = Some(last.receipt.job);
        if let Some(last) = input.add_all(&jobs)? {
            store.give_back(worker, no, Some(last), wall)?;
            break;
        }
    }
    input.draft.keep()?;
    Ok(input.written)
}

/// The input of a batch while it is written.
struct Input<'c> {
    batch: &'c Transfer<'c>,
    limits: BatchLimits,
    draft: Draft,
    written: Written,
    /// What its jobs can cost at most, in picodollars, and their number, which the store knows before it is sent.
    held: (u64, usize),
}

/// What becomes of a job.
enum Place {
    /// Its line is written.
    Written,
    /// It is rejected or returned.
    Out(Settlement),
    /// The batch is full before it.
    Next,
}

impl Input<'_> {
    /// Writes the lines of these jobs that are affordable. Returns the last job of a full batch.
    fn add_all(&mut self, jobs: &[ClaimedJob]) -> Result<Option<i64>, Error> {
        let (mut affordable, unbounded) = self.hold(jobs)?;
        let (mut ends, mut full) = (Vec::new(), None);
        for (claimed, unbounded) in jobs.iter().zip(unbounded) {
            let place = match unbounded {
                None if affordable == 0 => Place::Next,
                None => {
                    affordable -= 1;
                    self.add(claimed, request(claimed))?
                }
                Some(error) => self.add(claimed, Err(error))?,
            };
            match place {
                Place::Written => {}
                Place::Out(end) => ends.push(end),
                Place::Next => {
                    full = Some(claimed.receipt.job - 1);
                    break;
                }
            }
        }
        self.batch.context.settle(&ends, self.batch.record)?;
        Ok(full)
    }

    /// Writes the line of a job if it fits, unless its request is refused.
    fn add(
        &mut self,
        claimed: &ClaimedJob,
        request: Result<Request, Error>,
    ) -> Result<Place, Error> {
        let (batch, limits, written) = (self.batch, self.limits, &mut self.written);
        let key = key(batch.label(), claimed.receipt.number());
        // Files that would not fit are not read.
        let files = request.as_ref().map_or(0, Request::encoded_files);
        if files > 0 && written.items > 0 && written.bytes + files > limits.bytes {
            return Ok(Place::Next);
        }
        let line = request.and_then(|request| batch.client.line(&key, &request));
        let bytes = line.as_ref().map_or(0, |line| line.len() as u64);
        let line = match line {
            Ok(line) if bytes <= limits.bytes => line,
            other => {
                let error = other.err();
                let error = error.unwrap_or_else(|| too_long(bytes, limits.bytes));
                let end = batch.context.settlement(claimed, batch.record, Err(error));
                return Ok(Place::Out(end));
            }
        };
        if written.bytes + bytes > limits.bytes || written.items >= limits.requests as u64 {
            return Ok(Place::Next);
        }
        self.draft.add(&line)?;
        written.bytes += bytes;
        written.items += 1;
        Ok(Place::Written)
    }

    /// Reserves what these jobs can cost. Returns how many are affordable, and for each an error if its request has no
    /// upper bound. Such a request costs nothing, because it is refused.
    fn hold(&mut self, jobs: &[ClaimedJob]) -> Result<(usize, Vec<Option<Error>>), Error> {
        let (context, record) = (self.batch.context, self.batch.record);
        let mut unbounded = vec![None; jobs.len()];
        if jobs.first().is_none_or(|job| job.budget.is_none()) {
            return Ok((jobs.len(), unbounded));
        }
        let Some(route) = context.kinds.prompt_route() else {
            return Ok((0, unbounded));
        };
        let model = record.intent.model.as_deref().unwrap_or_default();
        let payee = [record.account.provider.as_str(), model];
        let mut needed = Vec::with_capacity(jobs.len());
        for (job, unbounded) in jobs.iter().zip(&mut unbounded) {
            // An invalid request is not sent.
            let most = request(job).map_or(Ok(0), |request| {
                pricing::bound(&route.pricing(), payee, &request, &Tries::default(), true)
            });
            match most {
                Ok(most) => needed.push(most),
                Err(error) => *unbounded = Some(Error::new(ErrorKind::Invalid, error.message())),
            }
        }
        let store = &context.store;
        let fits = store.hold_batch(context.worker, self.batch.no, self.held, &needed)?;
        self.held.0 += needed[..fits].iter().sum::<u64>();
        self.held.1 += fits;
        Ok((fits, unbounded))
    }
}

fn too_long(bytes: u64, most: u64) -> Error {
    let why = format!("the request has {bytes} bytes; the limit of a batch is {most}");
    Error::new(ErrorKind::Invalid, why)
}
