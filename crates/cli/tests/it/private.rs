//! Files with prompts and answers are readable only for the user.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::common::{Desk, RunToEnd, good};
use super::queue::plain;

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

#[test]
fn an_existing_data_folder_is_not_changed() {
    let desk = Desk::new();
    fs::create_dir(desk.path("data")).unwrap();
    fs::set_permissions(desk.path("data"), fs::Permissions::from_mode(0o755)).unwrap();
    desk.prompts("in.jsonl", 1);
    plain(&desk, "submit in.jsonl").expect(0);
    assert_eq!(rights(&desk.path("data")), 0o755);
    assert_eq!(rights(&desk.path("data/llm_jobs.db")), 0o600);
}
