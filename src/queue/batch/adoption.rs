//! Adopting batches whose API key is no longer available, once their provider has shown them to the new API key.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::{Context, Error, ProcessId};
use crate::llm::batch::{BatchAccount, BatchClient, ListedBatches};
use crate::queue::host::JobQueue;
use crate::queue::registration::Registration;
use crate::queue::store::StoredBatch;

use super::info::BatchInfo;
use super::machine::{Formed, Reconciling, Record, State, Submitting};

/// The result of an attempt to take over a batch; see [`JobQueue::adopt_batches`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchAdoption {
    /// The batch, as it is now.
    pub batch: BatchInfo,
    /// Why it still waits for the API key that created it; `None` if it was taken over.
    pub refused: Option<String>,
}

impl JobQueue {
    /// Takes over batches without an active worker whose API key is no longer available, for example after it was
    /// replaced. They then belong to the account of the client that `clients` returns, and any worker with this
    /// account collects them.
    ///
    /// `clients` receives the account that created a batch, and returns the client with the current key at the same
    /// provider and address, see [`clients_by_address`](crate::batch::clients_by_address). A batch is taken over if
    /// the provider shows it with this key: by its id or, if its creation got no reply, in the list. A batch that was
    /// certainly not created is submitted again. All others stay unchanged, with the reason. Batches whose own key is
    /// available are skipped, because any worker collects them.
    ///
    /// # Errors
    /// When the queue cannot be read or written; batches taken over before stay taken over.
    pub fn adopt_batches(
        &self,
        clients: impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>>,
        ctx: &Context,
    ) -> Result<Vec<BatchAdoption>, Error> {
        let (store, clock) = (&self.store, &self.clock);
        let registration = Registration::new(store.clone(), clock.clone())?;
        let all = store.batches(None)?;
        let mut done = Vec::new();
        for batch in all.iter().filter(|batch| batch.worker.is_none()) {
            let Some(record) = Record::read(batch) else {
                continue;
            };
            let client = clients(&record.account);
            let there = |client: &Arc<dyn BatchClient>| {
                client.account().is_at_the_same_address(&record.account)
            };
            let client = client.filter(there);
            let is_here = |client: &Arc<dyn BatchClient>| client.account() == record.account;
            // A batch that was not sent belongs to no account.
            if record.is_unsent() || client.as_ref().is_some_and(is_here) {
                continue;
            }
            let adoption = match client {
                Some(client) => registration.adopt(batch, &*client, &all, ctx)?,
                None => Some(BatchAdoption {
                    batch: BatchInfo::new(batch, clock.wall()),
                    refused: Some(no_key(&record.account)),
                }),
            };
            done.extend(adoption);
        }
        Ok(done)
    }

    /// Closes the batches of a process that were not sent and have no active worker: their jobs wait again, and can
    /// be cancelled.
    ///
    /// # Errors
    /// If the queue cannot be read or written.
    pub(crate) fn dissolve_unsent(&self, process: ProcessId) -> Result<(), Error> {
        let (store, clock) = (&self.store, &self.clock);
        let registration = Registration::new(store.clone(), clock.clone())?;
        let mut unsent = |batch: &StoredBatch| {
            let own = batch.process_id == Some(process);
            own && Record::read(batch).is_some_and(|record| record.is_unsent())
        };
        let worker = registration.worker;
        let batches = store.adopt_batches(worker, &mut unsent, &[process], clock.wall())?;
        for batch in batches {
            store.give_back(worker, batch.no, None, None, clock.wall())?;
            store.close_batch(worker, batch.no, clock.wall())?;
        }
        Ok(())
    }
}

fn no_key(account: &BatchAccount) -> String {
    let BatchAccount {
        provider, base_url, ..
    } = account;
    format!(
        "no key for {provider} at {base_url} is set: set one, and the provider's base URL if it is \
         not the default"
    )
}

