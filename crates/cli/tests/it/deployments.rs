//! The deployment examples use only commands and variables that the program has. `.ci/run` validates them with the
//! schemas of Compose and Kubernetes.

use std::path::Path;

use super::common::{Desk, RunToEnd};

fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    std::fs::read_to_string(root.join("examples").join(name)).unwrap()
}

/// The words of `command: [a, b]`, and of `args:` with one item per line below.
fn commands(text: &str) -> Vec<Vec<String>> {
    let plain = |word: &str| word.trim().trim_matches(['"', '\'']).to_owned();
    let mut lines = text.lines().map(str::trim).peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some((_, rest)) = line
            .split_once("command:")
            .or_else(|| line.split_once("args:"))
        else {
            continue;
        };
        let listed = rest.trim().strip_prefix('[');
        let words: Vec<String> = match listed {
            Some(inner) => inner.trim_end_matches(']').split(',').map(plain).collect(),
            None => std::iter::from_fn(|| lines.next_if(|line| line.starts_with("- ")))
                .map(|line| plain(&line[2..]))
                .collect(),
        };
        found.push(words);
    }
    // Commands of other programs begin with a flag or a shell.
    found.retain(|words| ["serve", "work"].contains(&words[0].as_str()));
    found
}

#[test]
fn the_program_accepts_all_flags_of_the_deployments() {
    let desk = Desk::new();
    for name in ["compose.yaml", "kubernetes.yaml"] {
        let commands = commands(&example(name));
        let of = |command: &str| commands.iter().filter(|words| words[0] == command).count();
        assert_eq!((of("serve"), of("work")), (1, 1), "{name}: {commands:?}");
        for mut words in commands {
            words.push("--help".to_owned());
            desk.command(&words).ended().expect(0);
        }
    }
}

#[test]
fn the_program_knows_all_variables_of_the_deployments() {
    for name in ["compose.yaml", "kubernetes.yaml"] {
        let text = example(name);
        let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
        let is_ours = |(variable, value): &(&str, &str)| {
            variable.starts_with("BATCHWRIGHT_") && !value.contains("${")
        };
        let pairs: Vec<_> = pairs.filter(is_ours).collect();
        assert!(pairs.len() >= 5, "{name}: {pairs:?}");
        let desk = Desk::new();
        let mut command = desk.command(["status"]);
        command
            .envs(pairs)
            .env("BATCHWRIGHT_HOME", desk.path("home"))
            .env("BATCHWRIGHT_STORE", "none");
        command.ended().expect(0).hides("no meaning");
    }
}
