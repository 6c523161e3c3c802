//! Processes of runs: their results belong to the output of a run, which its own command collects.

use batchwright::queue::{ProcessInfo, ProcessState};
use batchwright::{JobQueue, ProcessId};

/// The command that collects the results of such a process, or a description of it; `None` for a process that belongs
/// to no run.
pub fn collect_command(info: &ProcessInfo) -> Option<String> {
    let output = info.output.as_ref()?;
    let unknown = || format!("the program that made it, with the output {output}");
    Some(info.command.clone().unwrap_or_else(unknown))
}

/// The same for the process of this id.
pub fn collect_command_of(queue: &JobQueue, id: Option<ProcessId>) -> Option<String> {
    collect_command(&queue.process(id?).ok()??.info)
}

/// The `work` command for processes that belong to no run. Processes of runs would be sent with the settings of `work`
/// instead of those of the run.
pub fn work_command(free: &[ProcessId], beside_runs: bool) -> String {
    let named = |ids: &[ProcessId]| {
        let ids: Vec<String> = ids.iter().map(ProcessId::to_string).collect();
        format!("work --processes {}", ids.join(","))
    };
    match free {
        _ if !beside_runs => "work".to_owned(),
        [] | [_, _, _, ..] => "work --processes PROCESS".to_owned(),
        few => named(few),
    }
}

/// The id if there is only one such process, for a command that names it; otherwise a placeholder.
pub fn id_for_command(processes: &[ProcessId]) -> String {
    match processes {
        [only] => only.to_string(),
        _ => "PROCESS".to_owned(),
    }
}

/// A line saying that it belongs to a run, and the command that collects its results.
pub fn line(process: &ProcessState) -> Option<String> {
    let info = &process.info;
    let (id, output) = (process.process_id, info.output.as_ref()?);
    let input = info.name.as_ref().or(info.input.as_ref());
    let input = input.map_or_else(String::new, |input| format!(" of {input}"));
    let command = collect_command(info)?;
    Some(format!(
        "process {id} belongs to a run{input}: its results go to {output}, by:\n  {command}"
    ))
}

/// A line saying that a batch of the server collects the results of the process.
pub fn collected_by_server(process: &ProcessState) -> Option<String> {
    let (id, collector) = (process.process_id, process.info.collector.as_ref()?);
    Some(format!(
        "process {id} belongs to {collector} of batchwright serve, which collects its results; nothing was deleted"
    ))
}
