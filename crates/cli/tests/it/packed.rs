//! Inputs that are compressed, or have another encoding than UTF-8.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::common::{Desk, Ended, good, id, results};
use super::program;
use batchwright_simulate::Simulator;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

fn fed(desk: &Desk, sim: &Simulator, words: &str, bytes: &[u8]) -> Ended {
    program::fed(&mut desk.against(sim, words), bytes)
}

/// The texts of the results, in the order of their ids.
fn texts(lines: &str) -> Vec<(String, String)> {
    let lines = results(lines);
    let text = |line: &serde_json::Value| line["text"].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = lines
        .iter()
        .map(|line| (id(line).to_owned(), text(line)))
        .collect();
    found.sort();
    found
}

const ROWS: &[u8] = b"id,prompt\na,one\nb,\"two\nlines\"\nc,three\n";
const LINES: &[u8] =
    b"{\"id\":\"a\",\"prompt\":\"one\"}\n{\"id\":\"b\",\"prompt\":\"two\\nlines\"}\n{\"id\":\"c\",\"prompt\":\"three\"}\n";

#[test]
fn compressed_inputs_are_unpacked() {
    let (desk, sim) = (Desk::new(), good());
    let expected = [
        ("a", "echo: one"),
        ("b", "echo: two\nlines"),
        ("c", "echo: three"),
    ];
    let expected = expected.map(|(id, text)| (id.to_owned(), text.to_owned()));
    let (first, second) = LINES.split_at(30);
    let list = [b"[", &LINES.split_last().unwrap().1.to_vec()[..], b"]"].concat();
    let list = String::from_utf8(list).unwrap().replace('\n', ",\n");
    for (name, packed) in [
        ("in.csv.gz", gzip(ROWS)),
        ("in.CSV.ZST", zstd(ROWS)),
        ("in.jsonl.gz", [gzip(first), gzip(second)].concat()),
        ("in.jsonl.zst", [zstd(first), zstd(second)].concat()),
        ("in.json.gz", gzip(list.as_bytes())),
        // With a wrong extension.
        ("in.csv", gzip(ROWS)),
    ] {
        desk.write(name, packed);
        let ended = desk.run(&sim, name).expect(0);
        assert_eq!(texts(&ended.stdout), expected, "{name}");
    }
    for (words, packed) in [
        ("-", gzip(LINES)),
        ("-", zstd(LINES)),
        ("- --format csv", gzip(ROWS)),
        ("- --format csv", zstd(ROWS)),
    ] {
        let ended = fed(&desk, &sim, words, &packed).expect(0);
        assert_eq!(texts(&ended.stdout), expected, "{words}");
    }
    desk.write("in.gz", gzip(ROWS));
    desk.run(&sim, "in.gz").ends(2, "--format with its format");
    let ended = desk.run(&sim, "in.gz --format csv").expect(0);
    assert_eq!(texts(&ended.stdout), expected);

    let calls = sim.stats().calls;
    desk.write("one.csv", ROWS);
    desk.run(&sim, "one.csv -o out.jsonl").expect(0);
    desk.run(&sim, "in.csv.gz -o out.jsonl")
        .ends(0, "3 finished before");
    assert_eq!(sim.stats().calls, calls + 3);
}

#[test]
fn other_encodings_are_read_when_they_are_named() {
    let (desk, sim) = (Desk::new(), good());
    let text = |ended: Ended| texts(&ended.expect(0).stdout);
    let expected = vec![("1".to_owned(), "echo: Größe für 5 €".to_owned())];
    let windows = b"id;prompt\r\n1;Gr\xf6\xdfe f\xfcr 5 \x80\r\n";
    desk.write("in.csv", windows);
    assert_eq!(
        text(desk.run(&sim, "in.csv --encoding windows-1252")),
        expected
    );
    let utf16 = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<_>>()
    };
    let line = utf16("{\"id\":\"1\",\"prompt\":\"Größe für 5 €\"}\n");
    assert_eq!(
        text(fed(&desk, &sim, "- --encoding utf-16le", &line)),
        expected
    );

    let calls = sim.stats().calls;
    desk.write("in.csv", b"id,prompt\n1,\"a\nb\"\n2,\xff\n");
    desk.run(&sim, "in.csv --encoding shift_jis")
        .expect(2)
        .says("in.csv: cannot be read: found bytes on line 4 that are not Shift_JIS");
    desk.run(&sim, "in.csv --encoding ebcdic")
        .expect(2)
        .says("there is no encoding named \"ebcdic\"; there are utf-8, utf-16, windows-1252");
    assert_eq!(sim.stats().calls, calls);
}
