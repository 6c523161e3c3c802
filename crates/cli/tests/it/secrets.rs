//! Keys and passwords are sent only to their server.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::common::{Desk, RunToEnd, good};
use super::fake::Fake;

const KEY: &str = "sk-secret/0123456789abcdef";
const PASSWORD: &str = "passw0rd-of-the-proxy";

#[track_caller]
fn clean(texts: &[(&str, &str)]) {
    // The second half of the list is the password encoded in a header of basic authentication.
    let basic = "dXNlcjpwYXNzdzByZC1vZi10aGUtcHJveHk";
    for (name, text) in texts {
        for secret in [KEY, "0123456789abcdef", PASSWORD, basic] {
            assert!(!text.contains(secret), "{secret} is in {name}: {text}");
        }
    }
}

#[test]
fn keys_and_passwords_are_never_shown_at_any_log_level() {
    for status in [400, 401, 500, 200] {
        for log in [None, Some("trace"), Some("ureq_proto::util=trace")] {
            let (desk, server) = (Desk::new(), Fake::echo(status));
            desk.prompts("in.jsonl", 2);
            let url = format!("http://user:{PASSWORD}@{}/v1", server.address);
            let words = "run in.jsonl -o out.jsonl --provider openai --model m --log-level debug \
                         --max-retries 0 --base-url";
            let mut command = desk.command(words.split_whitespace().chain([&*url]));
            command.env("OPENAI_API_KEY", KEY);
            if let Some(log) = log {
                command.env("RUST_LOG", log);
            }
            let ended = command.ended();
            assert!(matches!(ended.status.code(), Some(0 | 3 | 4)));
            let sent = server.asked().into_iter().map(|asked| asked.head.clone());
            let sent: String = sent.collect();
            assert!(sent.contains(&format!("Bearer {KEY}")), "{sent}");
            assert!(!desk.read("out.jsonl").is_empty());
            // Nor in pieces, as in a hexadecimal listing.
            ended.hides("sk-");
            clean(&[
                ("stdout", &ended.stdout),
                ("stderr", &ended.stderr),
                ("the output", &desk.read("out.jsonl")),
            ]);
        }
    }
}

#[test]
fn a_key_in_a_file_is_sent_and_never_shown() {
    let (desk, server) = (Desk::new(), Fake::echo(200));
    desk.prompts("in.jsonl", 1);
    desk.write("key", &format!("{KEY}\n"));
    let url = format!("http://{}/v1", server.address);
    for (flags, variable) in [("--api-key-file key", None), ("", Some("key"))] {
        let words = format!(
            "run in.jsonl --provider openai --model m --log-level debug {flags} --base-url"
        );
        let mut command = desk.command(words.split_whitespace().chain([&*url]));
        command.envs(variable.map(|file| ("OPENAI_API_KEY_FILE", file)));
        let ended = command.ended().expect(0);
        clean(&[("stderr", &ended.stderr)]);
        let last = server.asked().last().unwrap().head.clone();
        assert!(last.contains(&format!("Bearer {KEY}")), "{last}");
    }
    let ended = desk
        .command("run in.jsonl --api-key-file in.jsonl".split(' '))
        .ended();
    ended.says("--api-key-file: it applies to one provider only: add --provider NAME");
    desk.write("key", "\n");
    for words in [
        "run in.jsonl --provider openai --model m",
        "run in.jsonl --provider openai --model m --api-key-file key",
        "work --until-empty --data-dir data --provider openai --model m",
    ] {
        let mut command = desk.command(words.split(' '));
        let ended = command.env("OPENAI_API_KEY_FILE", "key").ended();
        assert_ne!(ended.status.code(), Some(0));
        ended.says("the file with the API key, key, is empty");
    }
}

#[test]
fn a_url_in_the_environment_is_shown_without_its_password() {
    let desk = Desk::new();
    let url = format!("http://user:{PASSWORD}@127.0.0.1:9/v1?key={KEY}");
    let log = "batchwright=trace";
    for words in [
        "providers --json",
        "providers",
        "run in.jsonl --provider local",
    ] {
        desk.prompts("in.jsonl", 1);
        let mut command = desk.command(words.split(' '));
        command.env("LOCAL_LLM_BASE_URL", &url);
        command.env("OPENAI_BASE_URL", &url);
        command.env("OPENAI_API_KEY", KEY).env("RUST_LOG", log);
        let ended = command.ended();
        clean(&[("stdout", &ended.stdout), ("stderr", &ended.stderr)]);
        let all = ended.stdout + &ended.stderr;
        assert!(all.contains("***@127.0.0.1:9"), "{all}");
    }
    let bad = format!("ftp://user:{PASSWORD}@host/v1");
    let mut command = desk.command(["run", "in.jsonl", "--model", "m", "--provider", "openai"]);
    command
        .args(["--base-url", &bad])
        .env("OPENAI_API_KEY", KEY);
    let ended = command.ended();
    assert_ne!(ended.status.code(), Some(0));
    clean(&[("stderr", &ended.stderr)]);
}

/// The program with a umask that allows reading by all users.
fn wide<S: AsRef<OsStr>>(desk: &Desk, words: impl IntoIterator<Item = S>) -> Command {
    let program = env!("CARGO_BIN_EXE_batchwright");
    let mut command = desk.other("sh", ["-c", "umask 022; exec \"$0\" \"$@\"", program]);
    command.args(words);
    command
}

fn rights(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Every folder and file below this one, with its permissions.
fn all(folder: &Path, found: &mut Vec<(String, bool, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        found.push((name, path.is_dir(), rights(&path)));
        if path.is_dir() {
            all(&path, found);
        }
    }
}

#[test]
fn data_folder_and_all_in_it_are_private_when_the_program_makes_them() {
    let (desk, sim) = (Desk::with(3), good());
    let data = ["--data-dir", "new/data"];
    let go = |words: &str, stdin: bool| {
        let mut command = wide(&desk, words.split_whitespace());
        command
            .args(data)
            .env("OPENAI_API_KEY", "sk-private-0123456789");
        command.env("OPENAI_BASE_URL", sim.base_url());
        if stdin {
            let input = fs::File::open(desk.path("in.jsonl")).unwrap();
            command.stdin(input);
        }
        command.ended().expect(0);
    };
    go("config set llm.burst_size 5", false);
    go("submit in.jsonl --model sim-1", false);
    // Waits for its batch, with all its files on the disk.
    go(
        "work --provider openai --strategy batch --until-submitted",
        false,
    );
    go(
        "run - -o out.jsonl --provider openai --model sim-1 --rpm 60000",
        true,
    );
    let mut found = Vec::new();
    all(&desk.path("new"), &mut found);
    for (name, is_folder, rights) in &found {
        let private = if *is_folder { 0o700 } else { 0o600 };
        assert_eq!(*rights, private, "{name}: {rights:o} among {found:?}");
    }
    let has = |part: &str| found.iter().any(|(name, ..)| name.contains(part));
    for part in ["llm_jobs.db", "config.db", "quota-"] {
        assert!(has(part), "{part}: {found:?}");
    }
    assert_eq!(rights(&desk.path("new")), 0o700);
}
