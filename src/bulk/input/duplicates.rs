//! Ids that occur twice. Equal hashes are only a suspicion: the lines are read again, and different
//! ids of one hash are kept apart by name.

use std::collections::HashMap;

use super::fault::{Fault, InputError, InputErrors, SHOWN};
use super::file::InputFile;
use super::id::parse_auto;
use super::index::Matching;

/// An id that the items at both offsets have.
struct Duplicate {
    id: String,
    first: u64,
    second: u64,
}

/// Refuses duplicates; returns different ids of one hash with their offsets.
pub(super) fn check(
    input: &InputFile,
    index: &Matching,
) -> Result<HashMap<String, u64>, InputErrors> {
    let mut collisions = HashMap::new();
    let mut found = Vec::new();
    for start in groups(index) {
        if found.len() >= SHOWN {
            break;
        }
        group(input, index, start, &mut collisions, &mut found)?;
    }
    imitations(input, index, &mut found)?;
    match found.is_empty() {
        true => Ok(collisions),
        false => Err(report(input, &found)),
    }
}

/// Where two or more own ids of one hash begin, in the order in which repeats occur in the file.
fn groups(index: &Matching) -> Vec<usize> {
    let entries = index.entries();
    let repeats = |i: usize| {
        let (a, b) = (&entries[i], &entries[i + 1]);
        a.id == b.id && !b.is_auto()
    };
    let mut starts: Vec<usize> = (0..entries.len().saturating_sub(1))
        .filter(|&i| repeats(i) && (i == 0 || !repeats(i - 1)))
        .collect();
    starts.sort_unstable_by_key(|&i| entries[i + 1].offset());
    starts
}

fn group(
    input: &InputFile,
    index: &Matching,
    start: usize,
    collisions: &mut HashMap<String, u64>,
    found: &mut Vec<Duplicate>,
) -> Result<(), InputErrors> {
    let entries = &index.entries()[start..];
    let hash = entries[0].id;
    for entry in entries.iter().take_while(|e| e.id == hash && !e.is_auto()) {
        let second = entry.offset();
        let id = own_id(input, second)?;
        match collisions.get(&id) {
            Some(&first) => found.push(Duplicate { id, first, second }),
            None => {
                collisions.insert(id, second);
            }
        }
        if found.len() >= SHOWN {
            break;
        }
    }
    Ok(())
}

/// Own ids that equal an automatic one.
fn imitations(
    input: &InputFile,
    index: &Matching,
    found: &mut Vec<Duplicate>,
) -> Result<(), InputErrors> {
    let entries = index.entries();
    if !entries.iter().any(|e| e.is_auto()) {
        return Ok(());
    }
    for entry in entries.iter().filter(|e| e.is_like_auto()) {
        if found.len() >= SHOWN {
            break;
        }
        let id = own_id(input, entry.offset())?;
        let automatic = parse_auto(&id).and_then(|(hash, n)| index.automatic(hash, n));
        if let Some(at) = automatic {
            let (a, b) = (entry.offset(), entries[at].offset());
            found.push(Duplicate {
                id,
                first: a.min(b),
                second: a.max(b),
            });
        }
    }
    Ok(())
}

fn own_id(input: &InputFile, offset: u64) -> Result<String, InputErrors> {
    let record = input.source().record(input.form(), offset);
    let (bytes, ..) = record
        .map_err(|error| input.unreadable(&error))?
        .unwrap_or_default();
    let id = input.parse(&bytes).ok().and_then(|request| request.id);
    id.ok_or_else(|| {
        let text = format!("changed while it was being checked (at byte {offset})");
        InputError::of_file(input.name(), text).into()
    })
}

fn report(input: &InputFile, found: &[Duplicate]) -> InputErrors {
    let offsets: Vec<u64> = found.iter().flat_map(|d| [d.first, d.second]).collect();
    let lines = match input.source().lines_of(&offsets) {
        Ok(lines) => lines,
        Err(error) => return input.unreadable(&error).into(),
    };
    let errors = found.iter().zip(lines.chunks_exact(2)).map(|(d, lines)| {
        let fault = Fault::new(
            format!("the id {:?}, which line {} has already", d.id, lines[0]),
            "an id of its own for every item",
        );
        InputError::at(input.name(), lines[1], fault)
    });
    InputErrors::new(errors.collect(), found.len() >= SHOWN)
}
