//! Which jobs go into a batch together, and how large it may be.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::base::id::ProcessId;
use crate::llm::batch::{BatchClient, BatchLimits};
use crate::llm::request::Request;
use crate::queue::job::COMPLETION_KIND;
use crate::queue::store::{BatchNo, JobLane, StoredBatch, WaitingJobs, WorkerId};

use super::machine::record::{Phase, Record, new_label};
use super::poller::{Open, Poller};
use super::settings::{Model, Shrunk};

/// Jobs that come one by one get this long to become a batch.
const LINGER: Duration = Duration::from_millis(500);
/// Batches of one worker that are being filled or sent; the rest of the jobs wait in the queue.
const MOST_HANDED: usize = 4;
/// How long a smaller size holds.
const SHRUNK_FOR: Duration = Duration::from_secs(3600);

impl Poller<'_> {
    /// Begins batches for jobs that wait.
    pub(super) fn gather(&mut self, now: Time) -> Result<(), Error> {
        let Some(client) = self.post.client.read().clone() else {
            return Ok(());
        };
        // Who carries completions out otherwise is asked too, when a batch has failed.
        if self.kinds.route(COMPLETION_KIND).is_none() {
            return Ok(());
        }
        let wall = self.clock.wall();
        let waiting = self
            .store()
            .waiting_jobs(COMPLETION_KIND, self.processes, wall)?;
        let account = client.account();
        self.known.insert(account.clone(), client.clone());
        let mut look_at = None::<Time>;
        let mut later = |at: Time| look_at = Some(look_at.map_or(at, |known| known.min(at)));
        let mut seen = std::mem::take(&mut self.seen);
        let mut still = std::collections::HashMap::new();
        // Counted once: there may be a group for each of many processes.
        let being_handed = |open: &&Open| {
            open.record.account == account
                && !open.record.is_handed_over()
                && !matches!(open.record.phase, Phase::Suspect { .. })
        };
        let mut handed = self.open.values().filter(being_handed).count();
        for group in waiting {
            if let Some(next) = group.next {
                later(now.after(next.since(wall)));
            }
            if group.due == 0 {
                continue;
            }
            let place = (group.process_id, group.lane.clone());
            let since = seen.remove(&place).unwrap_or(now);
            let named = Request {
                model: group.lane.name.clone(),
                ..Request::default()
            };
            let model = (account.clone(), client.model_for(&named));
            let limits = self.limits(&model, &client);
            let full = group.due >= limits.requests as u64;
            let paused = self.shrunk.get(&model).map(|shrunk| shrunk.pause);
            let linger = if full { since } else { since.after(LINGER) };
            let from = paused.map_or(linger, |pause| linger.max(pause));
            if from > now {
                later(from);
            } else if handed >= MOST_HANDED || self.is_taken_care_of(&group) {
                // Whoever ends rings.
            } else {
                let batch = self.start(&group, &model)?;
                // What does not fit is the next batch's.
                if !full {
                    later(now.after(LINGER));
                } else {
                    later(now);
                }
                self.open.insert(batch.batch.no, batch);
                handed += 1;
                continue;
            }
            still.insert(place, since);
        }
        self.seen = still;
        self.look_at = look_at;
        Ok(())
    }

    /// Whether the jobs of this group are on their way into a batch, or a bad line is being searched for
    /// among them: it may be in what came back.
    fn is_taken_care_of(&self, group: &WaitingJobs) -> bool {
        self.open.values().any(|open| {
            matches!(open.record.phase, Phase::Filling | Phase::Suspect { .. })
                && open.batch.process_id == Some(group.process_id)
                && open.batch.lane == group.lane
        })
    }

    fn start(&mut self, group: &WaitingJobs, model: &Model) -> Result<Open, Error> {
        let wall = self.clock.wall();
        let record = Record::new(model.0.clone(), new_label(), model.1.clone(), wall);
        let text = record.text();
        let worker = self.context.worker;
        let no = self
            .store()
            .open_batch(worker, group.process_id, &group.lane, &text, wall)?;
        let process = Some(group.process_id);
        Ok(self.opened(no, record, process, group.lane.clone(), worker))
    }

    /// A batch of this worker that has just been written down.
    pub(super) fn opened(
        &self,
        no: BatchNo,
        record: Record,
        process: Option<ProcessId>,
        lane: Arc<JobLane>,
        worker: WorkerId,
    ) -> Open {
        Open {
            batch: StoredBatch {
                no,
                is_stopped: process.is_none(),
                stopped_at: None,
                process_id: process,
                lane,
                worker: Some(worker),
                jobs: 0,
                record: String::new(),
                created_at: self.clock.wall(),
            },
            record,
            due: self.clock.now(),
            busy: false,
            creating: false,
            asked: false,
            unsaved: None,
        }
    }

    /// What a batch of a model may hold now.
    pub(super) fn limits(&mut self, model: &Model, client: &Arc<dyn BatchClient>) -> BatchLimits {
        let mut limits = client.limits();
        let now = self.clock.now();
        self.shrunk.retain(|_, shrunk| shrunk.until > now);
        if let Some(shrunk) = self.shrunk.get(model) {
            limits.requests = limits.requests.min(shrunk.requests);
        }
        limits
    }

    /// Makes batches of this one's model smaller from now on, and lets them wait.
    pub(super) fn shrink(&mut self, no: BatchNo) {
        let jitter = self.jitter.next();
        let settings = *self.post.settings.read();
        let now = self.clock.now();
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let model = (
            open.record.account.clone(),
            open.record.intent.model.clone(),
        );
        let items = usize::try_from(open.record.intent.items).unwrap_or(usize::MAX);
        let times = self.shrunk.get(&model).map_or(0, |shrunk| shrunk.times) + 1;
        let wait = settings.again(times, None, jitter);
        let shrunk = Shrunk {
            requests: (items / 2).max(1),
            pause: now.after(wait),
            until: now.after(SHRUNK_FOR.max(wait * 2)),
            times,
        };
        log::warn!(
            "{} has too much queued of ours: batches of at most {} requests for an hour",
            model.0.provider,
            shrunk.requests
        );
        self.shrunk.insert(model, shrunk);
    }

    /// The provider has taken a batch of this model: others may follow at once.
    pub(super) fn room_again(&mut self, model: &Model) {
        if let Some(shrunk) = self.shrunk.get_mut(model) {
            shrunk.pause = Time::ZERO;
            shrunk.times = 0;
        }
    }

    /// Too much is queued at the provider: its jobs wait for a smaller batch, and no attempt is spent.
    pub(super) fn too_much(&mut self, no: BatchNo, error: &Error) {
        log::info!("batch {} was refused: {error}", no.0);
        self.half_refused(no);
        self.shrink(no);
        self.close(no);
    }
}
