//! Slow work: writing, uploading and downloading the contents of batches. It runs on separate threads, so that a slow
//! connection delays nothing else.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::base::thread::spawn_scoped;
use crate::base::{Context, Error, ErrorKind, Sent};
use crate::llm::batch::{BatchClient, BatchLimits, BatchStage};
use crate::queue::store::BatchNo;

use super::collect::{call_each, collect, fail_named, unanswered};
use super::context::BatchContext;
use super::machine::{Event, ItemEnds, ItemsSettled, Record, Results};
use super::write_input::write_input;

/// Number of transfer threads.
const THREADS: usize = 2;

/// A transfer.
pub(crate) enum Task {
    /// Fill a batch and write its input.
    WriteInput(BatchLimits),
    /// Perform this step of its submission.
    Submit(BatchStage),
    /// Search for it in the provider's list; it has none of these ids.
    ReadList(BatchStage, HashSet<String>),
    /// Fetch and store its results.
    Collect(String, Results),
    /// Settle jobs of it.
    SettleItems(ItemEnds),
}

impl Task {
    /// The event if this fails.
    fn failed(&self) -> fn(Error) -> Event {
        match self {
            Self::WriteInput(_) => |error| Event::Written(Err(error)),
            Self::Submit(_) => |error| Event::Submitted(Err(error)),
            Self::ReadList(..) => |error| Event::Listed(Err(error)),
            Self::Collect(..) => |error| Event::Collected(Err(error)),
            Self::SettleItems(_) => |error| Event::Settled(Err(error)),
        }
    }
}

struct Order {
    no: BatchNo,
    record: Record,
    client: Arc<dyn BatchClient>,
    task: Task,
}

/// The outcome of a transfer.
type Answer = (BatchNo, Event);

/// The transfer threads, for the poller.
pub(crate) struct Transfers {
    orders: Orders,
    pub done: Receiver<Answer>,
}

enum Orders {
    Threads(Sender<Order>),
    /// Executed immediately, by the caller.
    #[cfg(test)]
    Inline(Arc<BatchContext>, Context, Sender<Answer>),
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
                for order in taken {
                    let (no, failed) = (order.no, order.task.failed());
                    // A host's client may panic; then its batch waits, and the others continue.
                    let work = || carry_out(&context, order, &ctx);
                    let done = catch_unwind(AssertUnwindSafe(work));
                    let done = done.unwrap_or_else(|_| {
                        let why = "the client of the Batch API panicked";
                        // Its progress is unknown.
                        failed(Error::new(ErrorKind::Panic, why).with_sent(Sent::Maybe))
                    });
                    if report.send((no, done)).is_err() {
                        return;
                    }
                }
            };
            spawn_scoped(scope, format!("batchwright-transfer-{n}"), run)?;
        }
        Ok(Self {
            orders: Orders::Threads(orders),
            done,
        })
    }

    #[cfg(test)]
    pub(crate) fn inline(context: &Arc<BatchContext>, ctx: &Context) -> Self {
        let (report, done) = unbounded();
        Self {
            orders: Orders::Inline(context.clone(), ctx.clone(), report),
            done,
        }
    }

    pub(crate) fn order(
        &self,
        no: BatchNo,
        record: &Record,
        client: &Arc<dyn BatchClient>,
        task: Task,
    ) {
        let order = Order {
            no,
            record: record.clone(),
            client: client.clone(),
            task,
        };
        match &self.orders {
            // The threads end only after this end of the channel is dropped.
            Orders::Threads(orders) => {
                let _ = orders.send(order);
            }
            #[cfg(test)]
            Orders::Inline(context, ctx, report) => {
                let _ = report.send((no, carry_out(context, order, ctx)));
            }
        }
    }
}

fn carry_out(context: &BatchContext, order: Order, ctx: &Context) -> Event {
    let Order {
        no,
        record,
        client,
        task,
    } = order;
    if ctx.is_cancelled() {
        return task.failed()(Error::cancelled().with_sent(Sent::No));
    }
    match task {
        Task::WriteInput(limits) => {
            Event::Written(write_input(context, no, &record, &client, limits, ctx))
        }
        Task::Submit(stage) => {
            Event::Submitted(context.advance(&*client, &record.intent, &stage, ctx))
        }
        Task::ReadList(stage, known) => {
            Event::Listed(client.find(&record.intent, &stage, &known, ctx))
        }
        Task::Collect(id, results) => {
            let collected = collect(context, no, &record, &id, &results, &client, ctx);
            if let Ok(collected) = &collected
                && collected.withheld.is_none()
                && !collected.foreign
            {
                tidy(context, &record, &*client, ctx);
                let label = &record.intent.label;
                context.spool.drop_results(label, results.files.len());
            }
            Event::Collected(collected)
        }
        Task::SettleItems(ends) => {
            let settled = settle_items(context, no, &record, ends, ctx);
            if let Ok(ItemsSettled::Jobs(_)) = &settled {
                tidy(context, &record, &*client, ctx);
            }
            Event::Settled(settled)
        }
    }
}

fn settle_items(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    ends: ItemEnds,
    ctx: &Context,
) -> Result<ItemsSettled, Error> {
    let names = match ends {
        ItemEnds::All(error) => {
            return unanswered(context, no, record, &error, ctx).map(ItemsSettled::Jobs);
        }
        ItemEnds::Called(_) => {
            return call_each(context, no, record, ctx).map(ItemsSettled::Jobs);
        }
        ItemEnds::Named(names) => names,
    };
    // If a job of the batch is already settled, its line numbers no longer match the sent input.
    let whole = context.store.batches(None)?;
    let whole = whole.iter().find(|batch| batch.no == no);
    if whole.is_none_or(|batch| batch.jobs != record.intent.items) {
        return Ok(ItemsSettled::Jobs(0));
    }
    let hit = fail_named(context, no, record, &names, ctx)?;
    Ok(match (hit, names.into_iter().next()) {
        (0, Some((_, error))) => ItemsSettled::NoSuchRequest(error),
        _ => ItemsSettled::Jobs(hit),
    })
}

/// Deletes the input file of a finished batch, because providers limit the total size of files.
fn tidy(context: &BatchContext, record: &Record, client: &dyn BatchClient, ctx: &Context) {
    context.spool.drop_input(&record.intent.label);
    if let Some(file) = record.file()
        && let Err(error) = client.discard(file, ctx)
    {
        log::debug!("the input file {file} stays at the provider: {error}");
    }
}
