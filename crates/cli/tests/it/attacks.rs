//! Attacks on a run by servers, files and other programs, each in the simplest form that once caused damage or that
//! no other test tries. Nothing may be lost or billed twice, and every failure is reported.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator};
use serde_json::Value;

use super::common::{Desk, Ended, Running, all_ids, good, line_count, simulator};

const KEY: &str = "sk-proj-Zx9Qab0123456789hijklMNOP";

/// A server that answers with the given bytes and stores the bodies of the calls.
struct Liar {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    fn new(reply: impl Fn(usize) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Some(body) = body_of(&stream) else {
                    continue;
                };
                let call = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(body);
                    kept.len()
                };
                let _ = stream.write_all(&reply(call));
            }
        });
        Self { url, asked }
    }

    /// Answers each call with this body.
    fn saying(body: impl Into<Vec<u8>>) -> Self {
        let reply = ok(&body.into(), "");
        Self::new(move |_| reply.clone())
    }

    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn run(&self, desk: &Desk, words: &str) -> Ended {
        self.start(desk, words).wait()
    }

    fn start(&self, desk: &Desk, words: &str) -> Running {
        let words = format!("run --provider custom --model m -j 1 {words}");
        let mut command = desk.command(words.split_whitespace());
        command.env("CUSTOM_LLM_BASE_URL", &self.url);
        Running::start(command.env("CUSTOM_LLM_API_KEY", KEY))
    }
}

fn ok(body: &[u8], headers: &str) -> Vec<u8> {
    reply("200 OK", body, headers)
}

fn reply(status: &str, body: &[u8], headers: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The body of a request, read completely; empty if there is none.
pub(super) fn body_of(mut stream: &TcpStream) -> Option<String> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&seen);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if length?.parse() == Ok(body.len()) {
            return Some(body.to_owned());
        }
    }
    None
}

/// An answer of OpenAI's API with this content and usage.
fn answer(content: &str, usage: &str) -> String {
    format!(
        r#"{{"choices":[{{"message":{{"content":{content}}},"finish_reason":"stop"}}],"usage":{usage}}}"#
    )
}

/// Runs one prompt and returns its result line.
fn one(liar: &Liar, words: &str) -> (Desk, Ended, Value) {
    let desk = Desk::with(1);
    let ended = liar.run(&desk, &format!("in.jsonl -o out.jsonl {words}"));
    let mut results = desk.results("out.jsonl");
    assert_eq!(results.len(), 1, "{}", ended.stderr);
    let result = results.remove(0);
    (desk, ended, result)
}

