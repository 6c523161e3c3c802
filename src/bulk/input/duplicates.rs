//! Finds records that repeat an id.

use std::collections::HashMap;

use rayon::prelude::*;

use super::fault::{Fault, InputError, InputErrors, Place, SHOWN};
use super::file::{InputFile, Part};
use super::id::RecordId;
use super::index::Matching;

/// The offsets of two records with one id; the second one repeats it.
type Pair = (u64, u64);

/// The first duplicates.
pub(super) fn check(input: &InputFile, index: &Matching) -> Result<InputErrors, InputError> {
    let found = find(index, SHOWN);
    let faults = faults(input, &found)?.into_iter();
    let errors = faults.map(|(_, part, place, fault)| InputError::at(&part.name, place, fault));
    Ok(InputErrors::new(errors.collect(), found.len() >= SHOWN))
}

/// The records that repeat an id, by offset, each with its fault.
pub(super) fn repeats(
    input: &InputFile,
    index: &Matching,
) -> Result<HashMap<u64, String>, InputError> {
    let faults = faults(input, &find(index, usize::MAX))?.into_iter();
    Ok(faults
        .map(|(offset, _, _, fault)| (offset, fault.to_string()))
        .collect())
}

/// At most this number of records that repeat an id, in the order of the input.
fn find(index: &Matching, most: usize) -> Vec<Pair> {
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

/// The fault of the second record of each pair, with its offset and its place.
fn faults<'i>(
    input: &'i InputFile,
    found: &[Pair],
) -> Result<Vec<(u64, &'i Part, Place, Fault)>, InputError> {
    let places = places(input, found)?;
    let fault = |pair: &Pair| {
        let ((before, there), (part, here)) = (places[&pair.0], places[&pair.1]);
        let there = if before.base == part.base {
            there.to_string()
        } else {
            there.of(&before.name)
        };
        let id = id(input, *pair)?;
        let found = format!("the id {id:?}, which {there} has already");
        let fault = Fault::new(found, "a different id for every item");
        Ok((pair.1, part, here, fault))
    };
    found.iter().map(fault).collect()
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
