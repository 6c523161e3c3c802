//! Batches that cannot end without help.

use batchwright::batch::BatchInfo;
use batchwright::queue::{HealthFinding, ProcessState};

use super::warning;
use crate::args::shared::DataArgs;
use crate::batches;
use crate::format::count;
use crate::run_process;

const BATCH: &str = "batch";

/// `back`: the command of the run that the batch belongs to.
fn set_that_key(back: Option<String>) -> String {
    let back = back.unwrap_or_else(|| "batchwright work".to_owned());
    format!(
        "set the key that created it, and the provider's base URL if it was not the default, \
         and run: {back}"
    )
}

/// A finding for a batch that cannot end without help.
pub fn batch_finding(
    batch: &BatchInfo,
    processes: &[ProcessState],
    data: &DataArgs,
) -> Option<HealthFinding> {
    let of = processes
        .iter()
        .find(|process| Some(process.process_id) == batch.process_id);
    let back = of.and_then(|process| run_process::collect_command(&process.info));
    let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
    let (provider, total) = (&batch.provider, count(batch.total));
    let batch_is = |what: &str| format!("{name} at {provider}, {total} requests: {what}");
    if batch.state == "held" {
        let why = batch
            .problem
            .as_deref()
            .unwrap_or("it may or may not exist");
        let seen = batch_is(&format!("held; {why}"));
        let advice = "to send it again: batchwright config set batch.on_unknown resubmit; to give it \
                      up: batchwright cancel PROCESS";
        return Some(warning(BATCH, seen, advice));
    }
    if let Some(waiting) = batches::missing_results(batch) {
        let why = batch
            .problem
            .as_deref()
            .unwrap_or("its results are not there");
        let seen = batch_is(&format!("{why}; {waiting}"));
        let id = batch.process_id.map(|id| id.to_string());
        let id = id.as_deref().unwrap_or("PROCESS");
        let advice = batches::missing_advice(id, back.as_deref(), |words| data.command(words));
        return Some(warning(BATCH, seen, &advice));
    }
    if batches::lacks_its_key(batch) {
        let url = &batch.base_url;
        let seen = batch_is(&format!(
            "the key that created it is not set, or not for {url}"
        ));
        return Some(warning(BATCH, seen, &set_that_key(back)));
    }
    None
}
