//! An output of a file's items without superseded lines.

use std::collections::HashMap;

use crate::base::error::Error;

use super::input::FileIndex;
use super::results::ResultsFile;
use super::stream;

/// A place is kept four times over; the bits that are free tell whether its line is marked as superseded, and whether
/// it is a paid reply.
const NOWHERE: u64 = u64::MAX;
const MARKED: u64 = 1;
const PAID: u64 = 2;

/// Rewrites the output with one line an item, in the order of the input if asked to: the last one, or
/// the last that is not marked as superseded if there is such a one.
pub(super) fn compact(
    file: &mut ResultsFile,
    index: FileIndex,
    ordered: bool,
) -> Result<(), Error> {
    let positions = index.into_positions();
    let mut last = vec![NOWHERE; positions.len()];
    let mut foreign = HashMap::new();
    let mut replaced = Vec::new();
    file.scan(&mut |line, at| {
        let best = match positions.of(&line.id) {
            Some(position) => &mut last[position],
            // The input has no such row any more, or makes a prompt of it.
            None if line.is_unnamed_bad_row() => return,
            None => foreign.entry(stream::key(&line.id)).or_insert(NOWHERE),
        };
        let is_marked = u64::from(line.superseded) * MARKED;
        let mut worse = (at << 2) | (u64::from(line.is_paid_reply()) * PAID) | is_marked;
        if is_marked <= *best & MARKED {
            std::mem::swap(best, &mut worse);
        }
        if worse != NOWHERE && worse & PAID != 0 {
            replaced.push(worse >> 2);
        }
    })?;
    drop(positions);
    last.retain(|at| *at != NOWHERE);
    let mut foreign: Vec<u64> = foreign.into_values().collect();
    foreign.sort_unstable();
    last.extend(foreign);
    if !ordered {
        last.sort_unstable();
    }
    file.rewrite(last.into_iter().map(|best| best >> 2), replaced)
}
