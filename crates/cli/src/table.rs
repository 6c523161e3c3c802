//! Tables for people. Nothing is cut: a terminal breaks long lines, and a pipe takes lines of any length.

use super::sanitize::one_line;

/// Rows of cells, the first one being the header.
#[derive(Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with this header.
    pub fn new<'c>(head: impl IntoIterator<Item = &'c str>) -> Self {
        let mut table = Self::default();
        table.row(head);
        table
    }

    pub fn row<'c>(&mut self, cells: impl IntoIterator<Item = &'c str>) {
        self.0.push(cells.into_iter().map(one_line).collect());
    }

    /// The lines, in columns. Numbers are aligned to the right.
    pub fn lines(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let column = |at: usize| self.0.iter().filter_map(move |cells| cells.get(at));
        let width = |at| column(at).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).filter_map(width).collect();
        // Perhaps with a unit after a blank.
        let is_number = |cell: &String| {
            let numeric = |c: char| c.is_ascii_digit() || ",.-+$".contains(c);
            let number = cell.split_whitespace().next().unwrap_or_default();
            number.chars().all(numeric)
        };
        let right: Vec<bool> = (0..columns)
            .map(|at| column(at).skip(1).all(is_number))
            .collect();
        let mut out = String::new();
        for cells in &self.0 {
            let mut line = String::new();
            for (at, cell) in cells.iter().enumerate() {
                let (cell, width) = (cell.as_str(), widths[at]);
                line.push_str(&if right[at] {
                    format!("{cell:>width$}  ")
                } else {
                    format!("{cell:<width$}  ")
                });
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let mut table = Table::new(["name", "total", "state"]);
        table.row(["reviews of May", "1,000", "finished"]);
        table.row(["x\u{1b}", "7", ""]);
        assert_eq!(
            table.lines(),
            "name            total  state\n\
             reviews of May  1,000  finished\n\
             x                   7\n"
        );
    }
}
