use super::super::id::id_hash;
use super::*;
use crate::bulk::input::EarlierResult;

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

fn index(entries: Vec<Entry>) -> Matching {
    Matching::new(entries, id_hash, Totals::default())
}

#[test]
fn the_last_line_of_a_request_wins() {
    let mut index = index((0..4).map(|i| own(&i.to_string(), i, 10 * i)).collect());
    assert_eq!(
        index.match_line("0", 0, EarlierResult::Success),
        Match::Done
    );
    assert_eq!(
        index.match_line("0", 0, EarlierResult::Failure),
        Match::Failed
    );
    assert_eq!(
        index.match_line("1", 1, EarlierResult::Failure),
        Match::Failed
    );
    assert_eq!(
        index.match_line("1", 1, EarlierResult::Success),
        Match::Done
    );
    assert_eq!(
        index.match_line("2", 2, EarlierResult::Success),
        Match::Done
    );
    assert_eq!(
        index.match_line("2", 9, EarlierResult::Success),
        Match::Changed
    );
    assert_eq!(
        index.match_line("3", 9, EarlierResult::Success),
        Match::Changed
    );
    assert_eq!(
        index.match_line("x", 0, EarlierResult::Success),
        Match::Unknown
    );
    assert_eq!(
        index.match_line("x", 0, EarlierResult::Success),
        Match::Unknown
    );
    let index = index.finish();
    let states: Vec<State> = (0..4).map(|i| index.state(i)).collect();
    assert_eq!(
        states,
        [State::Failed, State::Done, State::Done, State::Changed]
    );
    assert!(index.is_done(1) && !index.is_done(3));
    let tally = MatchCounts {
        new: 0,
        done: 2,
        failed: 1,
        unusable: 0,
        changed: 1,
        unknown_lines: 2,
        automatic: 0,
        bad_untold: 0,
    };
    assert_eq!(index.tally(), tally);
}

#[test]
fn automatic_ids_are_found_by_their_ordinal_in_every_order() {
    let requests = [5, 6, 5, 5, 7, 6];
    let entries = requests.iter().zip(0..).map(|(&r, i)| auto(r, 100 * i));
    let mut index = index(entries.collect());
    for (request, ordinal, found) in [(5, 3, true), (5, 4, false), (6, 2, true), (8, 1, false)] {
        let found = if found { Match::Done } else { Match::Unknown };
        assert_eq!(
            index.match_line(&auto_id(request, ordinal), request, EarlierResult::Success),
            found
        );
    }
    let index = index.finish();
    let ordinals = [1, 1, 2, 3, 1, 2].into_iter().zip(requests);
    let expected: Vec<String> = ordinals.map(|(n, request)| auto_id(request, n)).collect();
    assert_eq!(ids(&index), expected);
    let done: Vec<_> = (0..6).filter(|&i| index.is_done(i)).collect();
    assert_eq!(done, [3, 5]);
    let matching = index.into_matching();
    assert_eq!(matching.position(&auto_id(5, 3)), Some(3));
    assert_eq!(matching.position(&auto_id(7, 1)), Some(4));
    assert_eq!(matching.position(&auto_id(7, 2)), None);
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
        index.match_line(&format!("item-{i}"), i, EarlierResult::Success);
    }
    let index = index.finish();
    assert_eq!(index.tally().done, ITEMS * 3 / 4);
    assert_eq!(index.tally().unknown_lines, ITEMS / 4);
    assert!((0..ITEMS as usize).all(|i| index.offset(i) == i as u64 * 50));
    let matching = index.into_matching();
    let order = matching.in_input_order();
    assert!((1..ITEMS as usize).step_by(4).all(|i| {
        let item = order[i] as usize;
        matching.find(&format!("item-{i}")) == Some(item)
    }));
    assert_eq!(matching.entries.as_ptr(), at, "sorted in place");
    assert_eq!(matching.entries.capacity() * size_of::<Entry>(), bytes);
}

