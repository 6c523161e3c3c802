//! Counts, times and tables in readable form. Nothing is cut: a terminal breaks long lines, and a pipe takes lines of any
//! length.

use std::time::Duration;

use super::sanitize::one_line;

/// A count with a separator between thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The counts that are not zero, each with its noun.
pub fn counts<'a>(all: impl IntoIterator<Item = (u64, &'a str)>) -> Vec<String> {
    let counted = all.into_iter().filter(|(n, _)| *n > 0);
    counted.map(|(n, what)| number_of(n, what)).collect()
}

/// A count with what is counted. A word that depends on the count has both forms: `item|items`.
pub fn number_of(n: u64, what: &str) -> String {
    let words = what.split(' ').map(|word| match word.split_once('|') {
        Some((one, _)) if n == 1 => one,
        Some((_, many)) => many,
        None => word,
    });
    format!("{} {}", count(n), words.collect::<Vec<_>>().join(" "))
}

/// A number of bytes in a suitable unit; each unit is 1024 of the next smaller one.
pub fn size(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    let mut units = ["KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = "B";
    while scaled >= 1024.0
        && let Some(larger) = units.next()
    {
        scaled /= 1024.0;
        unit = larger;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{scaled:.1} {unit}"),
    }
}

/// A duration in a suitable unit.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0 s".to_owned(),
        s if s < 0.001 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{}m {:02}s", (s / 60.0) as u64, s as u64 % 60),
        s if s < 172_800.0 => format!("{}h {:02}m", (s / 3600.0) as u64, (s / 60.0) as u64 % 60),
        s => format!(
            "{}d {:02}h",
            (s / 86_400.0) as u64,
            (s / 3600.0) as u64 % 24
        ),
    }
}

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
    fn counts_and_spans_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(10 << 20), "10.0 MiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
        let rows = "row|rows that is|are invalid";
        assert_eq!(number_of(1, rows), "1 row that is invalid");
        assert_eq!(number_of(2_000, rows), "2,000 rows that are invalid");
        assert_eq!(number_of(1, "job|jobs waits:|wait:"), "1 job waits:");
        assert_eq!(span(Duration::from_millis(412)), "412 ms");
        assert_eq!(span(Duration::ZERO), "0 s");
        assert_eq!(span(Duration::from_micros(120)), "0.12 ms");
        assert_eq!(span(Duration::from_secs(61)), "1m 01s");
        assert_eq!(span(Duration::from_secs(7322)), "2h 02m");
        assert_eq!(span(Duration::from_secs(172_799)), "47h 59m");
        assert_eq!(span(Duration::from_secs(29 * 86_400 - 1)), "28d 23h");
    }

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let mut table = Table::new(["name", "total", "state"]);
        table.row(["reviews of May", "1,000", "finished"]);
        table.row(["x\u{1b}", "7", ""]);
        assert_eq!(
            table.lines(),
            "name            total  state\n\
             reviews of May  1,000  finished\n\
             x\\u{1b}             7\n"
        );
    }
}
