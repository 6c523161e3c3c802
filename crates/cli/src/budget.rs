//! The budget of a run, whose spending is recorded beside its output.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use batchwright::unstable::named_file;
use batchwright::{Budget, Request, Route, Usd};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::run::RunArgs;
use crate::args::values::without_bom;
use crate::exit::{About, Refusal, could_not_run};
use crate::stdout;

/// Whether the output does not exist yet, before the run creates it: then nothing was spent on it.
pub fn starts_from_zero(args: &RunArgs) -> bool {
    !args.output.as_ref().is_some_and(|output| output.exists())
}

/// The budget that the arguments set.
///
/// # Errors
/// If an earlier run without a budget is under way, or if the record beside the output cannot be used.
pub fn open(
    args: &RunArgs,
    is_under_way: bool,
    from_zero: bool,
) -> Result<Option<Budget>, Refusal> {
    let Some(limit) = args.budget else {
        return Ok(None);
    };
    let budget = Budget::usd(limit);
    if is_under_way {
        return Err(Refusal::usage(
            "an earlier run of this output without a budget is under way (OUTPUT.batchwright): finish it without one",
        ));
    }
    let budget = match stdout::regular(args.output.as_deref()) {
        Some(output) => recorded(&budget, &output, from_zero)?,
        None => budget,
    };
    Ok(Some(budget))
}

/// `$3.2000 of $12.5000 spent`. The most that the requests of batches can cost is reserved until these have ended.
pub fn line(budget: &Budget, has_batches: bool) -> String {
    let reserved = if has_batches { " or reserved" } else { "" };
    let (spent, limit) = (budget.spent(), budget.limit());
    let lost = match budget.lost() {
        Usd::ZERO => String::new(),
        lost => format!(", {lost} lost with calls whose reply did not come"),
    };
    format!("{spent} of {limit} spent{reserved}{lost}")
}

/// For the summary in JSON.
pub fn json(budget: &Budget) -> Value {
    json!({"limit": budget.limit(), "spent": budget.spent(), "lost": budget.lost()})
}

/// The budget with its record beside the output.
fn recorded(budget: &Budget, output: &Path, from_zero: bool) -> Result<Budget, Refusal> {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".budget");
    let file = output.with_file_name(name);
    if from_zero {
        // If it stays, what it says counts.
        let _ = fs::remove_file(&file);
    }
    let (spent, calls) = spent_on(output);
    budget.recorded_in(&file, spent, calls).map_err(|error| {
        let refusal = if error.is_storage() {
            could_not_run(error)
        } else {
            Refusal::usage(error.message())
        };
        refusal.about(About::Output)
    })
}

/// What the lines of an output cost, and how many have a cost.
fn spent_on(output: &Path) -> (Usd, u64) {
    #[derive(Default, Deserialize)]
    struct Line {
        #[serde(default)]
        cost_usd: Option<Usd>,
    }
    let lines = named_file::regular(output, true).map(|file| BufReader::new(file).lines());
    let lines = lines.into_iter().flatten().map_while(Result::ok);
    // An incomplete line has no cost yet.
    let lines =
        lines.map(|line| serde_json::from_str::<Line>(without_bom(&line)).unwrap_or_default());
    let costs = lines.filter_map(|line| line.cost_usd);
    costs.fold((Usd::ZERO, 0), |(all, calls), cost| (all + cost, calls + 1))
}

/// Refuses a run whose calls have no upper bound.
pub fn check(args: &RunArgs, route: &Route<'_>) -> Result<(), Refusal> {
    let mut request = Request::new("");
    request.params.max_tokens = args.prompt.max_tokens;
    let checked = route.check_budget(&request);
    checked.map_err(|error| Refusal::usage(error.message()))
}