impl Registration {
    /// Adopts a batch if its provider shows it; returns `None` if another worker was faster.
    fn adopt(
        &self,
        batch: &StoredBatch,
        client: &dyn BatchClient,
        all: &[StoredBatch],
        ctx: &Context,
    ) -> Result<Option<BatchAdoption>, Error> {
        let mut this = |other: &StoredBatch| other.no == batch.no;
        let wall = self.clock.wall();
        let claimed = self
            .store
            .adopt_batches(self.worker, &mut this, &[], wall)?;
        let Some(mut batch) = claimed.into_iter().next() else {
            return Ok(None);
        };
        let Some(mut record) = Record::read(&batch) else {
            return Ok(None);
        };
        let others = all.iter().filter(|other| other.no != batch.no);
        let ids = others.filter_map(|other| Some(Record::read(other)?.id()?.to_owned()));
        let refused = check_visible(&mut record, client, ids.collect(), ctx).err();
        if refused.is_none() {
            record.account = client.account();
            (record.failures, record.problem, record.due) = (0, None, wall);
            batch.record = record.text();
            self.store
                .save_batch(self.worker, batch.no, &batch.record, wall)?;
        }
        // It becomes free again when this worker unregisters.
        batch.worker = None;
        Ok(Some(BatchAdoption {
            batch: BatchInfo::new(&batch, wall),
            refused,
        }))
    }
}

