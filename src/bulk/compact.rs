//! An output of a file's items without superseded lines.

use std::collections::HashMap;

use crate::base::error::Error;

use super::input::FileIndex;
use super::results::ResultsFile;
use super::stream;

/// Rewrites the output without superseded lines, in the order of the input if asked to. Items that the
/// input does not have keep their last line.
pub(super) fn compact(
    file: &mut ResultsFile,
    index: FileIndex,
    ordered: bool,
) -> Result<(), Error> {
    let positions = index.into_positions();
    let nowhere = u64::MAX;
    let mut last = vec![nowhere; positions.len()];
    let mut foreign = HashMap::new();
    file.scan(&mut |line, at| match positions.of(&line.id) {
        Some(position) => last[position] = at,
        None => {
            foreign.insert(stream::key(&line.id), at);
        }
    })?;
    drop(positions);
    last.retain(|at| *at != nowhere);
    let mut foreign: Vec<u64> = foreign.into_values().collect();
    foreign.sort_unstable();
    last.extend(foreign);
    if !ordered {
        last.sort_unstable();
    }
    file.rewrite(last.into_iter())
}
