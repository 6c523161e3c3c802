//! `batchwright ledger`: what was billed, when, by which provider and for which run.

use batchwright::provider::{ChargeSum, LedgerColumn, LedgerRow};
use batchwright::{Ledger, Usd};
use serde_json::json;

use crate::args::ledger::LedgerArgs;
use crate::columns::{self, Column, Kind};
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::format::{count, number_of};
use crate::ledger::{Found, cost_of_lines, gather, name_of};
use crate::sanitize::harmless;
use crate::stdout;
use crate::table::width;

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
    if rows.is_empty() {
        return "nothing was paid\n".to_owned();
    }
    let room = width().unwrap_or(usize::MAX);
    let notes: Vec<String> = rows.iter().map(|row| note(&row.sum)).collect();
    columns::lines(&columns::fitted(columns_of(rows), room), &notes, room) + &summed(total)
}

/// The first group and the cost always stay; of the others, the number of cached tokens is omitted first.
fn columns_of(rows: &[LedgerRow]) -> Vec<Column> {
    let groups = rows.first().map_or(0, |row| row.group.len());
    let group = |at: usize| {
        let cells = rows.iter().map(|row| match &row.group[at].1 {
            Some(value) => harmless(value),
            None => "-".to_owned(),
        });
        Column {
            head: rows[0].group[at].0.name(),
            cells: cells.collect(),
            kind: match at {
                0 => Kind::Key,
                // The groups make rows distinct, so they are shortened before numbers are omitted.
                _ => Kind::Text { rank: 1 },
            },
        }
    };
    let number = |head, rank, cell: &dyn Fn(&ChargeSum) -> String| Column {
        head,
        cells: rows.iter().map(|row| cell(&row.sum)).collect(),
        kind: Kind::Number { rank },
    };
    let sums = [
        number("calls", 2, &|sum| count(sum.calls)),
        number("input", 3, &|sum| count(sum.input_tokens)),
        number("cached", 4, &|sum| count(sum.cached_input_tokens)),
        number("output", 3, &|sum| count(sum.output_tokens)),
        number("cost", 0, &|sum| match sum.known_cost() {
            Some(cost) => cost.to_string(),
            None => "unknown".to_owned(),
        }),
    ];
    (0..groups).map(group).chain(sums).collect()
}

fn note(sum: &ChargeSum) -> String {
    match sum.unpriced {
        0 => String::new(),
        _ if sum.known_cost().is_none() => String::new(),
        calls => format!("and {}", without_price(calls)),
    }
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
    fn a_narrow_table_keeps_the_groups_and_the_cost() {
        let row = |model: &str| {
            let mut row = LedgerRow::of(ChargeSum::default());
            let group = [
                (LedgerColumn::Day, "2026-11-27"),
                (LedgerColumn::Model, model),
                (LedgerColumn::Tier, "standard"),
                (LedgerColumn::Key, "0123456789abcdef"),
            ];
            row.group = group
                .map(|(column, value)| (column, Some(value.to_owned())))
                .to_vec();
            row
        };
        let mut rows = [
            row("gpt-4o-mini-2024-07-18"),
            row("a-model-with-a-very-long-name"),
        ];
        (rows[0].sum.calls, rows[0].sum.input_tokens) = (1_234, 5_678_901);
        (rows[0].sum.cached_input_tokens, rows[0].sum.output_tokens) = (1_000_000, 345_678);
        for room in [60, 80] {
            let text = columns::lines(
                &columns::fitted(columns_of(&rows), room),
                &[String::new(), String::new()],
                room,
            );
            assert!(
                text.lines().all(|line| line.chars().count() <= room),
                "{text}"
            );
            for word in ["2026-11-27", "gpt-4o", "a-model", "standard", "cost"] {
                assert!(text.contains(word), "{word} in {text}");
            }
            assert_eq!(text.contains("5,678,901"), room == 80, "{text}");
        }
    }

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
