//! Takes over batches whose API key was replaced.

use std::time::Duration;

use batchwright::batch::{BatchAdoption, clients_by_address};
use batchwright::queue::{HealthFinding, Severity};
use batchwright::{Context, Error, JobQueue, LlmConfig};

use super::{advised, warning};
use crate::args::shared::DataArgs;
use crate::format::count;
use crate::run_process;

const BATCH: &str = "batch";

/// Takes over batches whose API key is no longer set.
pub fn adopt(
    queue: &JobQueue,
    own: Option<LlmConfig>,
    data: &DataArgs,
) -> Result<Vec<HealthFinding>, Error> {
    let clients = clients_by_address(own, Duration::from_secs(60));
    let adopted = queue.adopt_batches(clients, &Context::new())?;
    let finding = |adoption: BatchAdoption| {
        let batch = adoption.batch;
        let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
        let (provider, total) = (&batch.provider, count(batch.total));
        let batch_is = |what: &str| format!("{name} at {provider}, {total} requests: {what}");
        match adoption.refused {
            None => {
                let seen = batch_is("adopted with the current key");
                let back = run_process::collect_command_of(queue, batch.process_id);
                let collect = back.unwrap_or_else(|| data.command("work --strategy batch"));
                let advice = format!("to collect it: {collect}");
                advised(BATCH, Severity::Good, seen, &advice)
            }
            Some(why) => {
                let seen = batch_is(&format!("not adopted: {why}"));
                let advice = set_that_key(run_process::collect_command_of(queue, batch.process_id));
                warning(BATCH, seen, &advice)
            }
        }
    };
    Ok(adopted.into_iter().map(finding).collect())
}

/// `back`: the command of the run that the batch belongs to.
fn set_that_key(back: Option<String>) -> String {
    let back = back.unwrap_or_else(|| "batchwright work".to_owned());
    format!(
        "set the key that created it, and the provider's base URL if it was not the default, \
         and run: {back}"
    )
}
