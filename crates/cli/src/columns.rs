//! Columns that fit the terminal: texts are shortened, and the least important columns omitted.

use crate::sanitize::shortened;

/// Minimum width of a shortened name, model or provider.
const LEAST: usize = 8;
/// Space between two columns.
pub const GAP: usize = 2;

/// A column: its header, its cells, and how it is shortened.
pub struct Column {
    pub head: &'static str,
    pub cells: Vec<String>,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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

/// The width of a line.
pub fn total(columns: &[Column]) -> usize {
    let widths: usize = columns.iter().map(Column::width).sum();
    widths + GAP * columns.len().saturating_sub(1)
}

/// Shortens columns until they fit: first columns of zeros are omitted, then long texts are cut, then whole columns
/// are omitted.
pub fn fitted(mut columns: Vec<Column>, room: usize) -> Vec<Column> {
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
pub fn lines(columns: &[Column], remarks: &[String], room: usize) -> String {
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
