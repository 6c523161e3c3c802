//! What takes long: writing, sending and fetching the bodies of batches, on threads of its own, so that
//! a slow link delays nobody else.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, Scope};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::llm::batch::{BatchClient, BatchLimits, BatchStage, ListedBatches};
use crate::queue::store::BatchNo;

use super::collect::{Collected, collect, fail_lines, unanswered};
use super::context::BatchContext;
use super::machine::record::{Ended, Record};
use super::write_input::{Packed, pack};

/// Threads for transfers.
const THREADS: usize = 2;

/// What is to be done.
pub(crate) enum Task {
    /// Fill a batch and write its input.
    Pack(BatchLimits),
    /// Send its input.
    Send(BatchStage),
    /// Look for it in the provider's list, where it is none of these.
    Find(BatchStage, HashSet<String>),
    /// Fetch and store its results, of so many bytes for a request at most.
    Collect(Ended, u64),
    /// End the jobs of these lines of its input.
    FailLines(Vec<(u64, Error)>),
    /// End all of its jobs alike.
    FailAll(Error),
}

/// What came of it.
pub(crate) enum Done {
    Packed(Packed),
    Sent(BatchStage),
    Looked(ListedBatches),
    Collected(Collected),
    /// Jobs were given their ends; these many.
    Failed(u64),
    /// The lines that it was refused for are none of its.
    NoSuchLine(Error),
}

struct Order {
    no: BatchNo,
    record: Record,
    client: Arc<dyn BatchClient>,
    task: Task,
}

/// What the transfer of a batch came to.
type Landed = (BatchNo, Result<Done, Error>);

/// The threads, as the poller sees them.
pub(crate) struct Transfers {
    orders: Orders,
    pub done: Receiver<Landed>,
}

enum Orders {
    Threads(Sender<Order>),
    /// Carried out at once, by whoever gives the order.
    #[cfg(test)]
    Inline(Arc<BatchContext>, Context, Sender<Landed>),
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
                    let no = order.no;
                    // A client of the host's may panic; its batch waits then, and the others go on.
                    let work = || carry_out(&context, order, &ctx);
                    let done = catch_unwind(AssertUnwindSafe(work));
                    let done = done.unwrap_or_else(|_| {
                        let why = "the client of the Batch API panicked";
                        // Nobody knows how far it had come.
                        Err(Error::new(ErrorKind::Panic, why).with_sent(Sent::Maybe))
                    });
                    if report.send((no, done)).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new()
                .name(format!("batchwright-transfer-{n}"))
                .spawn_scoped(scope, run)
                .map_err(|error| {
                    let why = format!("cannot start a thread: {error}");
                    Error::new(ErrorKind::Invalid, why)
                })?;
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
            // The threads end only after this end of the channel is gone.
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

fn carry_out(context: &BatchContext, order: Order, ctx: &Context) -> Result<Done, Error> {
    let Order {
        no,
        record,
        client,
        task,
    } = order;
    if ctx.is_cancelled() {
        return Err(Error::cancelled().with_sent(Sent::No));
    }
    let label = &record.intent.label;
    match task {
        Task::Pack(limits) => pack(context, no, &record, &client, limits, ctx).map(Done::Packed),
        Task::Send(stage) => context
            .advance(&*client, &record.intent, &stage, ctx)
            .map(Done::Sent),
        Task::Find(stage, known) => client
            .find(&record.intent, &stage, &known, ctx)
            .map(Done::Looked),
        Task::Collect(ended, most) => {
            let collected = collect(context, no, &record, (&ended, most), &client, ctx)?;
            if collected.withheld.is_none() && !collected.foreign {
                tidy(context, &record, &*client, ctx);
                context.spool.drop_results(label, ended.results.len());
            }
            Ok(Done::Collected(collected))
        }
        Task::FailLines(lines) => {
            // Of a batch whose line has its end already the lines are no longer those that were sent.
            let whole = context.store.batches(None)?;
            let whole = whole.iter().find(|batch| batch.no == no);
            if whole.is_none_or(|batch| batch.jobs != record.intent.items) {
                return Ok(Done::Failed(0));
            }
            let hit = fail_lines(context, no, &record, &lines)?;
            if let (0, Some((_, error))) = (hit, lines.into_iter().next()) {
                return Ok(Done::NoSuchLine(error));
            }
            tidy(context, &record, &*client, ctx);
            Ok(Done::Failed(hit))
        }
        Task::FailAll(error) => {
            let hit = unanswered(context, no, &record, &error, ctx)?;
            tidy(context, &record, &*client, ctx);
            Ok(Done::Failed(hit))
        }
    }
}

/// Deletes the input file of a batch that is over; providers keep only so much.
fn tidy(context: &BatchContext, record: &Record, client: &dyn BatchClient, ctx: &Context) {
    context.spool.drop_input(&record.intent.label);
    if let Some(file) = record.file()
        && let Err(error) = client.discard(file, ctx)
    {
        log::debug!("the input file {file} stays at the provider: {error}");
    }
}
