//! Files as the world has them: the hints for the first command that comes to mind, and the prompts that Python reads.

use std::collections::BTreeMap;
use std::path::Path;

use batchwright::Request;
use batchwright::client::request_hash;
use batchwright_simulate::Simulator;

use super::common::{Desk, Ended, RunToEnd, good};

/// A file with the first words, the hints, and the words whose prompts are known.
#[derive(Default)]
struct Case {
    file: &'static str,
    first: &'static str,
    hints: Vec<&'static str>,
    read: Option<&'static str>,
}

const COMMANDS: &str = include_str!("../../../../tests/data/rows/commands.txt");
const EXPECTED: &str = include_str!("../../../../tests/data/rows/expected.json");

fn all() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    for line in COMMANDS.lines().filter(|line| !line.starts_with("//")) {
        match (line.trim_start().split_once(':'), all.last_mut()) {
            (Some(("first", words)), Some(case)) => case.first = words,
            (Some(("hint", words)), Some(case)) => case.hints.push(words.trim()),
            (Some(("read", words)), Some(case)) => case.read = Some(words),
            _ => all.push(Case {
                file: line,
                ..Case::default()
            }),
        }
    }
    let is_read = |case: &Case| {
        let is_table = case.file.ends_with(".xlsx") || case.file.ends_with(".parquet");
        cfg!(feature = "tables") || !is_table
    };
    all.retain(is_read);
    all
}

fn copied(desk: &Desk) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/rows");
    for case in all() {
        desk.write(case.file, std::fs::read(folder.join(case.file)).unwrap());
    }
}

/// `run` with these words, as a shell reads them.
fn typed(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    let script =
        format!("exec \"$0\" run --provider local --model sim-1 --base-url \"$1\" {words}");
    let program = env!("CARGO_BIN_EXE_batchwright");
    desk.other("sh", ["-c", &script, program, &sim.base_url()])
        .ended()
}

#[test]
fn each_hint_leads_to_a_run() {
    let (desk, sim) = (Desk::new(), good());
    copied(&desk);
    for case in all() {
        let mut words = format!("{} {} --dry-run", case.file, case.first);
        for hint in &case.hints {
            typed(&desk, &sim, &words).ends(2, hint);
            words = format!("{words} {hint}");
        }
        typed(&desk, &sim, &words)
            .ends(0, "nothing was sent")
            .tells("the first prompt, ");
    }
}

#[test]
fn prompts_are_those_that_python_reads() {
    let (desk, sim) = (Desk::new(), good());
    copied(&desk);
    let expected: BTreeMap<String, Vec<String>> = serde_json::from_str(EXPECTED).unwrap();
    let mut same = Vec::new();
    for case in all() {
        let Some(words) = case.read else { continue };
        let words = format!("{} {words} -j 1 -o {}.out.jsonl", case.file, case.file);
        typed(&desk, &sim, &words).expect(0);
        let lines = desk.results(&format!("{}.out.jsonl", case.file));
        let found: Vec<_> = lines
            .iter()
            .map(|line| line["request_hash"].as_str().unwrap())
            .collect();
        let prompts = expected[case.file].iter();
        let hashes = prompts.map(|prompt| request_hash(&Request::new(prompt).with_model("sim-1")));
        assert_eq!(found, Vec::from_iter(hashes), "{words}");
        if case.file.starts_with("same.") {
            same.push(desk.ids(&format!("{}.out.jsonl", case.file)));
        }
    }
    assert!(same.iter().all(|ids| *ids == same[0]), "{same:?}");
}
