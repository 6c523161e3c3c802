//! The budget of a run, whose spending is recorded beside its output.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use batchwright::{Amount, Budget, Error, Request, Route, Summary, Usd};
use serde_json::{Value, json};

use crate::args::run::RunArgs;
use crate::exit::{About, Refusal};
use crate::format::count;

/// Whether the output does not exist yet, before the run creates it: then nothing was spent on it.
pub fn starts_from_zero(args: &RunArgs) -> bool {
    !args.output.as_ref().is_some_and(|output| output.exists())
}

/// The budget of a run.
pub struct RunBudget {
    pub budget: Budget,
    /// What was spent before this run.
    before: Amount,
}

impl RunBudget {
    /// The budget that the arguments set.
    ///
    /// # Errors
    /// If the run makes no calls of its own, or if the record beside the output cannot be used.
    pub fn open(
        args: &RunArgs,
        makes_calls: bool,
        from_zero: bool,
    ) -> Result<Option<Self>, Refusal> {
        let budget = match (args.budget, args.budget_tokens) {
            (Some(usd), _) => Budget::usd(usd),
            (None, Some(tokens)) => Budget::tokens(tokens),
            (None, None) => return Ok(None),
        };
        if !makes_calls {
            return Err(Refusal::usage(
                "a budget limits the calls of a run, and no batches or jobs of a queue yet: use --strategy sync or flex",
            ));
        }
        let budget = match record(args.output.as_deref()) {
            Some(file) => recorded(&budget, &file, from_zero)?,
            None => budget,
        };
        let before = budget.spent();
        Ok(Some(Self { budget, before }))
    }

    /// `$3.2000 of $12.5000 spent`.
    pub fn line(&self) -> String {
        format!("{} of {} spent", self.budget.spent(), self.budget.limit())
    }

    /// For the summary in JSON.
    pub fn json(&self) -> Value {
        let number = |amount| match amount {
            Amount::Usd(usd) => json!(usd),
            Amount::Tokens(tokens) => json!(tokens),
            _ => Value::Null,
        };
        let unit = match self.budget.limit() {
            Amount::Tokens(_) => "tokens",
            _ => "usd",
        };
        json!({"unit": unit, "limit": number(self.budget.limit()), "spent": number(self.budget.spent())})
    }

    /// The cost of the remaining items, at the mean cost of those that this run completed; and the budget that is enough
    /// for them, as a value of the flag. `None` if this run completed none.
    pub fn remaining(&self, summary: &Summary) -> Option<(String, String)> {
        let items = (summary.completed - summary.completed_before) as f64;
        let (spent, before) = (self.budget.spent(), self.before);
        if items == 0.0 {
            return None;
        }
        let pending = summary.pending as f64;
        match (spent, before) {
            (Amount::Usd(spent), Amount::Usd(before)) => {
                let rest = (spent.dollars() - before.dollars()) / items * pending;
                let enough = spent.dollars() + MORE * rest;
                let shown = Usd::from_dollars(rest)?.to_string();
                Some((shown, format!("{:.2}", (enough * 100.0).ceil() / 100.0)))
            }
            (Amount::Tokens(spent), Amount::Tokens(before)) => {
                let rest = (spent - before) as f64 / items * pending;
                let enough = spent as f64 + MORE * rest;
                Some((
                    format!("{} tokens", count(rest.ceil() as u64)),
                    format!("{:.0}", enough.ceil()),
                ))
            }
            _ => None,
        }
    }
}

/// The recommended budget is larger than the estimate by this factor, because items differ.
const MORE: f64 = 1.2;

fn recorded(budget: &Budget, file: &Path, from_zero: bool) -> Result<Budget, Refusal> {
    let removed = if from_zero {
        fs::remove_file(file)
    } else {
        Ok(())
    };
    let removed = removed.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::from(error)),
    });
    let budget = removed.and_then(|()| budget.recorded_in(file));
    budget.map_err(|error| Refusal::usage(error.message()).about(About::Output))
}

/// The file beside the output; none for a stream.
fn record(output: Option<&Path>) -> Option<PathBuf> {
    let output = output.filter(|path| *path != Path::new("-"))?;
    let is_stream = fs::metadata(output).is_ok_and(|found| !found.is_file());
    let mut name = output.file_name().filter(|_| !is_stream)?.to_owned();
    name.push(".budget");
    Some(output.with_file_name(name))
}

/// Refuses a run whose calls have no upper bound.
pub fn check(args: &RunArgs, route: &Route<'_>) -> Result<(), Refusal> {
    let mut request = Request::new("");
    request.params.max_tokens = args.prompt.max_tokens;
    let checked = route.check_budget(&request);
    checked.map_err(|error| Refusal::usage(error.message()))
}