/// Checks that the provider shows a batch to this client, or that the batch does not exist. Otherwise returns why the
/// batch stays with its account.
fn check_visible(
    record: &mut Record,
    client: &dyn BatchClient,
    mut others: HashSet<String>,
    ctx: &Context,
) -> Result<(), String> {
    let provider = &record.account.provider;
    let failed = |error: Error| {
        if error.is_not_found() {
            format!(
                "{provider} does not show it with the current key, which may belong to another \
         project or account"
            )
        } else {
            format!("the request to {provider} failed: {error}")
        }
    };
    if let Some(id) = record.id() {
        return client.status(id, ctx).map(drop).map_err(failed);
    }
    let input = match &record.state {
        State::Submitting(submitting)
            if !(submitting.sent && submitting.creates(client.uploads())) =>
        {
            if let Some(file) = submitting.input.file()
                && let Err(error) = client.discard(file, ctx)
            {
                log::debug!("the input file {file} stays at the provider: {error}");
            }
            // It was not created: it starts again with its jobs.
            record.state = State::Formed(Formed {
                lost_files: submitting.lost_files,
            });
            return Ok(());
        }
        State::Submitting(Submitting { input, .. })
        | State::Reconciling(Reconciling { input, .. })
        | State::Held(Reconciling { input, .. }) => input,
        // Its content was rejected and exists nowhere.
        _ => return Ok(()),
    };
    others.extend(record.not_ours().iter().cloned());
    match client.find(&record.intent, &input.stage(), &others, ctx) {
        // The worker that takes it over searches for it again.
        Ok(ListedBatches::One(_) | ListedBatches::Many(_)) => Ok(()),
        Ok(ListedBatches::Undecidable(why)) => Err(why),
        Ok(ListedBatches::None) => Err(format!(
            "the provider may or may not have created it, and {provider} does not list it with the current \
             key, which may belong to another project or account"
        )),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock, Timestamp};
    use crate::base::error::{ErrorKind, Sent};
    use crate::llm::batch::BatchStage;
    use crate::queue::batch::tests::fake_provider::FakeClient;
    use crate::queue::batch::tests::harness::{Harness, ScriptedClient};
    use crate::queue::store::{BatchStore, ClaimStore};

    fn rotated(harness: &Harness) -> Arc<ScriptedClient> {
        let client = Arc::new(ScriptedClient {
            credential: "new",
            ..ScriptedClient::of(&harness.fake)
        });
        harness.control.set_client(Some(client.clone()));
        client
    }

    /// Works with the key of `client` until `holds` is true, and then leaves the batch without an owner.
    fn left_when(harness: &Harness, mut holds: impl FnMut(&StoredBatch) -> bool) -> StoredBatch {
        let worker = harness.worker();
        let mut poller = harness.poller(worker, &[]);
        let the_one = || harness.store.batches(None).unwrap().into_iter().next();
        assert!(harness.until(&mut poller, || the_one().is_some_and(|batch| holds(&batch))));
        drop(poller);
        harness
            .store
            .unregister_worker(worker, harness.clock.wall())
            .unwrap();
        the_one().unwrap()
    }

    fn adopt(harness: &Harness, client: Option<&Arc<ScriptedClient>>) -> Vec<BatchAdoption> {
        let queue = JobQueue::on(harness.store.clone()).clock(harness.clock.clone());
        let find = |_: &BatchAccount| client.map(|client| client.clone() as Arc<dyn BatchClient>);
        queue.adopt_batches(find, &harness.ctx).unwrap()
    }

    fn is_collected(harness: &Harness, process: crate::base::id::ProcessId) {
        let mut poller = harness.poller(harness.worker(), &[]);
        let over = harness.until(&mut poller, || harness.is_over(process));
        assert!(over, "{:?}", harness.store.batches(None).unwrap());
        assert_eq!(harness.counts(process).completed, 2);
        assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
        assert_eq!(harness.fake.lock().creates, 1);
    }

    #[test]
    fn a_batch_is_collected_with_the_new_key_once_its_provider_has_shown_it() {
        let harness = Harness::new();
        let old = harness.client();
        let process = harness.enqueue(&["a", "b"]);
        let left = left_when(&harness, |batch| batch.record.contains("running"));
        assert!(
            adopt(&harness, Some(&old)).is_empty(),
            "its key is available"
        );
        let new = rotated(&harness);
        {
            let mut poller = harness.poller(harness.worker(), &[]);
            for _ in 0..50 {
                harness.turn(&mut poller);
            }
            let trouble = harness.overview.trouble.lock().clone().unwrap();
            assert!(trouble.contains("doctor --adopt-batches"), "{trouble}");
        }

        let not_shown = Error::new(ErrorKind::Invalid, "no such batch").with_status(404);
        let refused = Error::new(ErrorKind::Auth, "bad key").with_status(401);
        for (error, said) in [
            (not_shown, "does not show it with the current key"),
            (refused, "failed: bad key"),
        ] {
            *new.status.lock() = Box::new(move |_| Some(Err(error.clone())));
            let [adoption] = &adopt(&harness, Some(&new))[..] else {
                panic!("one batch waits")
            };
            let why = adoption.refused.as_deref().unwrap();
            assert!(why.contains(said), "{why}");
        }
        let [adoption] = &adopt(&harness, None)[..] else {
            panic!("one batch waits")
        };
        let why = adoption.refused.as_deref().unwrap();
        assert!(why.contains("no key for fake at memory is set"), "{why}");
        let now = harness.store.batches(None).unwrap().remove(0);
        assert_eq!((now.record, now.worker), (left.record, None));

        *new.status.lock() = Box::new(|_| None);
        let [adoption] = &adopt(&harness, Some(&new))[..] else {
            panic!("one batch waits")
        };
        assert_eq!(adoption.refused, None);
        assert_eq!(adoption.batch.account(), new.account());
        assert!(adopt(&harness, Some(&new)).is_empty(), "it is taken over");
        is_collected(&harness, process);
    }

    #[test]
    fn a_batch_that_was_not_created_yet_is_submitted_anew() {
        let harness = Harness::new();
        let old = harness.client();
        let process = harness.enqueue(&["a", "b"]);
        *old.advance.lock() = Box::new(|stage| {
            let busy = Error::new(ErrorKind::RateLimited, "busy").with_status(429);
            matches!(stage, BatchStage::Uploaded { .. }).then_some(Err(busy))
        });
        left_when(&harness, |batch| batch.record.contains("busy"));
        let new = rotated(&harness);
        let [adoption] = &adopt(&harness, Some(&new))[..] else {
            panic!("one batch waits")
        };
        assert_eq!(adoption.refused, None);
        is_collected(&harness, process);
    }

    #[test]
    fn a_batch_that_may_have_been_created_is_taken_over_only_when_it_is_listed() {
        for exists in [true, false] {
            let harness = Harness::new();
            let old = harness.client();
            let process = harness.enqueue(&["a", "b"]);
            let fake = FakeClient(harness.fake.clone());
            *old.advance.lock() = Box::new(move |stage| {
                let BatchStage::Uploaded { .. } = stage else {
                    return None;
                };
                if exists {
                    let intent = crate::llm::batch::BatchIntent {
                        label: "bw-1".to_owned(),
                        model: None,
                        items: 2,
                        bytes: 0,
                        begun: Timestamp(0),
                        endpoint: None,
                    };
                    let mut none = crate::queue::batch::spool::InputFile("/none".into());
                    let created = fake.advance(&intent, stage, &mut none, &Context::new());
                    created.unwrap();
                }
                let lost = Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe);
                Some(Err(lost))
            });
            let doubtful = |batch: &StoredBatch| batch.record.contains("it is not known whether");
            left_when(&harness, doubtful);
            let new = rotated(&harness);
            let [adoption] = &adopt(&harness, Some(&new))[..] else {
                panic!("one batch waits")
            };
            if exists {
                assert_eq!(adoption.refused, None);
                is_collected(&harness, process);
            } else {
                let why = adoption.refused.as_deref().unwrap();
                assert!(why.contains("does not list it"), "{why}");
            }
        }
    }
}
