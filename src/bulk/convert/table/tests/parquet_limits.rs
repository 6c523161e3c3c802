//! Parquet files that declare more data than they contain. Without the checks, most of them crashed the process.

use std::io::Write;

use super::*;

type Field = (u8, u8, Vec<u8>);

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn int(id: u8, n: i64) -> Field {
    (id, 5, varint((n << 1 ^ n >> 63) as u64))
}

fn long(id: u8, n: i64) -> Field {
    (id, 6, int(id, n).2)
}

fn text(id: u8, text: &[u8]) -> Field {
    (id, 8, [varint(text.len() as u64), text.to_vec()].concat())
}

fn list(id: u8, kind: u8, elements: &[Vec<u8>]) -> Field {
    let head = [vec![0xf0 | kind], varint(elements.len() as u64)].concat();
    (id, 9, [head, elements.concat()].concat())
}

fn structure(fields: &[Field]) -> Vec<u8> {
    let mut last = 0;
    let mut bytes = Vec::new();
    for (id, kind, value) in fields {
        bytes.push((id - last) << 4 | kind);
        bytes.extend_from_slice(value);
        last = *id;
    }
    bytes.push(0);
    bytes
}

/// A node of the schema.
fn node(name: &[u8], children: i64) -> Vec<u8> {
    match children {
        0 => structure(&[int(1, 1), int(3, 0), text(4, name)]),
        n => structure(&[int(3, 0), text(4, name), int(5, n)]),
    }
}

fn of_parts(data: &[u8], schema: &[Vec<u8>], groups: &[Vec<u8>]) -> Vec<u8> {
    let footer = structure(&[
        int(1, 1),
        list(2, 12, schema),
        long(3, 1),
        list(4, 12, groups),
    ]);
    let len = (footer.len() as u32).to_le_bytes();
    [b"PAR1", data, &footer, &len, b"PAR1"].concat()
}

/// A column of integers at this position of the file.
fn column(codec: i64, place: (i64, i64)) -> Vec<u8> {
    column_of(1, codec, place)
}

fn column_of(kind: i64, codec: i64, (start, end): (i64, i64)) -> Vec<u8> {
    let meta = structure(&[
        int(1, kind),
        list(2, 5, &[int(0, DELTA_BYTE_ARRAY).2]),
        list(3, 8, &[text(0, b"n").2]),
        int(4, codec),
        long(5, 1),
        long(6, end - start),
        long(7, end - start),
        long(9, start),
    ]);
    structure(&[long(2, start), (3, 12, meta)])
}

/// The encodings of values.
const DICTIONARY: i64 = 8;
const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
const DELTA_BYTE_ARRAY: i64 = 7;

fn group(columns: &[Vec<u8>], rows: i64) -> Vec<u8> {
    structure(&[list(1, 12, columns), long(2, 8), long(3, rows)])
}

/// A file with one column of these pages.
fn of_pages(codec: i64, pages: &[u8]) -> Vec<u8> {
    let place = (4, 4 + pages.len() as i64);
    let groups = [group(&[column(codec, place)], 1)];
    of_parts(pages, &[node(b"", 1), node(b"n", 0)], &groups)
}

/// A page of values, with the sizes that its header declares.
fn page(unpacked: i64, packed: i64, values: i64, data: &[u8]) -> Vec<u8> {
    page_of(0, unpacked, packed, values, data)
}

fn page_of(encoding: i64, unpacked: i64, packed: i64, values: i64, data: &[u8]) -> Vec<u8> {
    let of_data = structure(&[int(1, values), int(2, encoding), int(3, 3), int(4, 3)]);
    let sizes = [
        int(1, 0),
        int(2, unpacked),
        int(3, packed),
        (5, 12, of_data),
    ];
    [structure(&sizes), data.to_vec()].concat()
}

fn dictionary(unpacked: i64, values: i64, data: &[u8]) -> Vec<u8> {
    let of_dictionary = structure(&[int(1, values), int(2, 0)]);
    let packed = data.len() as i64;
    let sizes = [
        int(1, 2),
        int(2, unpacked),
        int(3, packed),
        (7, 12, of_dictionary),
    ];
    [structure(&sizes), data.to_vec()].concat()
}

fn found(bytes: &[u8]) -> Result<Vec<String>, String> {
    let (_folder, path) = place();
    let path = path.with_extension("parquet");
    std::fs::write(&path, bytes).unwrap();
    lines(&path, &PromptSettings::default()).map(|(lines, _)| lines)
}

const GZIP: i64 = 2;

