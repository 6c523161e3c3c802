//! Tables that fit the terminal. In a pipe, nothing is cut.

use console::Term;

use super::sanitize::one_line;
use super::wrap::wrapped;

/// The width of the terminal: `COLUMNS`, otherwise its reported width. `None` if standard output is not a terminal,
/// because a pipe or a file accepts lines of any length.
pub fn width() -> Option<usize> {
    let variable = std::env::var("COLUMNS").ok();
    let set = variable.and_then(|columns| columns.parse().ok());
    let terminal = || Term::stdout().size_checked();
    set.filter(|columns| *columns > 0)
        .or_else(|| terminal().map(|(_, columns)| usize::from(columns)))
}

/// A cell is not shortened below this.
const LEAST: usize = 8;
const GAP: usize = 2;
/// Indentation of a note on a separate line.
const INDENT: usize = 6;

/// Rows of cells, the first one being the header, and a note after each.
#[derive(Default)]
pub struct Table {
    rows: Vec<(Vec<String>, String)>,
    beside: usize,
}

impl Table {
    /// Reserves space next to the cells for notes of this number of characters.
    pub fn room_for_notes(mut self, characters: usize) -> Self {
        self.beside = characters + GAP;
        self
    }

    pub fn row<const N: usize>(&mut self, cells: [&str; N], note: &str) {
        self.cells(cells, note);
    }

    /// A row of any number of cells.
    pub fn cells<'c>(&mut self, cells: impl IntoIterator<Item = &'c str>, note: &str) {
        let cells = cells.into_iter().map(one_line).collect();
        self.rows.push((cells, one_line(note)));
    }

    /// The lines, not longer than `width` unless a word is: the longest cells are shortened, except the first of a row,
    /// and a note that does not fit next to its row is put below it.
    pub fn lines(&self, width: Option<usize>) -> String {
        let room = width.unwrap_or(usize::MAX);
        let widths = self.widths(room);
        let beside = widths.iter().map(|width| width + GAP).sum::<usize>();
        let (mut out, mut line) = (String::new(), String::new());
        for (i, (cells, note)) in self.rows.iter().enumerate() {
            line.clear();
            for (cell, &width) in cells.iter().zip(&widths) {
                let len = cell.chars().count();
                if len > width {
                    line.push_str(&cut(cell, width))
                } else {
                    line.push_str(cell)
                }
                let blanks = width + GAP - len.min(width);
                line.extend(std::iter::repeat_n(' ', blanks));
            }
            let below = beside + note.chars().count() > room;
            if !below {
                line.push_str(note);
            }
            if !cells.is_empty() {
                out.push_str(line.trim_end());
                out.push('\n');
            }
            // The header of the notes is omitted: below the other headers it would explain nothing.
            if below && i > 0 {
                for line in wrapped(note, room.saturating_sub(INDENT)) {
                    out.push_str(&format!("{:INDENT$}{line}\n", ""));
                }
            }
        }
        out
    }

    /// True if a cell is shortened.
    pub fn is_cut(&self, width: Option<usize>) -> bool {
        self.widths(width.unwrap_or(usize::MAX)) != self.widths(usize::MAX)
    }

    fn widths(&self, room: usize) -> Vec<usize> {
        let columns = self.rows.first().map_or(0, |(cells, _)| cells.len());
        let longest = |column: usize| {
            let cells = self.rows.iter().filter_map(|(cells, _)| cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..columns).map(longest).collect();
        let gaps = GAP * columns.saturating_sub(1) + self.beside;
        while widths.iter().sum::<usize>() + gaps > room {
            match widths.iter_mut().skip(1).max() {
                Some(widest) if *widest > LEAST => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

fn cut(cell: &str, width: usize) -> String {
    let kept = cell.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        table.row(["name", "model"], "why");
        table.row(["one", "a-model-with-a-long-name"], "ready");
        table.row(["two", "m"], "not ready for a reason that is long to tell");
        table
    }

    #[test]
    fn without_a_width_nothing_is_cut_and_each_row_is_a_line() {
        let text = table().lines(None);
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.contains("one   a-model-with-a-long-name  ready\n"),
            "{text}"
        );
        assert!(!table().is_cut(None));
    }

    #[test]
    fn a_long_note_goes_below_and_a_long_cell_is_shortened() {
        let text = table().lines(Some(40));
        assert_eq!(
            text,
            "name  model                     why\n\
             one   a-model-with-a-long-name  ready\n\
             two   m\n      not ready for a reason that is\n      long to tell\n"
        );
        assert!(!table().is_cut(Some(40)) && table().is_cut(Some(20)));
        let narrow = table().lines(Some(20));
        assert!(narrow.contains("one   a-model-with-…\n"), "{narrow}");
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 20),
            "{narrow}"
        );
    }
}