#[test]
fn odd_billed_replies_are_requested_once() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    let wrapped = |rest: &str| format!(r#"{{"x":{rest},{}"#, &answer("\"fine\"", "{}")[1..]);
    let bytes = |text: &str| text.as_bytes().to_vec();
    let gzip = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0xcb, 0xcc, 0x4b, 5, 0,
    ];
    let replies: [(&str, Vec<u8>, Option<&str>); 9] = [
        (
            "lone surrogates",
            bytes(&answer(r#""a\ud800""#, "{}")),
            None,
        ),
        (
            "no Unicode",
            answer("\"a?\"", "{}").replace('?', "\u{1}").into_bytes(),
            None,
        ),
        (
            "no number",
            bytes(&answer("\"fine\"", r#"{"prompt_tokens":NaN}"#)),
            None,
        ),
        (
            "twice",
            bytes(&answer(r#""no","content":"fine""#, "{}")),
            None,
        ),
        (
            "deep, unread",
            bytes(&wrapped(&deep(100_000))),
            Some("fine"),
        ),
        ("deep, read", bytes(&answer(&deep(100_000), "{}")), None),
        (
            "very many values",
            bytes(&answer(&format!("[{}1]", "1,".repeat(60_000)), "{}")),
            None,
        ),
        ("compressed unasked", gzip.to_vec(), None),
        ("HTML", bytes("<html>come back later</html>"), None),
    ];
    for (name, body, text) in replies {
        let liar = Liar::saying(body);
        let (desk, ended, result) = one(&liar, "");
        assert_eq!(result["text"].as_str(), text, "{name}: {result}");
        assert_eq!(
            ended.status.code(),
            Some(if text.is_some() { 0 } else { 3 }),
            "{name}"
        );
        assert_eq!(
            result["error"]["unusable_reply"] == true,
            text.is_none(),
            "{name}: {result}"
        );
        liar.run(&desk, "in.jsonl -o out.jsonl");
        assert_eq!(liar.calls(), 1, "{name} was bought again");
    }
}

#[test]
fn replies_with_a_wrong_length_end_and_are_not_answers() {
    let body = answer("\"fine\"", "{}");
    let more = (body.len() + 10).to_string();
    let two = format!("{}\r\ncontent-length: 5", body.len());
    for length in [&more, "-1", "99999999999999999999", "abc", &two] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        let liar = Liar::new(move |_| head.clone().into_bytes());
        let (_, ended, result) = one(&liar, "--max-retries 0");
        assert_eq!(result["success"], false, "{length}: {result}");
        ended.expect(3);
        assert_eq!(liar.calls(), 1, "{length}");
    }
}

#[test]
fn a_pause_for_many_tokens_is_not_reported_as_the_providers() {
    let desk = Desk::with(2);
    let usage = r#"{"prompt_tokens":3000000,"completion_tokens":7}"#;
    let liar = Liar::saying(answer("\"fine\"", usage));
    let running = liar.start(&desk, "in.jsonl -o out.jsonl --tpm 100000");
    running.hears("tokens per minute are used up for");
    running.signal("INT");
    let ended = running.wait().expect(130);
    ended.hides("requested a wait");
    assert_eq!(desk.ids("out.jsonl").len(), 1);
}

/// The program with these words and its standard output closed.
fn closed(desk: &Desk, words: &[&str]) -> Command {
    let script = "exec \"$0\" \"$@\" >&-";
    let program = env!("CARGO_BIN_EXE_batchwright");
    desk.other("sh", ["-c", script, program].iter().chain(words))
}

#[test]
fn pipes_in_place_of_quota_files_block_no_run() {
    let (desk, liar) = (Desk::new(), Liar::saying(answer("\"fine\"", "{}")));
    desk.prompts("in.jsonl", 3);
    liar.run(&desk, "in.jsonl -o first.jsonl --rpm 6000")
        .expect(0);
    let quotas = std::fs::read_dir(desk.path(super::common::HOME).join("quotas")).unwrap();
    let files: Vec<_> = quotas.map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        std::fs::remove_file(&file).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&file)
                .status()
                .unwrap()
                .success()
        );
    }
    liar.run(&desk, "in.jsonl -o out.jsonl --rpm 6000")
        .ends(0, "limits are not shared with other processes");
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
}

#[test]
fn a_truncated_output_line_loses_no_later_results() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().latency(Duration::from_millis(20)));
    desk.prompts("in.jsonl", 200);
    let words = "in.jsonl -o out.jsonl -j 4";
    let running = desk.start(&sim, words);
    let path = desk.path("out.jsonl");
    assert!(super::common::eventually(|| line_count(&path) > 10));
    let first = desk.read("out.jsonl").lines().next().unwrap().len() as u64;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(first + 1 + first / 2).unwrap();
    running.wait().ends(4, "another program truncated it");
    // One earlier line is left, and all lines that were added since.
    let kept = desk.results("out.jsonl").len() as u64;
    let before = sim.stats().calls;
    desk.run(&sim, words).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(200));
    assert_eq!(sim.stats().calls - before, 200 - kept);
}

#[test]
fn removing_a_broken_output_line_as_advised_resends_no_other_item() {
    let (desk, sim) = (Desk::with(20), good());
    for line in [1, 7, 20] {
        desk.run(&sim, "in.jsonl -o out.jsonl -j 1").expect(0);
        let before = sim.stats().calls;
        let text = desk.read("out.jsonl");
        let mut lines: Vec<&str> = text.lines().collect();
        let broken = lines[line - 1].replace("success", "\"");
        lines[line - 1] = &broken;
        desk.write("out.jsonl", lines.join("\n") + "\n");
        let ended = desk.run(&sim, "in.jsonl -o out.jsonl").expect(2);
        let advice =
            format!("sed -n {line}p out.jsonl >out.jsonl.line{line} && sed -i {line}d out.jsonl");
        ended.errs(&advice);
        let cure = desk.other("sh", ["-c", &advice]).status();
        assert!(cure.unwrap().success());
        assert_eq!(desk.read(&format!("out.jsonl.line{line}")), broken + "\n");
        desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(20));
        assert_eq!(sim.stats().calls, before + 1);
    }
    for notes in ["notes\n", "notes\nand more\n", "{}\n{}\n"] {
        desk.write("notes", notes);
        let ended = desk.run(&sim, "in.jsonl -o notes").expect(2);
        assert!(
            ended.error().ends_with("name another output"),
            "{}",
            ended.stderr
        );
        assert_eq!(desk.read("notes"), notes);
    }
}

