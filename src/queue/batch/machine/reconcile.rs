//! Looking for a batch of which nobody knows whether it was created.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::error::Error;
use crate::config::choices::OnUnknown;
use crate::llm::batch::{BatchClient, ListedBatches};
use crate::queue::store::BatchNo;

use super::super::poller::Poller;
use super::super::settings::LOOKS;
use super::super::transfer::Task;
use super::record::{Phase, Record};

/// An input file whose deletion was refused this often stays.
const MOST_REFUSALS: u32 = 3;

impl Poller<'_> {
    /// Looks for a batch in the provider's list.
    pub(in crate::queue::batch) fn search(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
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
        self.hand_out(no, client, Task::Find(stage, known));
    }

    /// What a look through the provider's list has shown.
    pub(in crate::queue::batch) fn looked(&mut self, no: BatchNo, found: Result<ListedBatches, Error>) {
        match found {
            Ok(ListedBatches::One(id)) => {
                self.found(no, id, Vec::new());
            }
            Ok(ListedBatches::Many(mut ids)) if !ids.is_empty() => {
                let first = ids.remove(0);
                self.found(no, first, ids);
            }
            Ok(ListedBatches::None | ListedBatches::Many(_)) => self.not_found(no, None),
            Ok(ListedBatches::Undecidable(why)) => self.not_found(no, Some(why)),
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
        let account = self.open.get(&no).map(|open| open.record.account.clone());
        let client = account.and_then(|account| self.client(&account));
        if let Some(record) = self.record(no) {
            record.provisional = client.is_some_and(|client| !client.uploads());
        }
        match self.record(no).is_some_and(|record| record.provisional) {
            true => log::info!("batch {id} may be the one: its results will show whose it is"),
            false => {
                log::info!("batch {id} was created after all");
                self.context.outlook.created.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.adopted(no, id, None);
    }

    fn not_found(&mut self, no: BatchNo, why: Option<String>) {
        let settings = *self.post.settings.read();
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let (stopped, account) = (open.batch.is_stopped, open.record.account.clone());
        let uploads = self.client(&account).is_some_and(|client| client.uploads());
        let stays = self.policy(stopped, uploads) == OnUnknown::Hold;
        let wall = self.clock.wall();
        let Some(record) = self.record(no) else {
            return;
        };
        record.failures = 0;
        let (items, minutes) = (
            record.intent.items,
            wall.since(record.intent.begun).as_secs() / 60,
        );
        let Some(doubt) = &mut record.doubt else {
            return;
        };
        // Candidates that cannot be told apart yet will be when they have ended.
        if why.is_none() || doubt.looks + 1 < LOOKS {
            doubt.looks = doubt.looks.saturating_add(1);
        }
        doubt.confirmed = doubt.fenced && why.is_none();
        let undecided = why.is_some() && doubt.looks + 1 >= LOOKS;
        let unfenced = doubt.refusals >= MOST_REFUSALS && !doubt.fenced;
        doubt.held = undecided || unfenced || stays && doubt.looks >= LOOKS;
        let doubt = *doubt;
        if doubt.held {
            let why = match why {
                Some(why) => why,
                None if unfenced => "its input file cannot be deleted there".to_owned(),
                None => "it is not in the provider's list".to_owned(),
            };
            self.problem(
                no,
                format!(
                    "{} may or may not have taken a batch of {items} requests {minutes} min ago \
                     ({why}); it is held, so that nothing is paid twice. To send it again all the \
                     same: batchwright config set batch.on_unknown resubmit",
                    account.provider
                ),
            );
        }
        let decided = doubt.confirmed || doubt.looks >= LOOKS;
        let wait = match decided && !doubt.held {
            true => Duration::ZERO,
            false => settings.look(doubt.held),
        };
        self.wait(no, wait);
        self.save(no);
    }

    /// Deletes the input file, so that a creation under way comes to nothing.
    pub(in crate::queue::batch) fn fence(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some((_, file)) = self.file_of(no) else {
            return self.give_up(no);
        };
        let reconcile_wait = self.post.settings.read().reconcile_wait;
        let discarded = client.discard(&file, self.ctx);
        let Some(doubt) = self.record(no).and_then(|record| record.doubt.as_mut()) else {
            return;
        };
        match discarded {
            Ok(()) => {
                doubt.fenced = true;
                if let Some(record) = self.record(no) {
                    record.failures = 0;
                }
                // It may have come into being just before, and a list that lags shows it later.
                self.wait(no, reconcile_wait);
                self.save(no);
            }
            Err(error) => {
                // It may have shown up meanwhile: before the next try the list is read again.
                doubt.looks = LOOKS - 1;
                if error.is_rejected() {
                    doubt.refusals = doubt.refusals.saturating_add(1);
                }
                if let Some(record) = self.record(no) {
                    record.failures += 1;
                }
                self.again(no, &error);
            }
        }
    }

    /// The batch does not exist, or is not wanted any more: its jobs go back.
    pub(in crate::queue::batch) fn give_up(&mut self, no: BatchNo) {
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let (doubt, items) = (open.record.doubt, open.record.intent.items);
        let stopped = open.batch.is_stopped;
        let file = self.file_of(no).filter(|_| doubt.is_none());
        if !self.close(no) {
            return;
        }
        // Nothing was created from it.
        self.drop_file(file);
        match doubt {
            Some(doubt) if !doubt.fenced && !stopped => {
                let twice = &self.context.outlook.possibly_paid_twice;
                twice.fetch_add(items, Ordering::SeqCst);
                log::warn!("{items} requests are sent again, and may be paid twice");
            }
            Some(_) => log::info!("a batch of {items} requests was not created"),
            None => {}
        }
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
