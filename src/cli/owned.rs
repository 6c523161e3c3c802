//! What is said of a process whose results belong to the output of a run, wherever it shows.

use batchwright::{ProcessInfo, ProcessState};

/// The command that brings the results of such a process to their output, or words for it; `None` where
/// they may go anywhere.
pub fn way_back(info: &ProcessInfo) -> Option<String> {
    let output = info.output.as_ref()?;
    let unknown = || format!("the program that made it, with the output {output}");
    Some(info.command.clone().unwrap_or_else(unknown))
}

/// That it belongs to a run, and how its results come where they belong.
pub fn line(process: &ProcessState) -> Option<String> {
    let info = &process.info;
    let (id, output) = (process.process_id, info.output.as_ref()?);
    let input = info.name.as_ref().or(info.input.as_ref());
    let input = input.map_or_else(String::new, |input| format!(" of {input}"));
    let command = way_back(info)?;
    Some(format!(
        "process {id} belongs to a run{input}: its results go to {output}, by:\n  {command}"
    ))
}
