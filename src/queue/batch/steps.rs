//! Carrying out what is next for a batch, and what follows from its outcome. Before a step that
//! creates something it is written down that it is tried, and after it what came of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::error::{Error, ErrorKind};
use crate::config::choices::OnUnknown;
use crate::llm::batch::{
    BatchClient, BatchStage, BatchState, BatchStatus, Found, Refused, is_unknown,
};
use crate::queue::store::BatchNo;

use super::collect::Collected;
use super::ends::missing;
use super::pace::LOOKS;
use super::pack::Packed;
use super::plan::Step;
use super::poller::Poller;
use super::record::{Doubt, Ended, Phase, Record, Why};
use super::transfer::{Done, Task};

impl Poller<'_> {
    pub(super) fn carry_out(&mut self, no: BatchNo, step: Step, client: &Arc<dyn BatchClient>) {
        match step {
            Step::Pack => self.pack(no, client),
            Step::Upload => self.send(no, client, false),
            // What travels within the creation is long, too.
            Step::Create if !client.uploads() => self.create_alone(no, client),
            Step::Create => self.create(no, client),
            Step::Look => self.search(no, client),
            Step::Fence => self.fence(no, client),
            Step::GiveUp => self.give_up(no),
            Step::CancelSpare => self.cancel_spare(no, client),
            Step::Cancel => self.cancel(no, client),
            Step::Poll => self.poll(no, client),
            Step::Collect => self.collect(no, client),
            Step::Wait => self.wait(no, Duration::from_secs(3600)),
        }
    }

    fn record(&mut self, no: BatchNo) -> Option<&mut Record> {
        self.open.get_mut(&no).map(|open| &mut open.record)
    }

    fn hand_out(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>, task: Task) {
        if let Some(open) = self.open.get_mut(&no) {
            open.busy = true;
            open.creating = false;
            self.transfers.order(no, &open.record, client, task);
        }
    }

    fn pack(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(record) = self.record(no) else {
            return;
        };
        let lane = (record.account.clone(), record.intent.model.clone());
        let limits = self.limits(&lane, client);
        self.hand_out(no, client, Task::Pack(limits));
    }

    /// Creates a batch that can be told from others by little more than its time: one after the other.
    fn create_alone(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        match self.is_another_unsure(no) {
            Ok(false) => self.send(no, client, true),
            Ok(true) => self.wait(no, Duration::from_millis(200)),
            Err(error) => {
                log::warn!("cannot look for batches: {error}");
                self.wait(no, Duration::from_secs(1));
            }
        }
    }

    /// Whether another batch of this account, of any worker, is being created or looked for.
    fn is_another_unsure(&self, no: BatchNo) -> Result<bool, Error> {
        let Some(own) = self.open.get(&no) else {
            return Ok(false);
        };
        let all = self.store().batches(None)?;
        let others = all.iter().filter(|batch| batch.no != no);
        let unsure = |record: &Record| {
            record.account == own.record.account
                && record.tried
                && !record.is_held()
                && matches!(record.phase, Phase::Handing { .. })
        };
        Ok(others
            .filter_map(Record::read)
            .any(|record| unsure(&record)))
    }

    /// Takes a step that a transfer thread takes.
    fn send(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>, creating: bool) {
        let wall = self.clock.wall();
        let Some(record) = self.record(no) else {
            return;
        };
        let Phase::Handing { stage } = record.phase.clone() else {
            return;
        };
        record.tried = true;
        if creating {
            record.intent.begun = wall;
        }
        if self.save(no) {
            self.hand_out(no, client, Task::Send(stage));
            if let Some(open) = self.open.get_mut(&no) {
                open.creating = creating;
            }
        } else if let Some(record) = self.record(no) {
            record.tried = false;
        }
    }

    fn create(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let wall = self.clock.wall();
        let Some(record) = self.record(no) else {
            return;
        };
        let Phase::Handing { stage } = record.phase.clone() else {
            return;
        };
        record.tried = true;
        // Where nothing but its time tells a batch from others, it is looked for around this one.
        record.intent.begun = wall;
        let intent = record.intent.clone();
        if !self.save(no) {
            if let Some(record) = self.record(no) {
                record.tried = false;
            }
            return;
        }
        let result = self.office.advance(&**client, &intent, &stage, self.ctx);
        self.sent(no, result, true);
    }

    /// What came of an upload or a creation.
    fn sent(&mut self, no: BatchNo, result: Result<BatchStage, Error>, creating: bool) {
        let wall = self.clock.wall();
        let Some(record) = self.record(no) else {
            return;
        };
        match result {
            Ok(BatchStage::Created { id, file }) => {
                record.created = Some(wall);
                self.adopted(no, id, file);
                self.office.outlook.created.fetch_add(1, Ordering::SeqCst);
            }
            Ok(stage) => {
                record.phase = Phase::Handing { stage };
                record.tried = false;
                record.went_well();
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
            Err(error) if error.kind() == ErrorKind::Cancelled && !is_unknown(&error) => {
                record.tried = false;
                self.save(no);
            }
            Err(error) if creating && is_unknown(&error) => {
                let why = format!("it is not known whether it was created ({error})");
                record.doubt = Some(Doubt::default());
                self.problem(no, why);
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
            Err(error) => {
                record.tried = false;
                self.refused(no, creating, error);
            }
        }
    }

    /// The batch exists, under this id.
    fn adopted(&mut self, no: BatchNo, id: String, file: Option<String>) {
        let first = self.post.settings.read().poll(Duration::ZERO, None, 0.0);
        let Some(record) = self.record(no) else {
            return;
        };
        log::info!(
            "batch {id} at {} holds {} requests",
            record.account.provider,
            record.intent.items
        );
        let file = file.or_else(|| record.file().map(str::to_owned));
        record.phase = Phase::Running { id, file };
        (record.tried, record.doubt) = (false, None);
        record.went_well();
        let account = record.account.clone();
        let (label, busy) = (record.intent.label.clone(), !record.spare.is_empty());
        self.wait(no, if busy { Duration::ZERO } else { first });
        self.paused.remove(&account);
        self.save(no);
        self.office.spool.drop_input(&label);
        (self.wake)();
    }

    /// The provider has refused an upload or a creation: nothing was created.
    fn refused(&mut self, no: BatchNo, creating: bool, error: Error) {
        let Some(record) = self.record(no) else {
            return;
        };
        record.failures += 1;
        let failures = record.failures;
        let too_much = creating && self.is_too_much(no, failures);
        match error.kind() {
            // It is too large, or the provider has too much of ours: halves may pass.
            _ if error.status() == Some(413) => self.halve(no, &error),
            ErrorKind::RateLimited if too_much => {
                self.shrink(no);
                self.halve(no, &error);
            }
            ErrorKind::RateLimited | ErrorKind::Transient | ErrorKind::Malformed => {
                self.again(no, &error);
            }
            ErrorKind::Auth | ErrorKind::Quota => {
                self.critical(&error);
                self.again(no, &error);
            }
            // The input file is gone, which another upload mends.
            ErrorKind::Invalid if error.status() == Some(404) && creating && failures < 3 => {
                if let Some(record) = self.record(no) {
                    record.phase = Phase::Packed;
                }
                self.again(no, &error);
            }
            _ => self.end_all(no, error),
        }
    }

    /// Whether a refusal for the pace may be one for the size: it comes again and again, although
    /// nothing of ours is queued there.
    fn is_too_much(&self, no: BatchNo, failures: u32) -> bool {
        let Some(own) = self.open.get(&no) else {
            return false;
        };
        let mut others = self.open.values().filter(|other| {
            other.record.account == own.record.account && other.record.id().is_some()
        });
        own.record.intent.items > 1 && failures.is_multiple_of(4) && others.next().is_none()
    }

    /// Waits, and tries the same step again.
    pub(super) fn again(&mut self, no: BatchNo, error: &Error) {
        if error.kind() == ErrorKind::Cancelled {
            return;
        }
        let jitter = self.jitter.next();
        let Some(record) = self.record(no) else {
            return;
        };
        let failures = record.failures.max(1);
        let account = record.account.clone();
        let settings = *self.post.settings.read();
        let wait = settings.again(failures, error.retry_after(), jitter);
        self.problem(no, error.message().to_owned());
        self.wait(no, wait);
        let shared = matches!(
            error.kind(),
            ErrorKind::Auth | ErrorKind::Quota | ErrorKind::RateLimited
        );
        if shared || error.is_unreachable() {
            // Who cannot be reached for one batch cannot be for the others.
            let now = self.clock.now();
            let (until, times) = self.paused.get(&account).copied().unwrap_or_default();
            let times = if until <= now { times + 1 } else { times };
            let wait = settings.again(times, error.retry_after(), jitter);
            self.paused.insert(account, (now.after(wait), times));
        }
        self.save(no);
    }

    /// All jobs of a batch end alike.
    pub(super) fn end_all(&mut self, no: BatchNo, error: Error) {
        let Some(account) = self.record(no).map(|record| record.account.clone()) else {
            return;
        };
        if let Some(client) = self.client(&account) {
            self.hand_out(no, &client, Task::FailAll(error));
        }
    }

    /// Looks for a batch in the provider's list.
    fn search(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let known = match self.ids_but(no) {
            Ok(known) => known,
            Err(error) => {
                log::warn!("cannot look for batches: {error}");
                return self.wait(no, Duration::from_secs(1));
            }
        };
        let Some(record) = self.record(no) else {
            return;
        };
        let Phase::Handing { stage } = record.phase.clone() else {
            return;
        };
        record.doubt.get_or_insert_default();
        let intent = record.intent.clone();
        match client.find(&intent, &stage, &known, self.ctx) {
            Ok(Found::One(id)) => {
                self.found(no, id, Vec::new());
            }
            Ok(Found::Many(mut ids)) if !ids.is_empty() => {
                let first = ids.remove(0);
                self.found(no, first, ids);
            }
            Ok(Found::None | Found::Many(_)) => self.not_found(no, client, None),
            Ok(Found::Undecidable(why)) => self.not_found(no, client, Some(why)),
            Err(error) => {
                if let Some(record) = self.record(no) {
                    record.failures += 1;
                }
                self.again(no, &error);
            }
        }
    }

    fn found(&mut self, no: BatchNo, id: String, spare: Vec<String>) {
        let wall = self.clock.wall();
        if let Some(record) = self.record(no) {
            if !spare.is_empty() {
                let provider = &record.account.provider;
                let more = spare.len();
                log::warn!("{provider} has {more} further batches for batch {id}; cancelling them");
            }
            record.spare = spare;
            record.created = Some(wall);
        }
        log::info!("batch {id} was created after all");
        self.adopted(no, id, None);
        self.office.outlook.created.fetch_add(1, Ordering::SeqCst);
    }

    fn not_found(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>, why: Option<String>) {
        let settings = *self.post.settings.read();
        let stopped = self.open.get(&no).is_some_and(|open| open.batch.is_stopped);
        let policy = self.policy(stopped, client.uploads());
        let Some(record) = self.record(no) else {
            return;
        };
        record.failures = 0;
        let provider = record.account.provider.clone();
        let begun = record.intent.begun;
        let items = record.intent.items;
        let Some(doubt) = &mut record.doubt else {
            return;
        };
        // Candidates that cannot be told apart yet will be when they have ended.
        if why.is_none() || doubt.looks + 1 < LOOKS {
            doubt.looks = doubt.looks.saturating_add(1);
        }
        let undecided = why.is_some() && doubt.looks + 1 >= LOOKS;
        let stays = policy == OnUnknown::Hold;
        doubt.held = undecided || stays && doubt.looks >= LOOKS;
        let held = doubt.held;
        if held {
            let why = why.unwrap_or_else(|| "it is not in the provider's list".to_owned());
            let minutes = self.clock.wall().since(begun).as_secs() / 60;
            self.problem(
                no,
                format!(
                    "{provider} may or may not have taken a batch of {items} requests {minutes} min \
                     ago ({why}); it is held, so that nothing is paid twice. To send it again all the \
                     same: batchwright config set batch.on_unknown resubmit"
                ),
            );
        }
        let wait = match self.record(no).and_then(|record| record.doubt) {
            // The last look follows the deletion of the file at once.
            Some(doubt) if doubt.fenced => Duration::ZERO,
            Some(doubt) if doubt.looks >= LOOKS && !held => Duration::ZERO,
            _ => settings.look(held),
        };
        self.wait(no, wait);
        self.save(no);
    }

    /// Deletes the input file, so that a creation under way comes to nothing.
    fn fence(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(file) = self
            .record(no)
            .and_then(|record| record.file().map(str::to_owned))
        else {
            return self.give_up(no);
        };
        match client.discard(&file, self.ctx) {
            Ok(()) => {
                let Some(record) = self.record(no) else {
                    return;
                };
                record.failures = 0;
                match &mut record.doubt {
                    Some(doubt) => doubt.fenced = true,
                    // Nothing was created yet: the deletion is all there was to do.
                    None => return self.give_up(no),
                }
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
            Err(error) => {
                if let Some(record) = self.record(no) {
                    record.failures += 1;
                }
                self.again(no, &error);
            }
        }
    }

    /// The batch does not exist, or is not wanted any more: its jobs go back.
    fn give_up(&mut self, no: BatchNo) {
        let Some(record) = self.record(no) else {
            return;
        };
        let doubt = record.doubt;
        let items = record.intent.items;
        let stopped = self.open.get(&no).is_some_and(|open| open.batch.is_stopped);
        if let Some(doubt) = doubt.filter(|_| !stopped) {
            match doubt.fenced {
                true => log::info!("a batch of {items} requests was not created; sent again"),
                false => {
                    let twice = &self.office.outlook.possibly_paid_twice;
                    twice.fetch_add(items, Ordering::SeqCst);
                    log::warn!("{items} requests are sent again, and may be paid twice");
                }
            }
        }
        self.close(no);
    }

    fn cancel_spare(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let spare = self
            .record(no)
            .and_then(|record| record.spare.first().cloned());
        let Some(spare) = spare else {
            return;
        };
        match client.cancel(&spare, self.ctx) {
            Err(error) if error.status() != Some(404) => {
                if let Some(record) = self.record(no) {
                    record.failures += 1;
                }
                self.again(no, &error);
            }
            _ => {
                if let Some(record) = self.record(no) {
                    record.spare.remove(0);
                    record.went_well();
                }
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
        }
    }

    fn cancel(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(id) = self
            .record(no)
            .and_then(|record| record.id().map(str::to_owned))
        else {
            return;
        };
        match client.cancel(&id, self.ctx) {
            Ok(()) => {
                log::info!("batch {id} is cancelled");
                if let Some(record) = self.record(no) {
                    record.cancelled = true;
                    record.went_well();
                }
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
            Err(error) => {
                if let Some(record) = self.record(no) {
                    record.failures += 1;
                    // It can be looked at all the same, and may have ended.
                    record.cancelled |= error.status() == Some(404);
                }
                self.again(no, &error);
            }
        }
    }

    fn poll(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(id) = self
            .record(no)
            .and_then(|record| record.id().map(str::to_owned))
        else {
            return;
        };
        match client.status(&id, self.ctx) {
            Ok(status) => self.stands(no, status),
            Err(error) => {
                let Some(record) = self.record(no) else {
                    return;
                };
                record.failures += 1;
                let provider = record.account.provider.clone();
                match error.status() {
                    // With the account that it was made with: somebody has deleted it, or the key sees
                    // another project now. It is not bought again unasked.
                    Some(404) => {
                        let error = error.reworded(format!(
                            "{provider} does not know batch {id} any more. Does the key belong to \
                             another project now? To give the batch up: batchwright cancel"
                        ));
                        self.gone(no, error);
                    }
                    _ => {
                        if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Quota) {
                            self.critical(&error);
                        }
                        self.again(no, &error);
                    }
                }
            }
        }
    }

    /// The provider knows a batch no more.
    fn gone(&mut self, no: BatchNo, error: Error) {
        let stopped = self.open.get(&no).is_some_and(|open| open.batch.is_stopped);
        match stopped {
            true => self.close(no),
            false => self.again(no, &error),
        }
    }

    /// The provider says where a batch stands.
    fn stands(&mut self, no: BatchNo, status: BatchStatus) {
        let (wall, jitter) = (self.clock.wall(), self.jitter.next());
        let settings = *self.post.settings.read();
        let Some(record) = self.record(no) else {
            return;
        };
        let account = record.account.clone();
        let word = status.state.as_str().to_owned();
        let changed = record.state.as_ref() != Some(&word) || record.counts != status.counts;
        record.state = Some(word);
        record.counts = status.counts.or(record.counts);
        record.went_well();
        let age = wall.since(record.created.unwrap_or(record.intent.begun));
        self.paused.remove(&account);
        if !matches!(
            status.state,
            BatchState::Validating | BatchState::Refused(_)
        ) {
            self.half_accepted(no);
        }
        let why = match &status.state {
            BatchState::Validating
            | BatchState::Running
            | BatchState::Cancelling
            | BatchState::Unknown(_) => {
                if let BatchState::Unknown(word) = &status.state {
                    self.problem(
                        no,
                        format!("its state is {word:?}, which is not known here"),
                    );
                }
                self.wait(no, settings.poll(age, status.poll_after, jitter));
                if changed {
                    self.save(no);
                    (self.wake)();
                }
                return;
            }
            BatchState::Refused(refused) => return self.turned_down(no, refused.clone()),
            BatchState::Completed => missing(),
            BatchState::Expired => {
                not_reached("the batch expired before this request was worked on")
            }
            BatchState::Cancelled => {
                not_reached("the batch was cancelled before this request was worked on")
            }
            BatchState::Failed(error) => error.clone(),
        };
        let Some(record) = self.record(no) else {
            return;
        };
        if let Phase::Running { id, file } = &record.phase {
            record.phase = Phase::Ended(Ended {
                id: id.clone(),
                file: file.clone(),
                results: status.results,
                expected: status.expected,
                why: Why::from(&why),
            });
        }
        self.wait(no, Duration::ZERO);
        self.save(no);
    }

    /// A batch was refused after its creation.
    fn turned_down(&mut self, no: BatchNo, refused: Refused) {
        match refused {
            Refused::Lines(lines) if !lines.is_empty() => {
                self.half_refused(no);
                let account = self.record(no).map(|record| record.account.clone());
                if let Some(client) = account.and_then(|account| self.client(&account)) {
                    self.hand_out(no, &client, Task::FailLines(lines));
                }
            }
            Refused::Lines(_) => {
                let why = "the batch was refused for some of its lines, which are not named";
                self.bisect(no, &Error::new(ErrorKind::Invalid, why));
            }
            Refused::SomeLine(error) => self.bisect(no, &error),
            Refused::TooMuchQueued(error) => self.too_much(no, &error),
            Refused::Whole(error) => {
                self.half_refused(no);
                self.end_all(no, error);
            }
        }
    }

    fn collect(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(Phase::Ended(ended)) = self.record(no).map(|record| record.phase.clone()) else {
            return;
        };
        self.hand_out(no, client, Task::Collect(ended));
    }

    /// A transfer thread is done.
    pub(super) fn landed(&mut self, no: BatchNo, result: Result<Done, Error>) {
        let Some(open) = self.open.get_mut(&no) else {
            return;
        };
        open.busy = false;
        let creating = std::mem::take(&mut open.creating);
        let sending = matches!(open.record.phase, Phase::Handing { .. });
        match result {
            Ok(Done::Packed(packed)) => self.packed(no, packed),
            Ok(Done::Sent(stage)) => self.sent(no, Ok(stage), creating),
            Ok(Done::Collected(collected)) => self.collected(no, &collected),
            Ok(Done::Failed(jobs)) => {
                log::info!("{jobs} jobs of batch {} ended with it", no.0);
                self.close(no);
            }
            Err(error) if sending => self.sent(no, Err(error), creating),
            Err(error) => {
                open.record.failures += 1;
                self.again(no, &error);
            }
        }
    }

    fn packed(&mut self, no: BatchNo, packed: Packed) {
        if packed.items == 0 {
            return self.close(no);
        }
        if let Some(record) = self.record(no) {
            (record.intent.items, record.intent.bytes) = (packed.items, packed.bytes);
            record.phase = Phase::Handing {
                stage: BatchStage::Ready,
            };
            record.went_well();
        }
        self.wait(no, Duration::ZERO);
        self.save(no);
    }

    fn collected(&mut self, no: BatchNo, collected: &Collected) {
        let Some(record) = self.record(no) else {
            return;
        };
        let id = record.id().unwrap_or_default().to_owned();
        for (n, what) in [
            (collected.duplicates, "repeated lines"),
            (collected.strangers, "lines of unknown requests"),
            (collected.broken, "lines that cannot be read"),
            (collected.missing, "requests without a result"),
        ] {
            if n > 0 {
                log::warn!("batch {id}: {n} {what}");
            }
        }
        if collected.foreign {
            log::warn!("batch {id} is not ours: it holds none of our requests");
            record.not_ours.push(id);
            record.phase = Phase::Handing {
                stage: BatchStage::Ready,
            };
            (record.tried, record.doubt) = (true, Some(Doubt::default()));
            (record.state, record.counts, record.created) = (None, None, None);
            self.wait(no, Duration::ZERO);
            self.save(no);
            return;
        }
        if collected.again {
            record.fetches += 1;
            record.failures += 1;
            // Its files may have been named too early: where it stands is asked anew.
            if let Phase::Ended(ended) = &record.phase {
                record.phase = Phase::Running {
                    id: ended.id.clone(),
                    file: ended.file.clone(),
                };
            }
            let why = "its results were cut short; they are fetched again";
            return self.again(no, &Error::new(ErrorKind::Transient, why));
        }
        log::info!("batch {id} is stored: {} results", collected.requests);
        self.close(no);
    }

    /// The ids of all batches that this store knows but one.
    fn ids_but(&self, no: BatchNo) -> Result<HashSet<String>, Error> {
        let all = self.store().batches(None)?;
        let others = all.iter().filter(|batch| batch.no != no);
        let records = others.filter_map(Record::read);
        let not_ours = self.open.get(&no).map(|open| open.record.not_ours.clone());
        Ok(records
            .filter_map(|record| record.id().map(str::to_owned))
            .chain(not_ours.into_iter().flatten())
            .collect())
    }
}

fn not_reached(why: &str) -> Error {
    Error::new(ErrorKind::Transient, why)
}
