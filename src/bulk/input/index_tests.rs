use super::super::id::id_hash;
use super::*;

fn own(id: &str, request: u64, offset: u64) -> Entry {
    Entry::new(id_hash(id), request, offset, 0)
}

fn auto(request: u64, offset: u64) -> Entry {
    Entry::automatic(request, offset, 0)
}

fn auto_id(request: u64, ordinal: u32) -> String {
    RecordId::Auto { request, ordinal }.to_string()
}

fn ids(index: &FileIndex) -> Vec<String> {
    let ids = (0..index.len()).map(|i| index.item_id(i, None));
    ids.map(|id| id.unwrap().to_string()).collect()
}

/// The position of the item with that id in the input, from 0.
fn position(index: &FileIndex, id: &str) -> Option<usize> {
    let at = index.find(id)?;
    let order = index.in_input_order();
    order.iter().position(|item| *item as usize == at)
}

fn index(entries: Vec<Entry>) -> FileIndex {
    FileIndex::new(entries, 0)
}

#[test]
fn the_last_line_of_a_request_wins() {
    use State::{Done, Failed};
    let mut index = index((0..4).map(|i| own(&i.to_string(), i, 10 * i)).collect());
    for (id, request, ended, found) in [
        ("0", 0, Done, Some(State::Done)),
        ("0", 0, Failed, Some(State::Failed)),
        ("1", 1, Failed, Some(State::Failed)),
        ("1", 1, Done, Some(State::Done)),
        ("2", 2, Done, Some(State::Done)),
        ("2", 9, Done, Some(State::Changed)),
        ("3", 9, Done, Some(State::Changed)),
        ("x", 0, Done, None),
        ("x", 0, Done, None),
    ] {
        assert_eq!(
            index.match_line(id, request, ended),
            found,
            "{id} {request}"
        );
    }
    let index = index.finish();
    let states: Vec<State> = (0..4).map(|i| index[i].state()).collect();
    assert_eq!(
        states,
        [State::Failed, State::Done, State::Done, State::Changed]
    );
    let counts = [State::New, State::Done, State::Failed, State::Changed];
    assert_eq!(counts.map(|state| index.count(state)), [0, 2, 1, 1]);
    assert_eq!(index.unknown_lines, 2);
}

#[test]
fn automatic_ids_are_found_by_their_ordinal_in_every_order() {
    let requests = [5, 6, 5, 5, 7, 6];
    let entries = requests.iter().zip(0..).map(|(&r, i)| auto(r, 100 * i));
    let mut index = index(entries.collect());
    for (request, ordinal, found) in [(5, 3, true), (5, 4, false), (6, 2, true), (8, 1, false)] {
        let found = if found { Some(State::Done) } else { None };
        assert_eq!(
            index.match_line(&auto_id(request, ordinal), request, State::Done),
            found
        );
    }
    let index = index.finish();
    let ordinals = [1, 1, 2, 3, 1, 2].into_iter().zip(requests);
    let expected: Vec<String> = ordinals.map(|(n, request)| auto_id(request, n)).collect();
    assert_eq!(ids(&index), expected);
    let done: Vec<_> = (0..6)
        .filter(|&i| index[i].state() == State::Done)
        .collect();
    assert_eq!(done, [3, 5]);
    let mut matching = index;
    matching.by_id();
    assert_eq!(position(&matching, &auto_id(5, 3)), Some(3));
    assert_eq!(position(&matching, &auto_id(7, 1)), Some(4));
    assert_eq!(position(&matching, &auto_id(7, 2)), None);
}

#[test]
fn ten_thousand_items_take_24_bytes_each_in_every_order() {
    const ITEMS: u64 = 10_000;
    let mut entries = Vec::with_capacity(ITEMS as usize);
    for i in 0..ITEMS {
        entries.push(match i % 4 {
            0 => auto(i % 1000, i * 50),
            _ => own(&format!("item-{i}"), i, i * 50),
        });
    }
    let (bytes, at) = (entries.capacity() * size_of::<Entry>(), entries.as_ptr());
    assert_eq!(bytes, 24 * ITEMS as usize);
    let mut index = index(entries);
    for i in 0..ITEMS {
        index.match_line(&format!("item-{i}"), i, State::Done);
    }
    let index = index.finish();
    assert_eq!(index.count(State::Done), ITEMS * 3 / 4);
    assert_eq!(index.unknown_lines, ITEMS / 4);
    assert!((0..ITEMS as usize).all(|i| index[i].offset() == i as u64 * 50));
    let mut matching = index;
    matching.by_id();
    let order = matching.in_input_order();
    assert!((1..ITEMS as usize).step_by(4).all(|i| {
        let item = order[i] as usize;
        matching.find(&format!("item-{i}")) == Some(item)
    }));
    assert_eq!(matching.entries.as_ptr(), at, "sorted in place");
    assert_eq!(matching.entries.capacity() * size_of::<Entry>(), bytes);
}
