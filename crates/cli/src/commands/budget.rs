//! `batchwright budget`: shows and changes the budgets of processes.

use batchwright::queue::{BudgetPause, ProcessBudget, ProcessState};
use batchwright::{Amount, JobQueue, ProcessId};
use serde_json::{Value, json};

use crate::args::budget::BudgetArgs;
use crate::args::shared::DataArgs;
use crate::exit::{About, Exit, Refusal};
use crate::queue::failed;

pub fn execute(args: &BudgetArgs) -> Exit {
    args.common.carry_out(|| budget(args))
}

fn budget(args: &BudgetArgs) -> Result<(String, Value), Refusal> {
    let data = &args.common.data;
    let limit = match (args.usd, args.tokens) {
        (Some(usd), _) => Some(Amount::Usd(usd)),
        (None, Some(tokens)) => Some(Amount::Tokens(tokens)),
        (None, None) => None,
    };
    let Some(named) = &args.process else {
        return all(data);
    };
    let (queue, mut process) = data.process(Some(named))?;
    if let Some(limit) = limit {
        process = change(&queue, process.process_id, limit)?;
    }
    let line = match line(data, &process) {
        Some(line) => line,
        None => format!(
            "process {} has no budget; to set one: {}",
            process.process_id,
            data.command(&format!("budget {} --usd USD", process.process_id))
        ),
    };
    Ok((line, facts(&process)))
}

fn change(queue: &JobQueue, id: ProcessId, limit: Amount) -> Result<ProcessState, Refusal> {
    let set = queue.set_budget(id, limit);
    set.map_err(|error| Refusal::usage(error.message()).about(About::Queue))?;
    let process = queue.process(id).map_err(failed)?;
    process
        .ok_or_else(|| Refusal::usage(format!("process {id} no longer exists")).about(About::Queue))
}

fn all(data: &DataArgs) -> Result<(String, Value), Refusal> {
    let queue = data.existing()?;
    let processes = match &queue {
        Some(queue) => queue.open_processes().map_err(failed)?,
        None => Vec::new(),
    };
    let with = processes.iter().filter(|process| process.budget.is_some());
    let (lines, facts): (Vec<String>, Vec<Value>) = with
        .filter_map(|process| Some((line(data, process)?, facts(process))))
        .unzip();
    let text = if lines.is_empty() {
        "no process has a budget".to_owned()
    } else {
        lines.join("\n")
    };
    Ok((text, Value::Array(facts)))
}

fn facts(process: &ProcessState) -> Value {
    json!({"process_id": process.process_id, "budget": process.budget})
}

/// What a process has spent of its budget, and how it continues if it is paused.
fn line(data: &DataArgs, process: &ProcessState) -> Option<String> {
    let (id, budget) = (process.process_id, process.budget.as_ref()?);
    let mut line = format!(
        "process {id}: {} of {} spent or reserved",
        budget.used, budget.limit
    );
    if let Some(advice) = advice(&|words| data.command(words), id, budget) {
        line.push_str(&format!("\n  {advice}"));
    }
    Some(line)
}

/// Why the budget of a process has paused it, and how it continues.
pub fn advice(
    command: &dyn Fn(&str) -> String,
    id: ProcessId,
    budget: &ProcessBudget,
) -> Option<String> {
    let why = budget.why()?;
    let flag = match budget.limit {
        Amount::Tokens(_) => "--tokens N",
        _ => "--usd USD",
    };
    Some(match &budget.pause {
        Some(BudgetPause::Unbounded(_)) => format!(
            "paused: {why}. When that is set: {}",
            command(&format!("budget {id} {}", same(budget.limit)))
        ),
        _ => format!(
            "paused: {why}; to continue with a higher budget: {}",
            command(&format!("budget {id} {flag}"))
        ),
    })
}

/// The flag for the present limit, which resumes the process.
fn same(limit: Amount) -> String {
    match limit {
        Amount::Tokens(tokens) => format!("--tokens {tokens}"),
        Amount::Usd(usd) => format!("--usd {}", usd.dollars()),
        _ => String::new(),
    }
}
