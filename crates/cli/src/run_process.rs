//! Processes of runs: their results belong to the output of a run, which its own command collects.

use batchwright::queue::{ProcessInfo, ProcessState};

/// The command that collects the results of such a process, or a description of it; `None` for a process that belongs
/// to no run.
pub fn collect_command(info: &ProcessInfo) -> Option<String> {
    let output = info.output.as_ref()?;
    let unknown = || format!("the program that made it, with the output {output}");
    Some(info.command.clone().unwrap_or_else(unknown))
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

/// A line saying who collects the results of the process, if users do not.
pub fn collected_elsewhere(process: &ProcessState) -> Option<String> {
    let of_job = process.info.parent.map(|parent| {
        format!(
            "job {} of process {} waits for these results and collects them",
            parent.job_id, parent.process_id
        )
    });
    of_job
        .or_else(|| collected_by_server(process))
        .or_else(|| line(process))
}
