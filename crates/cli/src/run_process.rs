//! Processes of runs: their results belong to the output of a run, which its own command collects.

use batchwright::queue::{ProcessInfo, ProcessState};
use batchwright::{JobQueue, ProcessId};

/// The command that brings the results of such a process to their output, or words for it; `None` where
/// they may go anywhere.
pub fn collect_command(info: &ProcessInfo) -> Option<String> {
    let output = info.output.as_ref()?;
    let unknown = || format!("the program that made it, with the output {output}");
    Some(info.command.clone().unwrap_or_else(unknown))
}

/// The same for the process of this id.
pub fn collect_command_of(queue: &JobQueue, id: Option<ProcessId>) -> Option<String> {
    collect_command(&queue.process(id?).ok()??.info)
}

/// The words for `work` that leave what belongs to runs alone: it would be bought as `work` is set, and
/// not as its run was.
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

/// That it belongs to a run, and how its results come where they belong.
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
