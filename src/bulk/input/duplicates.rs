//! Finds duplicate ids. Equal hashes are only a suspicion: the lines are read again, and different ids with equal
//! hashes are distinguished by name.

use std::collections::HashMap;

use super::Form;
use super::entry::Entry;
use super::fault::{Fault, InputError, InputErrors, Place, SHOWN};
use super::file::{InputFile, Part};
use super::index::Matching;

/// An id that the items at both offsets have.
struct Duplicate {
    id: String,
    first: u64,
    second: u64,
}

/// Rejects duplicates; returns different ids with equal hashes, with their offsets.
pub(super) fn check(
    input: &InputFile,
    index: &Matching,
) -> Result<HashMap<String, u64>, InputErrors> {
    let (collisions, found) = find(input, index, SHOWN)?;
    if found.is_empty() {
        Ok(collisions)
    } else {
        report(input, index, found).and_then(Err)
    }
}

/// The records that repeat an id, by offset, each with its fault.
pub(super) fn repeats(
    input: &InputFile,
    index: &Matching,
) -> Result<HashMap<u64, String>, InputErrors> {
    let (_, found) = find(input, index, usize::MAX)?;
    let places = places(input, &found)?;
    let place = |offset: u64, here: &Part| {
        let (part, line) = places[&offset];
        let place = part.place(line);
        if part.base == here.base {
            place.to_string()
        } else {
            format!("{} {place}", part.name)
        }
    };
    let why = |Duplicate { id, first, second }| {
        let here = input.part_of(second);
        (second, repeated(&id, &place(first, here)).to_string())
    };
    Ok(found.into_iter().map(why).collect())
}

/// The file and the line of each of these records, found in one pass over each file.
fn places<'i>(
    input: &'i InputFile,
    found: &[Duplicate],
) -> Result<HashMap<u64, (&'i Part, u64)>, InputErrors> {
    let mut places = HashMap::new();
    for part in input.parts() {
        let all = found.iter().flat_map(|found| [found.first, found.second]);
        let own: Vec<u64> = all
            .filter(|offset| (part.base..part.end()).contains(offset))
            .collect();
        let inside: Vec<u64> = own.iter().map(|offset| offset - part.base).collect();
        let lines = part.source.lines_of(&inside);
        let lines = lines.map_err(|error| part.unreadable(&error))?;
        places.extend(
            own.into_iter()
                .zip(lines.into_iter().map(|line| (part, line))),
        );
    }
    Ok(places)
}

fn repeated(id: &str, first: &str) -> Fault {
    Fault::new(
        format!("the id {id:?}, which {first} has already"),
        "a different id for every item",
    )
}

/// Different ids with equal hashes, with their offsets, and at most this number of duplicates.
fn find(
    input: &InputFile,
    index: &Matching,
    most: usize,
) -> Result<(HashMap<String, u64>, Vec<Duplicate>), InputErrors> {
    let mut collisions = HashMap::new();
    let mut found = Vec::new();
    for group in groups(index) {
        if found.len() >= most {
            break;
        }
        check_group(input, group, &mut collisions, &mut found, most)?;
    }
    imitations(input, index, &mut found, most)?;
    Ok((collisions, found))
}

/// Records that may have the same own id, in the order of their repetitions in the file.
fn groups(index: &Matching) -> Vec<Vec<u64>> {
    let own = |entry: &&Entry| !entry.is_auto();
    let mut groups: Vec<Vec<u64>> = Vec::new();
    let mut last: Option<&Entry> = None;
    let mut goes_on = false;
    for entry in index.entries().iter().filter(own) {
        let before = last.replace(entry).filter(|last| last.id == entry.id);
        match (before, groups.last_mut()) {
            (Some(_), Some(group)) if goes_on => group.push(entry.offset()),
            (Some(before), _) => groups.push(vec![before.offset(), entry.offset()]),
            (None, _) => {}
        }
        goes_on = before.is_some();
    }
    groups.iter_mut().for_each(|group| group.sort_unstable());
    groups.sort_unstable_by_key(|group| group[1]);
    groups
}

fn check_group(
    input: &InputFile,
    group: Vec<u64>,
    collisions: &mut HashMap<String, u64>,
    found: &mut Vec<Duplicate>,
    most: usize,
) -> Result<(), InputErrors> {
    for second in group {
        let id = own_id(input, second)?;
        match collisions.get(&id) {
            Some(&first) => found.push(Duplicate { id, first, second }),
            None => {
                collisions.insert(id, second);
            }
        }
        if found.len() >= most {
            break;
        }
    }
    Ok(())
}

/// Own ids that equal a generated one.
fn imitations(
    input: &InputFile,
    index: &Matching,
    found: &mut Vec<Duplicate>,
    most: usize,
) -> Result<(), InputErrors> {
    let entries = index.entries();
    if !entries.iter().any(Entry::is_auto) {
        return Ok(());
    }
    for entry in entries.iter().filter(|entry| entry.is_like_made()) {
        if found.len() >= most {
            break;
        }
        let id = own_id(input, entry.offset())?;
        if let Some(at) = index.find_made(&id) {
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
    let part = input.part_of(offset);
    let offset = offset - part.base;
    let record = part.source.record(part.form, offset);
    let (bytes, ..) = record
        .map_err(|error| part.unreadable(&error))?
        .unwrap_or_default();
    let id = part.parse(&bytes, input.settings()).id;
    id.ok_or_else(|| {
        let text = format!("changed while it was being checked (at byte {offset})");
        InputError::of_file(&part.name, text).into()
    })
}

fn report(
    input: &InputFile,
    index: &Matching,
    mut found: Vec<Duplicate>,
) -> Result<InputErrors, InputErrors> {
    found.sort_unstable_by_key(|duplicate| duplicate.second);
    let unread = found.len() >= SHOWN;
    let places = places(input, &found)?;
    // In a list, one line may have many items, so the number of the item is reported.
    let item = |part: &Part, offset: u64| {
        let before = |entry: &&Entry| (part.base..=offset).contains(&entry.offset());
        let is_list = part.form == Form::Json;
        is_list.then(|| index.entries().iter().filter(before).count())
    };
    let errors = found.iter().map(|Duplicate { id, first, second }| {
        let ((before, line), (part, here)) = (places[first], places[second]);
        let file = (before.base != part.base).then_some(before.name.as_str());
        let there = match (item(before, *first), before.place(line), file) {
            (None, place, None) => place.to_string(),
            (None, Place::Line(line), Some(file)) => format!("{file}:{line}"),
            (None, place, Some(file)) => format!("{file}: {place}"),
            (Some(item), _, None) => format!("item {item}"),
            (Some(item), _, Some(file)) => format!("{file}:{line} (item {item})"),
        };
        let fault = repeated(id, &there);
        match item(part, *second) {
            None => InputError::at(&part.name, part.place(here), fault),
            Some(item) => InputError::at(&part.name, here, format!("item {item}: {fault}")),
        }
    });
    Ok(InputErrors::new(errors.collect(), 0, unread))
}
