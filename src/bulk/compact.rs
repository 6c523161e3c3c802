//! An output of a file's items without superseded lines.

use std::collections::HashMap;

use crate::base::error::Error;

use super::input::FileIndex;
use super::results::ResultsFile;
use super::stream;

/// A place is kept twice over; the bit that is free tells whether its line is marked as superseded.
const NOWHERE: u64 = u64::MAX;

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
    file.scan(&mut |line, at| {
        let best = match positions.of(&line.id) {
            Some(position) => &mut last[position],
            None => foreign.entry(stream::key(&line.id)).or_insert(NOWHERE),
        };
        let is_marked = u64::from(line.superseded);
        if is_marked <= *best & 1 {
            *best = at << 1 | is_marked;
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
    file.rewrite(last.into_iter().map(|best| best >> 1))
}