#[test]
fn samples_are_found_by_their_ids_in_every_order() {
    let prefix = |n: u64| n << 40;
    let collide: [IdHash; 2] = [id_hash, |id| (id.len() as u64) << 16];
    for hash in collide {
        let mut entries = Vec::new();
        for (i, id) in ["a", "b", "cc"].into_iter().enumerate() {
            let i = i as u64;
            let entry = Entry::new(hash(id), prefix(i + 1), 10 * i, 0);
            entries.extend((1..=3).map(|k| entry.sampled(k)));
        }
        for i in 3..5 {
            let entry = Entry::automatic(prefix(9), 10 * i, 0);
            entries.extend((1..=2).map(|k| entry.sampled(k)));
        }
        entries.push(Entry::new(hash("d"), prefix(10), 50, 0));
        entries.push(Entry::new(hash("long#7"), prefix(11), 60, 0).like_made());
        let collisions = [("a", 0), ("b", 10), ("d", 50)];
        let collisions = collisions.map(|(id, offset)| (id.to_owned(), offset));
        let mut matching = Matching::new(entries, hash, Totals::default());
        matching.set_collisions(collisions.into());
        let request = prefix(9);
        let auto = |ordinal, sample| format!("{}#{sample}", auto_id(request, ordinal));
        let ids: Vec<String> = [
            "a#1", "a#2", "a#3", "b#1", "b#2", "b#3", "cc#1", "cc#2", "cc#3",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([auto(1, 1), auto(1, 2), auto(2, 1), auto(2, 2)])
        .chain(["d".to_owned(), "long#7".to_owned()])
        .collect();
        let offset = |i: usize| [0, 0, 0, 10, 10, 10, 20, 20, 20, 30, 30, 40, 40, 50, 60][i];
        let all_there = |matching: &Matching| {
            for (i, id) in ids.iter().enumerate() {
                let at = matching.find(id).unwrap_or_else(|| panic!("{id}"));
                assert_eq!(matching.entries[at].offset(), offset(i), "{id}");
            }
            for id in ["a#4", "d#1", "long#7#1"] {
                assert_eq!(matching.find(id), None, "{id}");
            }
        };
        all_there(&matching);
        // The first sample is the item itself.
        assert_eq!(
            matching.match_line("cc", prefix(3), EarlierResult::Success),
            Match::Done
        );
        assert_eq!(
            matching.match_line("cc", prefix(2), EarlierResult::Success),
            Match::Unknown
        );
        assert_eq!(
            matching.match_line("d#1", prefix(10), EarlierResult::Success),
            Match::Done
        );
        assert!(matching.is_renamed());
        assert_eq!(
            matching.offset_of("cc", prefix(3)),
            Some((20, Some("cc#1".to_owned())))
        );
        let index = matching.finish();
        let samples: Vec<u32> = (0..index.len())
            .map(|i| index.sample(i).unwrap_or(0))
            .collect();
        assert_eq!(samples, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 0, 0]);
        let done: Vec<usize> = (0..index.len()).filter(|i| index.is_done(*i)).collect();
        assert_eq!(done, [6, 13]);
        assert_eq!((index.end(1), index.end(12)), (10, 50));
        assert_eq!(index.item_id(12, None).unwrap().to_string(), auto(2, 2));
        let matching = index.into_matching();
        all_there(&matching);
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(matching.position(id), Some(i), "{id}");
        }
    }
}

#[test]
fn records_of_one_prompt_are_numbered_whatever_their_samples() {
    let records = [1, 3, 2, 1];
    let mut entries = Vec::new();
    for (samples, offset) in records.into_iter().zip([0, 10, 20, 30]) {
        match samples {
            1 => entries.push(auto(7, offset)),
            n => entries.extend((1..=n).map(|k| auto(7, offset).sampled(k))),
        }
    }
    let first = auto_id(7, 1);
    let expected = ["", "-2#1", "-2#2", "-2#3", "-3#1", "-3#2", "-4"];
    let expected: Vec<String> = expected.iter().map(|end| format!("{first}{end}")).collect();
    let matching = index(entries);
    let all_there = |matching: &Matching| {
        for (id, offset) in expected.iter().zip([0, 10, 10, 10, 20, 20, 30]) {
            let at = matching.find(id).unwrap_or_else(|| panic!("{id}"));
            assert_eq!(matching.entries[at].offset(), offset, "{id}");
        }
        for end in ["#1", "#2", "-2", "-3#3", "-5"] {
            assert_eq!(matching.find(&format!("{first}{end}")), None, "{end}");
        }
    };
    all_there(&matching);
    let index = matching.finish();
    assert_eq!(ids(&index), expected);
    let matching = index.into_matching();
    all_there(&matching);
    for (i, id) in expected.iter().enumerate() {
        assert_eq!(matching.position(id), Some(i), "{id}");
    }
}

#[test]
fn ids_with_colliding_hashes_are_distinguished() {
    let hash: IdHash = |id| match id {
        "foreign" => 0xabcd_ef01_2345_6788,
        _ => 0xabcd_ef01_2345_6789,
    };
    let entries = vec![Entry::new(hash("a"), 1, 0, 0)];
    let matching = Matching::new(entries, hash, Totals::default());
    assert_eq!(matching.find("foreign"), None);
    assert_eq!(matching.finish().into_matching().position("foreign"), None);
}
