use super::super::cells::fields;
use super::*;
use crate::base::random::Random;
use crate::base::seeds::random_cases;

/// The records of `bytes` when they arrive in pieces of at most `piece` bytes.
fn split(form: Form, bytes: &[u8], piece: usize) -> Result<Vec<(usize, Record)>, Fault> {
    let mut splitter = Splitter::new(form, 1);
    let (mut from, mut to) = (0, 0);
    let mut out = Vec::new();
    loop {
        to = (to + piece).min(bytes.len());
        let mut records = Vec::new();
        let used = splitter.split(&bytes[from..to], to == bytes.len(), &mut records)?;
        out.extend(records.into_iter().map(|r| (from, r)));
        from += used;
        if to == bytes.len() {
            return Ok(out);
        }
    }
}

#[test]
fn random_tables_are_read_like_the_csv_crate_reads_them() {
    let mut random = Random(7);
    let mut compared = 0;
    let rounds = random_cases(2_000, 20_000);
    for round in 0..rounds {
        let (form, by) = [(Form::Csv, b','), (Form::Tsv, b'\t')][round % 2];
        let pieces = [
            "a", "ü", ",", "\t", "\"", "\"", "\"\"", "\n", "\r", " ", "{{x}}",
        ];
        let text: String = (0..random.index(40))
            .map(|_| pieces[random.index(pieces.len())])
            .collect();
        let bytes = text.as_bytes();
        let Ok(whole) = split(form, bytes, usize::MAX / 2) else {
            continue;
        };
        let mut reader = csv::ReaderBuilder::new();
        reader.has_headers(false).flexible(true).delimiter(by);
        let expected: Vec<Vec<String>> = reader
            .from_reader(bytes)
            .records()
            .map(|r| r.unwrap().iter().map(str::to_owned).collect())
            // Rows of several empty cells, or of a quoted delimiter, count as blank lines here.
            .filter(|row: &Vec<String>| {
                let is_one = row.len() == 1 && !row[0].contains(char::from(by));
                let is_blank = |cell: &String| cell.trim_matches([' ', '\t']).is_empty();
                is_one || !row.iter().all(is_blank)
            })
            .collect();
        for piece in [usize::MAX / 2, 1, 3] {
            let cut = split(form, bytes, piece).unwrap();
            let rows = cut
                .iter()
                .map(|(from, r)| &text[from + r.start..from + r.end]);
            let read: Vec<Vec<_>> = rows.map(|row| fields(row, by)).collect();
            assert_eq!(read, expected, "{text:?} in round {round}");
            let lines =
                |cut: &[(usize, Record)]| cut.iter().map(|(_, r)| r.line).collect::<Vec<_>>();
            assert_eq!(lines(&cut), lines(&whole), "{text:?}");
        }
        for (from, record) in &whole {
            let before = &bytes[..from + record.start];
            assert_eq!(record.line, 1 + memchr_iter(b'\n', before).count() as u64);
        }
        compared += expected.len();
    }
    assert!(compared > rounds, "{compared}");
}

#[test]
fn lines_are_counted_over_blank_ones_and_lone_carriage_returns_end_them() {
    for (bytes, lines) in [
        (&b"\n  \r\na\r\n\nb\n \nc"[..], [3, 5, 7]),
        (b"a\rb\r \r\rc", [1, 1, 1]),
        (b"\ra\rb\rc\r", [1, 1, 1]),
        (b"a\r\nb\rc\n", [1, 2, 2]),
    ] {
        for piece in 1..=bytes.len() {
            let found = split(Form::Text, bytes, piece).unwrap().into_iter();
            let found = found.map(|(from, r)| (&bytes[from + r.start..from + r.end], r.line));
            let expected = [&b"a"[..], b"b", b"c"].into_iter().zip(lines);
            assert!(found.eq(expected), "in pieces of {piece}");
        }
    }
}

#[test]
fn a_record_beyond_the_limit_is_a_fault() {
    let bytes = vec![b'x'; MAX_RECORD_BYTES + 1];
    for last in [false, true] {
        let mut splitter = Splitter::new(Form::Text, 4);
        let fault = splitter.split(&bytes, last, &mut Vec::new()).unwrap_err();
        assert_eq!(fault.found, "a record of more than 64 MiB");
        assert_eq!(splitter.line(), 4);
    }
    let mut records = Vec::new();
    let mut splitter = Splitter::new(Form::Text, 1);
    splitter.split(&bytes[1..], true, &mut records).unwrap();
    assert_eq!(records.len(), 1);
}
