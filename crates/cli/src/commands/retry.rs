//! `batchwright retry`: requeues the failed and cancelled jobs of a process.

use serde_json::json;

use crate::args::queue::RetryArgs;
use crate::batches;
use crate::exit::{About, Early, Exit, Refusal};
use crate::format::count;
use crate::queue::{failed, report, run_command};

pub fn execute(args: &RetryArgs) -> Result<Exit, Early> {
    let data = &args.data;
    let (queue, process) = data.process(args.process.as_deref())?;
    let id = process.process_id;
    if let Some(limit) = args.budget {
        let set = queue.set_budget(id, limit);
        set.map_err(|error| Refusal::usage(error.message()).about(About::Queue))?;
    }
    let retried = queue.retry_failed(id).map_err(failed)?;
    let mut line = match (retried, args.budget) {
        (0, Some(limit)) => format!("the budget of process {id} is {limit}"),
        (0, None) => "no job has failed or was cancelled: nothing to requeue".to_owned(),
        _ => format!(
            "{} jobs requeued: each is sent and billed again\n  to run them: {}",
            count(retried),
            run_command(&process.info).unwrap_or_else(|| data.command("work"))
        ),
    };
    for batch in queue.batches(Some(id)).map_err(failed)? {
        if let Some(waiting) = batches::missing_results(&batch) {
            let (provider, give_up) = (&batch.provider, data.command(&format!("cancel {id}")));
            line.push_str(&format!(
                "\n  not requeued: {waiting}, at {provider}; to abandon them first: {give_up}"
            ));
        }
    }
    let facts = json!({"process_id": id, "retried": retried});
    Ok(report((line, facts)))
}
