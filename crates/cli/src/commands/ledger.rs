//! `batchwright ledger`: what was billed, when, by which provider and for which run.

use batchwright::provider::{ChargeSum, LedgerColumn, LedgerRow};
use batchwright::{Ledger, Usd};
use serde_json::json;

use crate::args::ledger::LedgerArgs;
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::format::{count, number_of};
use crate::ledger::{Found, cost_of_lines, gather, name_of};
use crate::stdout;
use crate::table::{Table, width};

pub fn execute(args: &LedgerArgs) -> Exit {
    args.say.start_log();
    let shown = show(args);
    shown.unwrap_or_else(|refusal| refusal.end(args.json, args.say.quiet))
}

fn show(args: &LedgerArgs) -> Result<Exit, Refusal> {
    let Found { ledger, unreadable } = gather(&args.data)?;
    let [since, until] = args.days();
    let mut ledger = ledger.between(since, until);
    if let Some(output) = &args.output {
        let run = Some(name_of(output));
        let own: Ledger = ledger
            .charges()
            .filter(|charge| charge.run == run)
            .collect();
        if own == Ledger::new() {
            let why = format!(
                "the ledger has no calls of a run with the output {}",
                output.display()
            );
            return Err(Refusal::usage(why).about(About::Output));
        }
        ledger = own;
    }
    // The output contains lines of all days.
    let output = args
        .output
        .as_deref()
        .filter(|_| [since, until] == [None, None]);
    let in_lines = output.and_then(|output| cost_of_lines(output, u64::MAX).ok().flatten());
    let rows = ledger.by(&args.by);
    let total = ledger.total();
    let text = if args.json {
        let places = unreadable.iter().map(|path| path.to_string_lossy());
        let whole = json!({
            "since": since,
            "until": until,
            "rows": rows,
            "total": LedgerRow::of(total),
            "lines_cost_usd": in_lines,
            "unreadable": places.collect::<Vec<_>>(),
        });
        crate::sanitize::json(&whole) + "\n"
    } else if args.csv {
        csv(&rows, &args.by)
    } else {
        table(&rows, &total)
            + &in_lines.map_or_else(String::new, |lines| balance(lines, total.cost_usd))
    };
    for path in &unreadable {
        display::error(&format!(
            "the sums are incomplete: {} cannot be read",
            path.display()
        ));
    }
    let exit = if unreadable.is_empty() {
        Exit::Success
    } else {
        Exit::CouldNotRun
    };
    Ok(stdout::print(&text, exit))
}

fn table(rows: &[LedgerRow], total: &ChargeSum) -> String {
    let Some(first) = rows.first() else {
        return "nothing was paid\n".to_owned();
    };
    let mut table = Table::default();
    let names = first.group.iter().map(|(column, _)| column.name());
    let sums = ["calls", "input", "cached", "output", "cost"];
    table.cells(names.chain(sums), "");
    for row in rows {
        let group = row.group.iter().map(|(_, value)| match value {
            Some(value) => value.clone(),
            None => "-".to_owned(),
        });
        let sum = &row.sum;
        let cost = match sum.known_cost() {
            Some(cost) => cost.to_string(),
            None => "unknown".to_owned(),
        };
        let numbers = [
            sum.calls,
            sum.input_tokens,
            sum.cached_input_tokens,
            sum.output_tokens,
        ];
        let cells: Vec<String> = group.chain(numbers.map(count)).chain([cost]).collect();
        let note = match sum.unpriced {
            0 => String::new(),
            _ if sum.known_cost().is_none() => String::new(),
            calls => format!("and {}", without_price(calls)),
        };
        table.cells(cells.iter().map(String::as_str), &note);
    }
    table.lines(width()) + &summed(total)
}

fn without_price(calls: u64) -> String {
    format!(
        "{} without a known price",
        number_of(calls, "call", "calls")
    )
}

fn summed(total: &ChargeSum) -> String {
    let priced = total.calls.saturating_sub(total.unpriced);
    let mut parts = Vec::new();
    if priced > 0 || total.calls == 0 {
        parts.push(format!(
            "{} for {}",
            total.cost_usd,
            number_of(priced, "call", "calls")
        ));
    }
    if total.unpriced > 0 {
        parts.push(without_price(total.unpriced));
    }
    format!("total: {}\n", parts.join(", and "))
}

/// How the lines of an output and its ledger differ.
fn balance(lines: Usd, total: Usd) -> String {
    let rest = total.saturating_sub(lines);
    if lines > total {
        let lacking = lines.saturating_sub(total);
        return format!(
            "its result lines cost {lines}: the ledger lacks {lacking}, because lines were copied from another output, or \
             another data folder was used\n"
        );
    }
    format!("its result lines cost {lines}; calls without a line cost {rest}\n")
}

/// An amount in dollars with all of its digits.
fn exact(amount: Usd) -> String {
    let (dollars, rest) = (
        amount.picos() / 1_000_000_000_000,
        amount.picos() % 1_000_000_000_000,
    );
    let text = format!("{dollars}.{rest:012}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn csv(rows: &[LedgerRow], by: &[LedgerColumn]) -> String {
    let sums = [
        "calls",
        "unpriced",
        "input_tokens",
        "cached_input_tokens",
        "output_tokens",
        "cost_usd",
    ];
    let columns = Ledger::columns(by);
    let head = columns.iter().map(|column| column.name()).chain(sums);
    let mut text = line(head.map(str::to_owned));
    for row in rows {
        let group = row.group.iter();
        let group = group.map(|(_, value)| value.clone().unwrap_or_default());
        let sum = &row.sum;
        let numbers = [
            sum.calls,
            sum.unpriced,
            sum.input_tokens,
            sum.cached_input_tokens,
            sum.output_tokens,
        ];
        let numbers = numbers.into_iter().map(|number| number.to_string());
        let cost = sum.known_cost().map(exact).unwrap_or_default();
        text += &line(group.chain(numbers).chain([cost]));
    }
    text
}

/// A line of CSV (RFC 4180).
fn line(cells: impl Iterator<Item = String>) -> String {
    let quoted = cells.map(|cell| {
        if cell.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_in_csv_have_all_their_digits() {
        for (picos, text) in [
            (0, "0"),
            (1, "0.000000000001"),
            (1_500_000_000_000, "1.5"),
            (20_000_000_000_000, "20"),
        ] {
            assert_eq!(exact(Usd::from_picos(picos)), text);
        }
        let cells = ["a", "b,\"c\"", ""].map(str::to_owned);
        assert_eq!(line(cells.into_iter()), "a,\"b,\"\"c\"\"\",\n");
    }
}