#[test]
fn concatenated_files_and_other_encodings_are_read_correctly_or_rejected() {
    let (desk, sim) = (Desk::new(), good());
    let run = |name: &str, bytes: &[u8], words: &str| {
        desk.write(name, bytes);
        let _ = std::fs::remove_file(desk.path("out.jsonl"));
        desk.run(&sim, &format!("{name} -o out.jsonl {words}"))
    };
    let line = |id: &str| format!("\u{feff}{{\"id\":\"{id}\",\"prompt\":\"p\"}}\n");
    let joined = line("i-0") + &line("i-1");
    run("a.jsonl", joined.as_bytes(), "").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
    run("a.txt", "\u{feff}one\n\u{feff}two\n".as_bytes(), "").expect(0);
    let texts: Vec<_> = desk
        .results("out.jsonl")
        .iter()
        .map(|line| line["text"].clone())
        .collect();
    assert!(texts.contains(&"echo: two".into()), "{texts:?}");
    let calls = sim.stats().calls;
    let table = "\u{feff}id,text\r\ni-0,one\r\n";
    let ended = run("a.csv", table.repeat(2).as_bytes(), "--template {{text}}").expect(2);
    assert!(
        ended
            .error()
            .contains("a.csv:3: found the header once more"),
        "{}",
        ended.stderr
    );
    let wide = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<_>>()
    };
    for (name, bytes) in [
        ("b.txt", wide("one\ntwo\n")),
        ("b.csv", wide("id,prompt\n1,one\n")),
        (
            "c.jsonl",
            line("i-0")
                .into_bytes()
                .into_iter()
                .chain([0; 300])
                .collect(),
        ),
    ] {
        let ended = run(name, &bytes, "").expect(2);
        ended.errs(name);
    }
    assert_eq!(sim.stats().calls, calls);
    // The cells of each column may contain the name of the other column.
    run("a.csv", b"id,prompt\nprompt,id\n", "").expect(0);
    run("a.csv", b"prompt\nprompt\n", "").expect(0);
}

mod queued {
    use super::super::batch_runs::{WORDS, batch, run};
    use super::super::batch_runs::{bought, left_alone};
    use super::*;

    const STORE: &str = "out.jsonl.batchwright";

    /// Runs with something else in place of the store; then restores the store and collects.
    fn instead(name: &str, put: impl Fn(&std::path::Path)) {
        let (desk, sim) = left_alone(3);
        let (store, kept) = (desk.path(STORE), desk.path("kept"));
        std::fs::rename(&store, &kept).unwrap();
        put(&store);
        let ended = run(&desk, &sim, WORDS);
        assert_eq!(ended.status.code(), Some(1), "{name}: {}", ended.stderr);
        bought(&sim, 3);
        ended.errs(STORE);
        let _ = std::fs::remove_dir(&store);
        std::fs::rename(&kept, &store).unwrap();
        run(&desk, &sim, WORDS).expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(3), "{name}");
        bought(&sim, 3);
    }

    #[test]
    fn another_file_in_place_of_the_store_is_rejected_without_waiting() {
        let folder = |path: &std::path::Path| std::fs::create_dir(path).unwrap();
        let pipe = |path: &std::path::Path| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        };
        let long = |path: &std::path::Path| {
            let file = std::fs::File::create(path).unwrap();
            file.set_len(1 << 40).unwrap();
        };
        // Both wait for their batches.
        std::thread::scope(|scope| {
            scope.spawn(|| instead("a folder", folder));
            scope.spawn(|| instead("a pipe", pipe));
            scope.spawn(|| instead("a terabyte of nothing", long));
        });
    }

    #[test]
    fn concurrent_equal_commands_send_each_prompt_once() {
        let (desk, sim) = left_alone(5);
        let all: Vec<Running> = (0..4)
            .map(|_| Running::start(&mut batch(&desk, &sim, WORDS)))
            .collect();
        let mut codes: Vec<_> = all
            .into_iter()
            .map(|run| run.wait().status.code().unwrap())
            .collect();
        codes.sort_unstable();
        // The later one finds the output in use, or all of it done.
        assert!(
            codes[0] == 0 && codes.iter().all(|code| *code <= 1),
            "{codes:?}"
        );
        assert_eq!(desk.ids("out.jsonl"), all_ids(5));
        bought(&sim, 5);
    }

    fn finished(desk: &Desk, sim: &Simulator, items: usize) -> String {
        desk.prompts("in.jsonl", items);
        let id = desk.plain("submit in.jsonl --model sim-1").expect(0).stdout;
        let url = sim.base_url();
        let words = format!("work --until-empty --provider local --base-url {url} --rpm 100000");
        desk.plain(&words).expect(0);
        id.trim().to_owned()
    }

    #[test]
    fn no_command_runs_if_standard_output_is_closed() {
        let desk = Desk::new();
        desk.write("jobs.txt", "touch ran\n");
        let exec = |words: &[&str]| {
            let words = [&["exec", "jobs.txt"], words].concat();
            Running::start(&mut closed(&desk, &words)).wait()
        };
        let ended = exec(&[]).expect(1);
        assert!(ended.error().contains("standard output is closed"));
        assert!(!desk.exists("ran"));
        // The message names a way that works if the program that started it discards its standard output.
        assert!(ended.error().contains("/dev/null with --output"));
        exec(&["--output", "/dev/null"]).expect(0);
        assert!(desk.exists("ran"));
    }

    #[test]
    fn results_stay_in_the_queue_if_standard_output_is_closed() {
        let (desk, sim) = (Desk::new(), good());
        let id = finished(&desk, &sim, 3);
        for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            let words = ["results", &id, "--take", "-o", name];
            let ended = Running::start(&mut closed(&desk, &words)).wait().expect(1);
            assert!(
                ended.error().contains("standard output is closed"),
                "{name}"
            );
        }
        desk.plain(&format!("results {id} -o out.jsonl")).expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    }
}
