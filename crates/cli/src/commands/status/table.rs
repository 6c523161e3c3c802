//! The table of `batchwright status`: complete in a pipe; on a terminal, as much as fits its width.

use std::collections::HashSet;

use batchwright::{ProcessId, Usd};

use super::row::Row;
use crate::columns::{Column, GAP, Kind, fitted, lines, total};
use crate::format::{age, count, span};
use crate::queue::short;
use crate::sanitize::harmless;

/// The table. With `moving` it shows rates; `width` is that of the terminal, if there is one.
pub fn table(rows: &[Row], moving: bool, width: Option<usize>) -> String {
    let remarks: Vec<String> = rows.iter().map(Row::remarks).collect();
    let whole = columns(rows, moving, false);
    let beside = remarks.iter().map(|remark| remark.chars().count()).max();
    let room = width.unwrap_or(usize::MAX);
    let fits = total(&whole) + GAP + beside.unwrap_or(0) <= room;
    let columns = if fits {
        whole
    } else {
        fitted(columns(rows, moving, true), room)
    };
    lines(&columns, &remarks, room)
}

fn columns(rows: &[Row], moving: bool, short_ids: bool) -> Vec<Column> {
    let column = |head, kind, cell: &dyn Fn(&Row) -> String| Column {
        head,
        kind,
        cells: rows.iter().map(|row| harmless(&cell(row))).collect(),
    };
    let number = |head, rank, n: &dyn Fn(&Row) -> u64| {
        column(head, Kind::Number { rank }, &|row: &Row| count(n(row)))
    };
    let text = |head, rank, cell: &dyn Fn(&Row) -> String| column(head, Kind::Text { rank }, cell);
    let ids: Vec<ProcessId> = rows.iter().map(Row::id).collect();
    let short_ids = short_ids && {
        let distinct: HashSet<String> = ids.iter().copied().map(short).collect();
        distinct.len() == ids.len()
    };
    let id = |row: &Row| {
        if short_ids {
            short(row.id())
        } else {
            row.id().to_string()
        }
    };
    let state = |row: &Row| row.process.counts;
    let mut all = vec![
        column("process", Kind::Key, &id),
        text("name", 1, &Row::name),
        text("age", 4, &|row| age(row.age())),
        text("model", 6, &|row| listed(&row.models)),
        text("provider", 7, &|row| listed(&row.providers)),
        text("strategy", 8, &Row::strategy),
        number("total", 2, &|row| state(row).total),
        number("pending", 5, &|row| state(row).pending),
        number("running", 5, &|row| {
            state(row).in_progress + state(row).at_provider
        }),
        number("done", 3, &|row| state(row).completed),
        number("failed", 3, &|row| state(row).failed),
        number("cancelled", 4, &|row| state(row).cancelled),
        column("finished", Kind::Number { rank: 9 }, &Row::percent),
    ];
    if rows
        .iter()
        .any(|row| row.process.spent.cost_usd > Some(Usd::ZERO))
    {
        all.push(column("cost", Kind::Number { rank: 9 }, &Row::cost));
    }
    if moving {
        all.push(column("rate", Kind::Number { rank: 9 }, &|row| {
            format!("{:.1}/s", row.progress.rate)
        }));
        all.push(column("left", Kind::Number { rank: 7 }, &|row| {
            row.progress.eta.map_or_else(|| "-".to_owned(), span)
        }));
    }
    all
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "-".to_owned(),
        names => names.join(","),
    }
}
