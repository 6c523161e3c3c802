//! Keys and passwords are sent only to their server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::common::{Desk, RunToEnd, good};
use super::fake::Fake;

const KEY: &str = "sk-secret/0123456789abcdef";
const TOKEN: &str = "tok-Zx9Qab0123456789hijklMNOP";
const PASSWORD: &str = "passw0rd-of-the-proxy";

#[track_caller]
fn clean(texts: &[(&str, &str)]) {
    // The last one is the password encoded in a header of basic authentication.
    let basic = "dXNlcjpwYXNzdzByZC1vZi10aGUtcHJveHk";
    for (name, text) in texts {
        for secret in [KEY, TOKEN, "0123456789abcdef", PASSWORD, basic] {
            assert!(!text.contains(secret), "{secret} is in {name}: {text}");
        }
    }
}

#[test]
fn keys_and_passwords_are_never_shown_at_any_log_level() {
    for status in [400, 401, 500, 200] {
        for log in [None, Some("trace"), Some("ureq_proto::util=trace")] {
            let (desk, server) = (Desk::with(2), Fake::echo(status));
            let headers = format!("\nX-Team-Token: {TOKEN}\nX-Title: my own title\n");
            desk.write("headers.txt", headers);
            let url = format!("http://user:{PASSWORD}@{}/v1", server.address);
            let words = "run in.jsonl -o out.jsonl --provider openai --model m --log-level debug \
                         --max-retries 0 --header=@headers.txt --base-url";
            let mut command = desk.command(words.split_whitespace().chain([&*url]));
            command.env("OPENAI_API_KEY", KEY);
            command.envs(log.map(|log| ("RUST_LOG", log)));
            let ended = command.ended();
            assert!(matches!(ended.status.code(), Some(0 | 3 | 4)));
            for asked in server.calls() {
                for sent in [
                    format!("authorization: Bearer {KEY}\r\n"),
                    format!("x-team-token: {TOKEN}\r\n"),
                    "x-title: my own title\r\n".to_owned(),
                ] {
                    let (head, sent) = (asked.head.to_lowercase(), sent.to_lowercase());
                    assert!(head.contains(&sent), "{head}");
                }
            }
            let output = desk.read("out.jsonl");
            assert!(!output.is_empty());
            // A header that is not a key does not mask parts of an answer.
            assert_eq!(output.contains("my own title"), status == 200, "{output}");
            // Nor in pieces, as in a hexadecimal listing.
            ended.hides("sk-");
            clean(&[
                ("stdout", &ended.stdout),
                ("stderr", &ended.stderr),
                ("the output", &output),
            ]);
        }
    }
}

#[test]
fn a_key_in_a_file_is_sent_and_never_shown() {
    let (desk, server) = (Desk::with(1), Fake::echo(200));
    desk.write("key", format!("{KEY}\n"));
    let run = "run in.jsonl --provider openai --model m";
    let at = |words: &str, variable: Option<&str>| {
        let mut command = desk.command(words.split_whitespace());
        command.envs(variable.map(|file| ("OPENAI_API_KEY_FILE", file)));
        command.ended()
    };
    let debug = format!("{run} --log-level debug --base-url {}", server.url());
    for (flags, variable) in [("--api-key-file key", None), ("", Some("key"))] {
        let ended = at(&format!("{debug} {flags}"), variable).expect(0);
        clean(&[("stderr", &ended.stderr)]);
        let last = server.asked().last().unwrap().head.clone();
        assert!(last.contains(&format!("Bearer {KEY}")), "{last}");
    }
    // A header replaces it.
    let header = format!("Authorization: Bearer {TOKEN}");
    let words = debug.split(' ').chain(["--header", &header]);
    let ended = desk.command(words).ended().expect(0);
    clean(&[("stdout", &ended.stdout), ("stderr", &ended.stderr)]);
    let last = server.asked().last().unwrap().head.clone();
    assert!(last.contains(&format!("Bearer {TOKEN}")), "{last}");
    at("run in.jsonl --api-key-file in.jsonl", None)
        .tells("--api-key-file: it applies to one provider only: add --provider NAME");
    desk.write("key", "\n");
    for words in [
        run,
        &format!("{run} --api-key-file key"),
        "work --until-empty --data-dir data --provider openai --model m",
    ] {
        let ended = at(words, Some("key"));
        assert_ne!(ended.status.code(), Some(0));
        ended.tells("the file with the API key, key, is empty");
    }
}

#[test]
fn a_url_in_the_environment_is_shown_without_its_password() {
    let desk = Desk::with(1);
    let url = format!("http://user:{PASSWORD}@127.0.0.1:9/v1?key={KEY}");
    let shown = |words: &str| {
        let mut command = desk.command(words.split(' '));
        command
            .env("LOCAL_LLM_BASE_URL", &url)
            .env("OPENAI_BASE_URL", &url)
            .env("OPENAI_API_KEY", KEY)
            .env("RUST_LOG", "batchwright=trace");
        let ended = command.ended();
        clean(&[("stdout", &ended.stdout), ("stderr", &ended.stderr)]);
        ended
    };
    for words in [
        "providers --json",
        "providers",
        "run in.jsonl --provider local",
    ] {
        let ended = shown(words);
        let all = ended.stdout + &ended.stderr;
        assert!(all.contains("***@127.0.0.1:9"), "{all}");
    }
    let bad = format!("--base-url ftp://user:{PASSWORD}@host/v1");
    let ended = shown(&format!("run in.jsonl --model m --provider openai {bad}"));
    assert_ne!(ended.status.code(), Some(0));
}

/// Every folder and file below this one, with its permissions.
fn all(folder: &Path, found: &mut Vec<(String, bool, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let rights = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        found.push((path.display().to_string(), path.is_dir(), rights));
        if path.is_dir() {
            all(&path, found);
        }
    }
}

#[test]
fn data_folder_and_all_in_it_are_private_when_the_program_makes_them() {
    let (desk, sim) = (Desk::with(3), good());
    // The last worker waits for its batch, with all its files on the disk.
    for words in [
        "config set llm.burst_size 5",
        "submit in.jsonl --model sim-1",
        "work --provider openai --strategy batch --until-submitted",
        "run - -o out.jsonl --provider openai --model sim-1 --rpm 60000",
    ] {
        // With a umask that allows reading by all users.
        let program = env!("CARGO_BIN_EXE_batchwright");
        let mut command = desk.other("sh", ["-c", "umask 022; exec \"$0\" \"$@\"", program]);
        command
            .args(words.split(' ').chain(["--data-dir", "new/data"]))
            .env("OPENAI_API_KEY", "sk-private-0123456789")
            .env("OPENAI_BASE_URL", sim.base_url())
            .stdin(fs::File::open(desk.path("in.jsonl")).unwrap());
        command.ended().expect(0);
    }
    let mut found = vec![];
    all(&desk.path(""), &mut found);
    found.retain(|(name, ..)| name.contains("/new"));
    for (name, is_folder, rights) in &found {
        let private = if *is_folder { 0o700 } else { 0o600 };
        assert_eq!(*rights, private, "{name}: {rights:o} among {found:?}");
    }
    for part in ["llm_jobs.db", "settings.json", "quota-"] {
        let mut names = found.iter().map(|(name, ..)| name);
        assert!(names.any(|name| name.contains(part)), "{part}: {found:?}");
    }
}
