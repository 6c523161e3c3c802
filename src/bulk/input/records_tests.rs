use super::super::cells::Rows;
use super::*;
use crate::base::random::Random;
use crate::base::seeds::random_cases;

/// The records of a text when they arrive in pieces of at most `piece` bytes.
fn split_by(bytes: &[u8], piece: usize) -> Vec<Range<usize>> {
    let (mut from, mut to) = (0, 0);
    let mut out = Vec::new();
    loop {
        to = (to + piece).min(bytes.len());
        let mut records = Vec::new();
        let used = split(true, &bytes[from..to], to == bytes.len(), &mut records).unwrap();
        out.extend(records.into_iter().map(|r| from + r.start..from + r.end));
        from += used;
        if to == bytes.len() {
            return out;
        }
    }
}

#[test]
fn random_tables_are_read_like_the_csv_crate_reads_them() {
    let mut random = Random(7);
    let mut compared = 0;
    let rounds = random_cases(2_000, 20_000);
    for round in 0..rounds {
        let by = [b',', b'\t'][round % 2];
        let pieces = [
            "a", "ü", ",", "\t", "\"", "\"", "\"\"", "\n", "\r", " ", "{{x}}",
        ];
        let text: String = (0..random.index(40))
            .map(|_| pieces[random.index(pieces.len())])
            .collect();
        let bytes = text.as_bytes();
        let mut found = Vec::new();
        let mut rows = Rows::new(bytes, by, true, 1);
        while let Some(row) = rows.next().unwrap() {
            found.push(row);
        }
        if found.iter().any(|row| row.last_fault.is_some()) {
            continue;
        }
        let mut reader = csv::ReaderBuilder::new();
        reader.has_headers(false).flexible(true).delimiter(by);
        let expected: Vec<Vec<String>> = reader
            .from_reader(bytes)
            .records()
            .map(|r| r.unwrap().iter().map(str::to_owned).collect())
            // Rows of several empty cells count as blank lines here.
            .filter(|row: &Vec<String>| {
                let blank = |cell: &String| cell.trim_ascii().is_empty();
                row.len() == 1 || !row.iter().all(blank)
            })
            .collect();
        let read = found.iter().map(|row| row.texts().collect::<Vec<_>>());
        assert!(
            read.eq(expected.iter().cloned()),
            "{text:?} in round {round}"
        );
        for row in &found {
            let line = text.split('\n').skip(row.line as usize - 1);
            let rest: String = line.collect::<Vec<_>>().join("\n");
            let row = String::from_utf8_lossy(&row.bytes);
            assert!(rest.contains(&*row), "{text:?} in round {round}");
        }
        compared += expected.len();
    }
    assert!(compared > rounds, "{compared}");
}

#[test]
fn blank_lines_are_no_records_and_lone_carriage_returns_end_lines() {
    for bytes in [
        &b"\n  \r\na\r\n\nb\n \nc"[..],
        b"a\rb\r \r\rc",
        b"\ra\rb\rc\r",
        b"a\r\nb\rc\n",
    ] {
        for piece in 1..=bytes.len() {
            let found = split_by(bytes, piece).into_iter();
            let found = found.map(|record| &bytes[record]);
            assert!(found.eq([b"a", b"b", b"c"]), "in pieces of {piece}");
        }
    }
}

#[test]
fn a_record_beyond_the_limit_is_a_fault() {
    let bytes = vec![b'x'; MAX_RECORD_BYTES + 1];
    for last in [false, true] {
        let (at, fault) = split(true, &bytes, last, &mut Vec::new()).unwrap_err();
        assert_eq!(fault.found, "a record of more than 64 MiB");
        assert_eq!(at, 0);
    }
    let mut records = Vec::new();
    split(true, &bytes[1..], true, &mut records).unwrap();
    assert_eq!(records.len(), 1);
}
