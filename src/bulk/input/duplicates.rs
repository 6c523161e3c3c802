//! Finds records that repeat an id.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::fault::{Fault, InputError, InputErrors, Place, SHOWN};
use super::file::{InputFile, Part};
use super::id::RecordId;
use super::index::FileIndex;

/// The offsets of two records with one id; the second one repeats it.
type Pair = (u64, u64);

/// The first duplicates.
pub(super) fn check(input: &InputFile, index: &FileIndex) -> Result<InputErrors, InputError> {
    let found = find(index, SHOWN);
    let places = places(input, &found)?;
    let fault = |pair: &Pair| {
        let ((before, there), (part, here)) = (places[&pair.0], places[&pair.1]);
        let there = if before.base == part.base {
            there.to_string()
        } else {
            there.of(&before.name)
        };
        let fault = repeated(&id(input, *pair)?, &there);
        Ok(InputError::at(&part.name, here, fault))
    };
    let errors = found.iter().map(fault).collect::<Result<_, _>>()?;
    Ok(InputErrors::new(errors, found.len() >= SHOWN))
}

/// The fault of a record with an id that another one has.
pub(super) fn repeated(id: &str, other: &str) -> Fault {
    let found = format!("the id {id:?}, which {other} has already");
    Fault::new(found, "a different id for every item")
}

/// The offsets of the records that repeat an id.
pub(super) fn repeats(index: &FileIndex) -> HashSet<u64> {
    let pairs = find(index, usize::MAX).into_iter();
    pairs.map(|(_, second)| second).collect()
}

/// At most this number of records that repeat an id, in the order of the input.
fn find(index: &FileIndex, most: usize) -> Vec<Pair> {
    let entries = index.entries();
    let (own, made) = entries.split_at(entries.partition_point(|entry| !entry.is_auto()));
    let groups = own.chunk_by(|a, b| a.id == b.id);
    let mut found: Vec<Pair> = groups
        .flat_map(|group| {
            let again = group[1..].iter();
            again.map(|entry| (group[0].offset(), entry.offset()))
        })
        .collect();
    // An own id may equal one that is made from a request.
    if !own.is_empty() {
        let imitated = made.par_iter().filter_map(|entry| {
            let id = RecordId::Auto {
                request: entry.request,
                ordinal: entry.ordinal(),
            };
            let (a, b) = (own[index.own(&id.to_string())?].offset(), entry.offset());
            Some((a.min(b), a.max(b)))
        });
        found.extend(imitated.collect::<Vec<_>>());
    }
    found.sort_unstable_by_key(|(_, second)| *second);
    found.truncate(most);
    found
}

/// The file and the line of each of these records, found in one pass over each file.
fn places<'i>(
    input: &'i InputFile,
    found: &[Pair],
) -> Result<HashMap<u64, (&'i Part, Place)>, InputError> {
    let mut places = HashMap::new();
    for part in input.parts() {
        let all = found.iter().flat_map(|(first, second)| [*first, *second]);
        let own: Vec<u64> = all
            .filter(|offset| (part.base..part.end()).contains(offset))
            .collect();
        let inside: Vec<u64> = own.iter().map(|offset| offset - part.base).collect();
        let lines = part.source.lines_of(&inside);
        let lines = lines.map_err(|error| part.unreadable(&error))?.into_iter();
        places.extend(
            own.into_iter()
                .zip(lines.map(|line| (part, part.place(line)))),
        );
    }
    Ok(places)
}

/// The id that both records have. That of a record without one is made from its request.
fn id(input: &InputFile, (first, second): Pair) -> Result<String, InputError> {
    for offset in [second, first] {
        let part = input.part_of(offset);
        let record = part.source.record(part.is_text(), offset - part.base);
        let record = record.map_err(|error| part.unreadable(&error))?;
        let bytes = record.unwrap_or_default();
        if let Some(id) = part.parse(&bytes, input.settings()).id {
            return Ok(id);
        }
    }
    let part = input.part_of(second);
    let text = format!(
        "changed while it was being checked (at byte {})",
        second - part.base
    );
    Err(InputError::of_file(&part.name, text))
}
