//! Tidies an output at the end of a run, in one rewrite: one line per item.

use std::collections::HashMap;

use crate::base::Error;
use crate::engine::dispatch::StopReason;

use super::appender::{Key, key};
use super::copies::Copies;
use super::input::FileIndex;
use super::options::RunReport;
use super::results::{PreviousLine, ResultsFile};

/// The beginning of the message about a failure.
const FAILED: &str = "all results are saved, but cannot tidy up";

/// Ends the writing to the output of a run: tidies it if that is needed and the run was not stopped. Its report says
/// whether another program has changed the output.
pub(super) fn end(
    file: &mut ResultsFile,
    copies: &mut Copies,
    repeated: bool,
    report: &mut RunReport,
) {
    let ordered = copies.options.ordered;
    let clean = report.stop.is_none() && report.unsaved.is_empty();
    match file.undisturbed() {
        Err(lost) => report.stop = Some(StopReason::OutputLost(lost)),
        Ok(()) if clean && (repeated || ordered) => {
            report.compaction = tidy(file, copies.index.by_id(), ordered);
        }
        Ok(()) => {}
    }
}

/// Tidies the output of a file's items: keeps one line per item, the last one of its current request; if there is none,
/// the last one. Billed replies on the other lines go to the archive. `ordered` sorts them in the order of the input.
fn tidy(file: &mut ResultsFile, index: &FileIndex, ordered: bool) -> Result<(), Error> {
    let mut best = BestLines::new(index.len());
    file.scan(&mut |line, at| {
        let item = index.find(&line.id);
        // The file no longer has such a row, or the row makes a prompt now.
        if item.is_some() || !line.is_unnamed_bad_row() {
            let is_outdated = item.is_some_and(|item| index[item].request != line.prefix(false));
            best.add(item, &line, at, is_outdated);
        }
    })?;
    file.archive(std::mem::take(&mut best.replaced))?;
    let places = best.into_places(ordered.then(|| index.in_input_order()));
    file.rewrite(FAILED, &places)
}

/// The unused bits of a position show whether its line is of an outdated request, and whether it is a billed reply.
const NOWHERE: u64 = u64::MAX;
const OUTDATED: u64 = 1;
const PAID: u64 = 2;

/// The position of the best line of each item, found in one pass over the lines.
#[derive(Default)]
struct BestLines {
    /// By the number of the item in the index.
    of_items: Vec<u64>,
    of_others: HashMap<Key, u64>,
    /// The positions of billed replies that other lines replace.
    replaced: Vec<u64>,
}

impl BestLines {
    fn new(items: usize) -> Self {
        Self {
            of_items: vec![NOWHERE; items],
            ..Self::default()
        }
    }

    /// Adds the next line, of an item of the index or of another one.
    fn add(&mut self, item: Option<usize>, line: &PreviousLine, at: u64, is_outdated: bool) {
        let best = match item {
            Some(item) => &mut self.of_items[item],
            None => self.of_others.entry(key(&line.id)).or_insert(NOWHERE),
        };
        let is_outdated = u64::from(is_outdated) * OUTDATED;
        let mut worse = (at << 2) | (u64::from(line.is_paid_reply()) * PAID) | is_outdated;
        if is_outdated <= *best & OUTDATED {
            std::mem::swap(best, &mut worse);
        }
        if worse != NOWHERE && worse & PAID != 0 {
            self.replaced.push(worse >> 2);
        }
    }

    /// The positions of the best lines: of items in this order and then of the others, or all in file order.
    fn into_places(mut self, order: Option<Vec<u32>>) -> Vec<u64> {
        let is_ordered = order.is_some();
        if let Some(order) = order {
            let best = order.iter().map(|item| self.of_items[*item as usize]);
            self.of_items = best.collect();
        }
        let mut places = self.of_items;
        places.retain(|place| *place != NOWHERE);
        let mut others: Vec<u64> = self.of_others.into_values().collect();
        others.sort_unstable();
        places.extend(others);
        if !is_ordered {
            places.sort_unstable();
        }
        places.into_iter().map(|place| place >> 2).collect()
    }
}
