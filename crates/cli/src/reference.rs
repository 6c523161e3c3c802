//! Compares the reference in the documentation with the program: every flag, setting, error kind and exit code.
//!
//! `UPDATE_DOCS=1 cargo test --bin batchwright reference` writes the generated parts.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;

use batchwright::ErrorKind;
use batchwright::config::SettingKey;
use clap::{Arg, ArgAction, Command};

use super::exit::Exit;
use super::parse::command;

/// A cell of a Markdown table: characters that would end the cell are escaped, angle brackets are text.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('|', "\\|").replace('<', "&lt;")
}

/// Paragraphs of help as sentences of one cell: they end without a full stop.
fn sentences(help: &str) -> String {
    let paragraphs = help
        .trim()
        .split("\n\n")
        .map(|text| text.trim_end_matches('.'));
    let paragraphs = paragraphs.filter(|text| !text.is_empty());
    paragraphs
        .collect::<Vec<_>>()
        .join(". ")
        .replace(". [", " [")
}

/// `-o, --output FILE`, or the name of a positional argument.
fn spelling(arg: &Arg) -> String {
    let mut out = Vec::new();
    out.extend(arg.get_short().map(|short| format!("-{short}")));
    out.extend(arg.get_long().map(|long| format!("--{long}")));
    let takes_value = !matches!(
        arg.get_action(),
        ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count
    );
    let value = match arg.get_value_names() {
        Some(names) => names.join(" "),
        None => arg.get_id().as_str().to_uppercase(),
    };
    match (out.is_empty(), takes_value) {
        (true, _) => value,
        (false, true) => format!("{} {value}", out.join(", ")),
        (false, false) => out.join(", "),
    }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    let mut out = help.map_or_else(String::new, |help| sentences(&help.to_string()));
    if let Some(variable) = arg.get_env()
        && !out.contains("[env:")
    {
        let _ = write!(out, " [env: {}]", variable.to_string_lossy());
    }
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let switch = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Count);
    if !switch && !values.is_empty() {
        let _ = write!(out, ". One of {}", values.join(", "));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().collect();
    if !switch && !defaults.is_empty() {
        let texts: Vec<_> = defaults.iter().map(|text| text.to_string_lossy()).collect();
        let _ = write!(out, " [default: {}]", texts.join(", "));
    }
    out
}

/// The first command with a row.
type Told = HashMap<String, String>;

/// A row for each flag that no command before it has. The others are named with that command.
fn flags_of(command: &Command, path: &str, told: &mut Told, out: &mut String) {
    let about = command.get_long_about().or(command.get_about());
    let about = about.map_or_else(String::new, ToString::to_string);
    let _ = write!(out, "### `{path}`\n\n{}\n\n", about.trim());
    let args = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"));
    let (mut rows, mut known) = (String::new(), BTreeMap::<String, Vec<String>>::new());
    for arg in args {
        let row = format!("| `{}` | {} |\n", spelling(arg), cell(&meaning(arg)));
        match told.get(&row) {
            Some(first) => {
                let name = arg.get_long().map(|long| format!("--{long}"));
                let name = name.unwrap_or_else(|| spelling(arg));
                known
                    .entry(first.clone())
                    .or_default()
                    .push(format!("`{name}`"));
            }
            None => {
                rows.push_str(&row);
                told.insert(row, path.to_owned());
            }
        }
    }
    if !rows.is_empty() {
        let _ = write!(out, "| | |\n|---|---|\n{rows}\n");
    }
    for (first, flags) in known {
        let _ = write!(out, "As for `{first}`: {}\n\n", flags.join(", "));
    }
    for inner in command.get_subcommands().filter(|inner| !is_help(inner)) {
        flags_of(inner, &format!("{path} {}", inner.get_name()), told, out);
    }
}

fn is_help(command: &Command) -> bool {
    command.get_name() == "help" || command.is_hide_set()
}

fn flags() -> String {
    let (mut out, mut told) = (String::new(), Told::new());
    let cli = command();
    out.push_str("### Every command\n\n| | |\n|---|---|\n");
    for arg in cli.get_arguments().filter(|arg| arg.is_global_set()) {
        let _ = writeln!(out, "| `{}` | {} |", spelling(arg), cell(&meaning(arg)));
    }
    out.push('\n');
    for command in cli.get_subcommands().filter(|inner| !is_help(inner)) {
        flags_of(
            command,
            &format!("batchwright {}", command.get_name()),
            &mut told,
            &mut out,
        );
    }
    out.trim_end().to_owned()
}

fn settings() -> String {
    let mut out =
        String::from("| setting | environment | takes | default | |\n|---|---|---|---|---|\n");
    for key in SettingKey::all() {
        let variables: Vec<_> = key
            .variables()
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} |",
            key.name(),
            variables.join(", "),
            cell(&key.accepts()),
            cell(key.default_text()),
            cell(key.doc())
        );
    }
    out.trim_end().to_owned()
}

/// The page with `text` between the comments that begin and end the part `name`.
fn with_part(page: &str, name: &str, text: &str) -> String {
    let (begin, end) = (
        format!("<!-- begin {name} -->\n"),
        format!("\n<!-- end {name} -->"),
    );
    let (before, rest) = page.split_once(&begin).expect(name);
    let (_, after) = rest.split_once(&end).expect(name);
    format!("{before}{begin}\n{text}\n{end}{after}")
}

fn page() -> (std::path::PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

#[test]
fn the_reference_lists_every_flag_and_setting_as_the_program_has_them() {
    let (path, old) = page();
    let new = with_part(&with_part(&old, "flags", &flags()), "settings", &settings());
    if old == new {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "docs/reference.md is out of date: UPDATE_DOCS=1 cargo test --bin batchwright reference"
    );
    std::fs::write(path, new).unwrap();
}

#[test]
fn the_reference_explains_every_error_kind_and_exit_code() {
    let (_, page) = page();
    for &kind in ErrorKind::ALL {
        let class = kind.class();
        let row = format!("| `{kind}` | `{class}` |");
        assert!(page.contains(&row), "docs/reference.md has no row {row}");
    }
    let exits = [
        Exit::Success,
        Exit::CouldNotRun,
        Exit::Usage,
        Exit::SomeFailed,
        Exit::StoppedEarly,
        Exit::Signal(2),
        Exit::Signal(15),
    ];
    for exit in exits {
        let row = format!("| {} |", exit.code());
        assert!(page.contains(&row), "docs/reference.md has no row {row}");
    }
}