#[test]
fn a_footer_is_checked_before_it_is_decoded() {
    let nested = |levels: usize| {
        let mut schema = vec![node(b"g", 1); levels];
        schema.push(node(b"n", 0));
        of_parts(b"", &schema, &[])
    };
    assert_eq!(found(&nested(64)).unwrap(), [r#"["g"]"#]);
    let many = 40_000;
    let long = [
        vec![node(b"", 1), node(&[b'x'; 1 << 20], 9999)],
        vec![node(b"n", 0); 9999],
    ];
    for (file, said) in [
        (
            nested(many),
            "its schema has 40001 columns and groups; expected at most 16384",
        ),
        (nested(65), "its schema is nested more than 64 levels deep"),
        (
            of_parts(b"", &[node(b"", i64::from(i32::MAX)), node(b"n", 0)], &[]),
            "its schema has more columns, or longer names, than the footer has room for",
        ),
        (
            of_parts(b"", &long.concat(), &[]),
            "its schema has more columns, or longer names, than the footer has room for",
        ),
        (
            of_parts(b"", &[node(b"", -1)], &[]),
            "its schema has a negative count",
        ),
        (
            of_parts(b"", &[node(b"", 2), node(b"n", 0)], &[]),
            "its schema has groups without their columns",
        ),
        (
            of_parts(b"", &[node(b"", 1), node(b"n", 0)], &vec![vec![0]; 9]),
            "its footer has 9 elements in too few bytes",
        ),
    ] {
        let why = found(&file).unwrap_err();
        assert!(
            why.ends_with(&format!("in.parquet: cannot be read: {said}")),
            "{why}"
        );
    }
}

#[test]
fn a_footer_of_nested_values_is_refused() {
    let lists = [vec![0x19; 300_000], vec![0x05, 0]].concat();
    let footer = [&b"\x15\x02\x79"[..], &lists].concat();
    let file = [
        b"PAR1",
        &footer[..],
        &(footer.len() as u32).to_le_bytes(),
        b"PAR1",
    ]
    .concat();
    let why = found(&file).unwrap_err();
    assert!(why.contains("nested more than 32 levels deep"), "{why}");
}

#[test]
fn sizes_of_pages_are_checked_before_memory_is_allocated() {
    let one = 7_i32.to_le_bytes();
    assert_eq!(
        found(&of_pages(0, &page(4, 4, 1, &one))).unwrap(),
        [r#"["n"]"#, "[7]"]
    );
    // Stored without compression, and larger than the largest page could be after compression.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    bomb.write_all(&vec![0; 300_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    let most = i64::from(i32::MAX);
    let shared = column(0, (4, 4 + page(4, 4, 1, &one).len() as i64));
    let schema = [node(b"", 2), node(b"n", 0), node(b"m", 0)];
    for (file, said) in [
        (
            of_pages(GZIP, &page(most, 4, 1, &one)),
            "a page has 2047 MiB when unpacked; expected at most 128",
        ),
        (
            of_pages(0, &page(4, most, 1, &one)),
            "a page is longer than its column",
        ),
        (
            of_pages(0, &page(-4, 4, 1, &one)),
            "a page has a negative size",
        ),
        (
            of_pages(0, &page(4, 4, 0, &one)),
            "a column has fewer values than the table has rows",
        ),
        (
            of_pages(GZIP, &page(4, bomb.len() as i64, 1, &bomb)),
            "a page is larger than it declares",
        ),
        (
            of_pages(0, &dictionary(4, most, &one)),
            "a dictionary is too short for its values",
        ),
        (
            of_pages(
                GZIP,
                &[dictionary(100 << 20, 25 << 20, &one), page(4, 4, 1, &one)].concat(),
            ),
            "one page of each column takes 900 MiB of memory; expected at most 128",
        ),
        (
            of_parts(
                &page(4, 4, 1, &one),
                &schema,
                &[group(&[shared.clone(), shared], 1)],
            ),
            "its columns overlap",
        ),
        (
            of_parts(
                b"",
                &[node(b"", 1), node(b"n", 0)],
                &[group(&[column(0, (4, i64::MAX))], 1)],
            ),
            "it has a column outside of the file",
        ),
    ] {
        let why = found(&file).unwrap_err();
        assert!(
            why.ends_with(&format!("in.parquet: cannot be read: {said}")),
            "{why}"
        );
    }
}

/// A file with one column of texts, required or repeated, and these pages.
fn of_texts(repetition: i64, pages: &[u8]) -> Vec<u8> {
    let place = (4, 4 + pages.len() as i64);
    let leaf = structure(&[int(1, 6), int(3, repetition), text(4, b"n")]);
    let groups = [group(&[column_of(6, 0, place)], 1)];
    of_parts(pages, &[node(b"", 1), leaf], &groups)
}

/// Runs of levels or indexes, each with its count, preceded by their length.
fn runs(runs: &[(u64, u8)]) -> Vec<u8> {
    let runs = runs
        .iter()
        .map(|(count, level)| [varint(count << 1), vec![*level]].concat());
    let bytes = runs.collect::<Vec<_>>().concat();
    [(bytes.len() as u32).to_le_bytes().to_vec(), bytes].concat()
}

#[test]
fn the_size_of_a_row_is_checked_before_decoding() {
    let delta = |count: u64| [varint(128), varint(4), varint(count), varint(0)].concat();
    let lengths = |encoding: i64, data: &[u8]| {
        let size = data.len() as i64;
        of_texts(0, &page_of(encoding, size, size, 1, data))
    };
    // One row with `count` references to the first text of the dictionary.
    let references = |count: u64, first: &[u8]| {
        let first = [&(first.len() as u32).to_le_bytes(), first].concat();
        let levels = [runs(&[(1, 0), (count - 1, 1)]), runs(&[(count, 1)])].concat();
        let data = [levels, vec![1], varint(count << 1), vec![0]].concat();
        let size = data.len() as i64;
        let page = page_of(DICTIONARY, size, size, count as i64, &data);
        let dictionary = dictionary(first.len() as i64, 1, &first);
        of_texts(2, &[dictionary, page].concat())
    };
    assert_eq!(
        found(&references(3, b"a")).unwrap(),
        [r#"["n"]"#, r#"[["a","a","a"]]"#]
    );
    for (file, said) in [
        (
            lengths(DELTA_LENGTH_BYTE_ARRAY, &delta(1 << 40)),
            "a page has a wrong number of lengths",
        ),
        (
            lengths(DELTA_BYTE_ARRAY, &delta(1 << 31)),
            "a page has a wrong number of lengths",
        ),
        (
            lengths(DELTA_BYTE_ARRAY, &[delta(1), delta(1 << 40)].concat()),
            "a page has a wrong number of lengths",
        ),
        (
            references(200_000_000, b"a"),
            "a row has lists of more than 2097152 values; expected at most 2097152",
        ),
        (
            references(1000, &[b'x'; 1 << 20]),
            "the lists of a row may have more than 512 MiB of text; expected at most 512 MiB",
        ),
    ] {
        let why = found(&file).unwrap_err();
        assert!(
            why.ends_with(&format!("cannot be read: Parquet error: {said}")),
            "{why}"
        );
    }
}

#[test]
fn texts_and_lists_in_all_encodings_are_read() {
    use ::parquet::basic::Encoding;
    use ::parquet::data_type::{ByteArray, ByteArrayType};
    use ::parquet::file::properties::{WriterProperties, WriterVersion};
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    const ROWS: usize = 3000;
    let schema = "message schema {
        REQUIRED BYTE_ARRAY text (UTF8);
        OPTIONAL GROUP tags (LIST) { REPEATED GROUP list { OPTIONAL BYTE_ARRAY element (UTF8); } }
    }";
    let texts: Vec<String> = (0..ROWS)
        .map(|i| format!("text {} of {i}", "x".repeat(i % 200)))
        .collect();
    let value = |text: &String| ByteArray::from(text.as_bytes().to_vec());
    for encoding in [
        None,
        Some(Encoding::PLAIN),
        Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
        Some(Encoding::DELTA_BYTE_ARRAY),
    ] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_data_page_row_count_limit(700);
            let properties = match encoding {
                Some(encoding) => properties
                    .set_dictionary_enabled(false)
                    .set_encoding(encoding),
                None => properties,
            };
            let (_folder, path) = place();
            let path = path.with_extension("parquet");
            let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
            let file = std::fs::File::create(&path).unwrap();
            let properties = std::sync::Arc::new(properties.build());
            let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> = texts.iter().map(value).collect();
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, None, None)
                .unwrap();
            column.close().unwrap();
            // The number of tags of each row is the row number modulo 4, and none is null.
            let tags: Vec<&String> = (0..ROWS).flat_map(|i| vec![&texts[i]; i % 4]).collect();
            let tags: Vec<ByteArray> = tags.into_iter().map(value).collect();
            let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
            for i in 0..ROWS {
                for tag in 0..(i % 4).max(1) {
                    definitions.push(if i % 4 == 0 { 1 } else { 3 });
                    repetitions.push(i16::from(tag > 0));
                }
            }
            let mut column = group.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            typed
                .write_batch(&tags, Some(&definitions), Some(&repetitions))
                .unwrap();
            column.close().unwrap();
            group.close().unwrap();
            writer.close().unwrap();
            let (rows, _) = lines(&path, &PromptSettings::default()).unwrap();
            assert_eq!(rows.len(), ROWS + 1);
            for (i, row) in rows[1..].iter().enumerate() {
                let expected = serde_json::json!([texts[i], vec![&texts[i]; i % 4]]);
                assert_eq!(*row, expected.to_string(), "{encoding:?}");
            }
        }
    }
}
