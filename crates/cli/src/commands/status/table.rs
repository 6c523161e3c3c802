//! The table of `batchwright status`: complete in a pipe; on a terminal, as much as fits its width.

use std::collections::HashSet;

use batchwright::{ProcessId, Usd};

use super::row::Row;
use crate::format::{age, count, span};
use crate::queue::short;
use crate::sanitize::{harmless, shortened};

/// Minimum width of a shortened name, model or provider.
const LEAST: usize = 8;
const GAP: usize = 2;

/// A column: its header, its cells, and how it is shortened.
struct Column {
    head: &'static str,
    cells: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Always shown completely.
    Key,
    /// Shortened, and finally omitted, the highest rank first.
    Text { rank: u8 },
    /// Omitted first if it is zero in all rows; otherwise finally too.
    Number { rank: u8 },
}

impl Column {
    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(self.head.len())
    }

    fn says_nothing(&self) -> bool {
        let numbers = matches!(self.kind, Kind::Number { .. });
        numbers && self.cells.iter().all(|cell| cell == "0" || cell == "-")
    }

    fn rank(&self) -> u8 {
        match self.kind {
            Kind::Key => 0,
            Kind::Text { rank } | Kind::Number { rank } => rank,
        }
    }
}

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

fn total(columns: &[Column]) -> usize {
    let widths: usize = columns.iter().map(Column::width).sum();
    widths + GAP * columns.len().saturating_sub(1)
}

/// Shortens columns until they fit: first columns of zeros are omitted, then long texts are cut, then whole columns
/// are omitted.
fn fitted(mut columns: Vec<Column>, room: usize) -> Vec<Column> {
    while total(&columns) > room
        && let Some(at) = columns.iter().rposition(Column::says_nothing)
    {
        columns.remove(at);
    }
    while total(&columns) > room {
        let texts = columns.iter_mut();
        let texts = texts.filter(|column| matches!(column.kind, Kind::Text { .. }));
        let widest = texts.max_by_key(|column| column.width());
        if let Some(column) = widest.filter(|column| column.width() > LEAST.max(column.head.len()))
        {
            let most = column.width() - 2;
            column
                .cells
                .iter_mut()
                .for_each(|cell| *cell = shortened(cell, most));
            continue;
        }
        let last = columns.iter().enumerate();
        match last.max_by_key(|(_, column)| column.rank()) {
            Some((at, column)) if column.rank() > 0 => columns.remove(at),
            _ => break,
        };
    }
    columns
}

/// Numbers are aligned to the right, all others to the left; remarks are at the end, cut if necessary.
fn lines(columns: &[Column], remarks: &[String], room: usize) -> String {
    let mut out = String::new();
    for row in 0..=remarks.len() {
        let mut line = String::new();
        for column in columns {
            let cell = match row {
                0 => column.head,
                row => &column.cells[row - 1],
            };
            let width = column.width();
            line.push_str(&match column.kind {
                Kind::Number { .. } => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            });
            line.push_str(&" ".repeat(GAP));
        }
        if row > 0 {
            let left = room.saturating_sub(line.chars().count());
            match &remarks[row - 1] {
                remark if remark.chars().count() <= left => line.push_str(remark),
                remark if left >= LEAST => line.push_str(&shortened(remark, left - 1)),
                _ => {}
            }
        }
        let line = line.trim_end();
        out.push_str(&if line.chars().count() > room {
            shortened(line, room.saturating_sub(1))
        } else {
            line.to_owned()
        });
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(head: &'static str, kind: Kind, cells: [&str; 2]) -> Column {
        let cells = cells.map(str::to_owned).to_vec();
        Column { head, cells, kind }
    }

    fn some() -> Vec<Column> {
        vec![
            column("process", Kind::Key, ["0123abcd", "abcd0123"]),
            column(
                "name",
                Kind::Text { rank: 1 },
                ["reviews of May and June", "x"],
            ),
            column("model", Kind::Text { rank: 6 }, ["gpt-5-mini", "-"]),
            column("total", Kind::Number { rank: 2 }, ["1,000", "7"]),
            column("failed", Kind::Number { rank: 3 }, ["0", "0"]),
        ]
    }

    #[test]
    fn columns_are_aligned() {
        let remarks = ["finished".to_owned(), String::new()];
        assert_eq!(
            lines(&some(), &remarks, usize::MAX),
            "process   name                     model       total  failed\n\
             0123abcd  reviews of May and June  gpt-5-mini  1,000       0  finished\n\
             abcd0123  x                        -               7       0\n"
        );
    }

    #[test]
    fn empty_columns_are_removed_first_then_texts_cut_then_columns_removed() {
        let remarks = ["cancelled, finished".to_owned(), String::new()];
        for room in [53, 40, 30] {
            let text = lines(&fitted(some(), room), &remarks, room);
            assert!(
                text.lines().all(|line| line.chars().count() <= room),
                "{text}"
            );
            assert!(
                text.contains("0123abcd") && text.contains("1,000"),
                "{text}"
            );
        }
        let narrow = lines(&fitted(some(), 30), &remarks, 30);
        assert!(
            !narrow.contains("failed") && narrow.contains("revi"),
            "{narrow}"
        );
        assert!(!narrow.contains("gpt"), "{narrow}");
    }
}
