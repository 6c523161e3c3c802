//! No reader takes steps with the square of its longest element.

use std::io::BufReader;

use super::check::Chunk;
use super::records::split;
use super::tests::Scratch;
use super::*;
use crate::base::steps::{allocated, assert_linear};

/// A file of that format whose longest element has that many pieces.
type Made = fn(usize) -> String;

const FILES: [(&str, &str, Made); 21] = [
    ("a string", "jsonl", |n| line(&"a".repeat(n))),
    ("escapes", "jsonl", |n| line(&"\\n\\ud83d\\ude00".repeat(n))),
    ("an open string", "jsonl", |n| {
        format!("{{\"prompt\":\"{}", "a".repeat(n))
    }),
    ("blanks", "jsonl", |n| {
        format!("{{\"prompt\":{}\"x\"}}", " ".repeat(n))
    }),
    ("a list", "jsonl", |n| {
        format!("{{\"prompt\":\"x\",\"m\":[{}1]}}", "1,".repeat(n))
    }),
    ("brackets", "jsonl", |n| {
        format!("{{\"prompt\":\"x\",\"m\":{}", "[".repeat(n))
    }),
    ("a number", "jsonl", |n| {
        format!("{{\"prompt\":\"x\",\"m\":{}}}", "1".repeat(n))
    }),
    ("an id", "jsonl", |n| {
        format!("{{\"prompt\":\"x\",\"id\":\"{}\"}}", "a".repeat(n))
    }),
    ("fields", "jsonl", |n| {
        format!(
            "{{\"prompt\":\"x\",{}\"z\":1}}",
            many(n, |i| format!("\"k{i}\":1,"))
        )
    }),
    ("messages", "jsonl", |n| {
        let message = "{\"role\":\"user\",\"content\":\"x\"},".repeat(n);
        format!("{{\"messages\":[{}]}}", message.trim_end_matches(','))
    }),
    ("parts", "jsonl", |n| {
        let part = "{\"type\":\"text\",\"text\":\"x\"},".repeat(n);
        let parts = part.trim_end_matches(',');
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":[{parts}]}}]}}")
    }),
    ("blank lines", "jsonl", |n| "\n".repeat(n) + &line("x")),
    ("an element", "json", |n| {
        format!("[{}]", line(&"a".repeat(n)))
    }),
    ("elements", "json", |n| {
        format!("[{}{}]", (line("x") + ",").repeat(n), line("x"))
    }),
    ("a field", "csv", |n| {
        format!("id,prompt\n1,\"{}\"\n", "a\n".repeat(n))
    }),
    ("marks", "csv", |n| {
        format!("id,prompt\n1,\"{}\"\n", "\"\"".repeat(n))
    }),
    ("marks that begin nothing", "csv", |n| {
        format!("id,prompt\n1,{}\n", "a\"".repeat(n))
    }),
    ("open marks", "csv", |n| {
        format!("id,prompt\n{}", "1,\"a\n".repeat(n))
    }),
    ("columns", "csv", |n| {
        many(n, |i| format!("c{i},")) + "prompt\n" + &"1,".repeat(n) + "x\n"
    }),
    ("a line", "txt", |n| "a ".repeat(n)),
    ("lines", "txt", |n| "a\r".repeat(n)),
];

fn line(prompt: &str) -> String {
    format!("{{\"prompt\":\"{prompt}\"}}")
}

fn many(n: usize, one: impl Fn(usize) -> String) -> String {
    (0..n).map(one).collect()
}

#[test]
fn no_reader_takes_steps_with_the_square_of_the_longest_element() {
    // All work of this test is done on its own thread, which is measured.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let pool = pool.use_current_thread().build().unwrap();
    for (what, extension, made) in FILES {
        assert_linear(&format!("{what} in .{extension}"), |n| {
            let file = Scratch::new(extension, made(n));
            pool.install(|| allocated(|| drop(file.check())))
        });
    }
    for (delimiter, row) in [(b',', "\"a\"\"b\",c d,\"\n"), (b'\t', "a\tb\"\"\t")] {
        assert_linear("a row", |n| {
            let text = row.repeat(n);
            allocated(|| {
                let mut rows = Rows::new(BufReader::new(text.as_bytes()), delimiter, true, 1);
                while rows
                    .next()
                    .unwrap()
                    .is_some_and(|row| row.texts().count() > 0)
                {}
            })
        });
    }
}

/// Longer records than are read at once: what is read of one is neither copied nor looked at again for each piece.
#[test]
fn a_record_of_many_pieces_is_looked_at_a_few_times() {
    let looked_at = |megabytes: usize| {
        let file = Scratch::new("jsonl", "a".repeat(megabytes << 20));
        let source = Source::open(&file.0).unwrap();
        let (mut chunk, mut next, mut steps) = (Chunk::default(), Chunk::default(), 0);
        chunk.read(&source, 0).unwrap();
        while !chunk.last {
            let used = split(false, &chunk.bytes, false, &mut Vec::new()).unwrap();
            steps += chunk.bytes.len();
            next.continue_from(&chunk.bytes[used..], &source, used as u64)
                .unwrap();
            std::mem::swap(&mut chunk, &mut next);
        }
        steps
    };
    let (first, last) = (looked_at(8), looked_at(64));
    assert!(last < 12 * first, "{first}, then {last}");
}
