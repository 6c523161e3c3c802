//! Ids that occur twice. Equal hashes are only a suspicion: the lines are read again, and different
//! ids of one hash are kept apart by name.

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

/// Refuses duplicates; returns different ids of one hash with their offsets.
pub(super) fn check(
    input: &InputFile,
    index: &Matching,
) -> Result<HashMap<String, u64>, InputErrors> {
    let (collisions, found) = find(input, index, SHOWN)?;
    if found.is_empty() {
        Ok(collisions)
    } else {
        Err(report(input, index, found))
    }
}

/// The records that repeat an id, by their offsets, each with what is wrong with it.
pub(super) fn repeats(
    input: &InputFile,
    index: &Matching,
) -> Result<HashMap<u64, String>, InputErrors> {
    let (_, found) = find(input, index, usize::MAX)?;
    let mut lines = HashMap::new();
    for part in input.parts() {
        let places = found.iter().flat_map(|found| [found.first, found.second]);
        let own = places.filter(|offset| (part.base..part.end()).contains(offset));
        let own: Vec<u64> = own.map(|offset| offset - part.base).collect();
        let numbers = part.source.lines_of(&own);
        let numbers = numbers.map_err(|error| part.unreadable(&error))?;
        let own = own.iter().map(|offset| offset + part.base);
        lines.extend(own.zip(numbers.into_iter().map(|line| (part, part.place(line)))));
    }
    let place = |offset: u64, here: &Part| match lines.get(&offset) {
        Some((part, place)) if part.base == here.base => place.to_string(),
        Some((part, place)) => format!("{} {place}", part.name),
        None => String::new(),
    };
    let why = |Duplicate { id, first, second }| {
        let here = input.part_of(second);
        let (first, place) = (place(first, here), place(second, here));
        let fault = repeated(&id, &first);
        (second, format!("{place}: {fault}"))
    };
    Ok(found.into_iter().map(why).collect())
}

fn repeated(id: &str, first: &str) -> Fault {
    Fault::new(
        format!("the id {id:?}, which {first} has already"),
        "a different id for every item",
    )
}

/// Different ids of one hash with their offsets, and so many duplicates at most.
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

/// Records that may have one id of their own, in the order in which repeats occur in the file.
fn groups(index: &Matching) -> Vec<Vec<u64>> {
    let own = |entry: &&Entry| !entry.is_auto() && entry.is_first();
    let mut groups: Vec<Vec<u64>> = Vec::new();
    let mut last: Option<&Entry> = None;
    let mut goes_on = false;
    for entry in index.entries().iter().filter(own) {
        let before = last.replace(entry).filter(|last| last.may_share_id(entry));
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

/// Own ids that equal one that was made: an automatic one, or a sample's.
fn imitations(
    input: &InputFile,
    index: &Matching,
    found: &mut Vec<Duplicate>,
    most: usize,
) -> Result<(), InputErrors> {
    let entries = index.entries();
    let is_made = |e: &Entry| e.is_auto() || e.sample().is_some();
    if !entries.iter().any(is_made) {
        return Ok(());
    }
    let is_suspect = |e: &&Entry| e.is_first() && e.is_like_made();
    for entry in entries.iter().filter(is_suspect) {
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

fn report(input: &InputFile, index: &Matching, mut found: Vec<Duplicate>) -> InputErrors {
    found.sort_unstable_by_key(|duplicate| duplicate.second);
    let unread = found.len() >= SHOWN;
    let mut errors = Vec::new();
    for Duplicate { id, first, second } in found {
        let places = place(input, index, first).and_then(|a| Ok((a, place(input, index, second)?)));
        let ((before, there), (part, here)) = match places {
            Ok(places) => places,
            Err(errors) => return errors,
        };
        let in_file = if before.base == part.base {
            String::new()
        } else {
            format!("{}:", before.name)
        };
        let fault = repeated(&id, &there.describe(&in_file));
        errors.push(here.error(part, &fault));
    }
    InputErrors::new(errors, 0, unread)
}

/// Where an item is in its file, for people.
enum RecordPlace {
    Record(Place),
    /// In a list: the line may be the same for all.
    Item(u64, usize),
}

impl RecordPlace {
    fn describe(&self, file: &str) -> String {
        match (self, file) {
            (Self::Record(place), "") => place.to_string(),
            (Self::Record(Place::Line(line)), file) => format!("{file}{line}"),
            (Self::Record(place), file) => format!("{file} {place}"),
            (Self::Item(_, item), "") => format!("item {item}"),
            (Self::Item(line, item), file) => format!("{file}{line} (item {item})"),
        }
    }

    fn error(&self, part: &Part, fault: &Fault) -> InputError {
        match self {
            Self::Record(place) => InputError::at(&part.name, *place, fault),
            Self::Item(line, item) => {
                InputError::at(&part.name, *line, format!("item {item}: {fault}"))
            }
        }
    }
}

fn place<'i>(
    input: &'i InputFile,
    index: &Matching,
    offset: u64,
) -> Result<(&'i Part, RecordPlace), InputErrors> {
    let part = input.part_of(offset);
    let lines = part.source.lines_of(&[offset - part.base]);
    let line = lines.map_err(|error| part.unreadable(&error))?[0];
    if part.form != Form::Json {
        return Ok((part, RecordPlace::Record(part.place(line))));
    }
    let before =
        |entry: &&Entry| entry.is_first() && (part.base..=offset).contains(&entry.offset());
    let item = index.entries().iter().filter(before).count();
    Ok((part, RecordPlace::Item(line, item)))
}
