//! What a batch may cost is written to the store before it is sent.

use crate::base::{Error, ErrorKind};
use crate::llm::spending;
use crate::queue::store::{BatchNo, ClaimedJob};

use super::context::BatchContext;
use super::machine::Record;
use super::settle_items::request;

/// What the jobs of a batch can cost at most, in picodollars.
#[derive(Default)]
pub(super) struct Held {
    picos: u64,
    jobs: usize,
}

impl Held {
    /// Adds these jobs of a batch. Returns how many of the first ones are affordable, and the error of the last of them, if
    /// its request has no upper bound.
    pub(super) fn add(
        &mut self,
        context: &BatchContext,
        no: BatchNo,
        record: &Record,
        jobs: &[ClaimedJob],
    ) -> Result<(usize, Option<Error>), Error> {
        if jobs.first().is_none_or(|job| job.budget.is_none()) {
            return Ok((jobs.len(), None));
        }
        let Some(route) = context.settler.kinds.prompt_route() else {
            return Ok((0, None));
        };
        let model = record.intent.model.as_deref().unwrap_or_default();
        let payee = [record.account.provider.as_str(), model];
        let mut needed = Vec::with_capacity(jobs.len());
        let mut unbounded = None;
        for job in jobs {
            // An invalid request is not sent.
            let most = request(job).map_or(Ok(0), |request| {
                spending::most_batched(&route.pricing(), payee, &request)
            });
            match most {
                Ok(most) => needed.push(most),
                Err(error) => {
                    unbounded = Some(Error::new(ErrorKind::Invalid, error.message()));
                    break;
                }
            }
        }
        let before = (self.picos, self.jobs);
        let fits = (context.store).hold_batch(context.worker, no, before, &needed)?;
        self.picos += needed[..fits].iter().sum::<u64>();
        self.jobs += fits;
        Ok(match unbounded {
            Some(error) if fits == needed.len() => (fits + 1, Some(error)),
            _ => (fits, None),
        })
    }
}
