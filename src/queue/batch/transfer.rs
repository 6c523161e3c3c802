//! Slow work: writing, uploading and downloading the contents of batches. It runs on separate threads, so that a slow
//! connection delays nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Scope;

use crossbeam_channel::{Receiver, unbounded};

use crate::base::thread::spawn_scoped;
use crate::base::{Context, Error, ErrorKind, Sent};
use crate::llm::batch::BatchClient;
use crate::queue::store::BatchNo;

use super::context::BatchContext;
use super::machine::{Event, Record};

/// Number of transfer threads.
const THREADS: usize = 2;

/// A batch whose contents are transferred.
pub(crate) struct Transfer<'a> {
    pub context: &'a BatchContext,
    pub no: BatchNo,
    pub record: &'a Record,
    pub client: &'a Arc<dyn BatchClient>,
    pub ctx: &'a Context,
}

impl Transfer<'_> {
    pub(super) fn label(&self) -> &str {
        &self.record.intent.label
    }

    /// Deletes the input file of a finished batch, because providers limit the total size of files.
    pub(super) fn tidy(&self) {
        self.context.spool.drop_input(self.label());
        if let Some(file) = self.record.file() {
            discard(&**self.client, file, self.ctx);
        }
    }
}

/// Deletes an unneeded input file at the provider. If that fails, the file stays.
pub(super) fn discard(client: &dyn BatchClient, file: &str, ctx: &Context) {
    if let Err(error) = client.discard(file, ctx) {
        log::debug!("the input file {file} stays at the provider: {error}");
    }
}

/// The work for a batch, which ends with an event.
pub(crate) type Order = (BatchNo, Work);

type Work = Box<dyn FnOnce(&BatchContext, &Context) -> Event + Send>;

/// The outcome of a transfer.
type Answer = (BatchNo, Event);

/// The transfer threads, for the poller.
pub(crate) struct Transfers {
    pub orders: Box<dyn Fn(Order) + Send>,
    pub done: Receiver<Answer>,
}

impl Transfers {
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        context: &Arc<BatchContext>,
        ctx: &Context,
    ) -> Result<Self, Error> {
        let (orders, taken) = unbounded::<Order>();
        let (report, done) = unbounded();
        for n in 1..=THREADS {
            let (taken, report, context, ctx) =
                (taken.clone(), report.clone(), context.clone(), ctx.clone());
            let run = move || {
                for (no, work) in taken {
                    if report.send((no, work(&context, &ctx))).is_err() {
                        return;
                    }
                }
            };
            spawn_scoped(scope, format!("batchwright-transfer-{n}"), run)?;
        }
        // The threads end only after this end of the channel is dropped.
        let orders = Box::new(move |order| drop(orders.send(order)));
        Ok(Self { orders, done })
    }

    /// Orders work for a batch, whose outcome is this event.
    pub(crate) fn order<T: 'static>(
        &self,
        no: BatchNo,
        record: &Record,
        client: Arc<dyn BatchClient>,
        event: fn(Result<T, Error>) -> Event,
        work: impl FnOnce(&Transfer<'_>) -> Result<T, Error> + Send + 'static,
    ) {
        let record = record.clone();
        let work = Box::new(move |context: &BatchContext, ctx: &Context| {
            if ctx.is_cancelled() {
                return event(Err(Error::cancelled().with_sent(Sent::No)));
            }
            let (record, client) = (&record, &client);
            let batch = Transfer {
                context,
                no,
                record,
                client,
                ctx,
            };
            event(caught(|| work(&batch)).unwrap_or_else(|| {
                // Its progress is unknown.
                Err(Error::new(ErrorKind::Panic, PANICKED).with_sent(Sent::Maybe))
            }))
        });
        (self.orders)((no, work));
    }
}

pub(super) const PANICKED: &str = "the client of the Batch API panicked";

/// A host's client may panic; then its batch waits, and the others continue.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    #[cfg(test)]
    let done = done.map_err(|cause| {
        if cause.is::<super::tests::fake_provider::Died>() {
            std::panic::resume_unwind(cause);
        }
    });
    done.ok()
}
