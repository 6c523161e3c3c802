//! `--help` fits a small terminal, `batchwright help COMMAND` has everything.

use super::common::{Desk, RunToEnd};

/// Two screens of 24 lines, minus the lines of the prompt.
const TWO_SCREENS: usize = 46;

const COMMANDS: [&str; 19] = [
    "",
    "run",
    "submit",
    "work",
    "status",
    "results",
    "export",
    "scan",
    "exec",
    "cancel",
    "retry",
    "doctor",
    "providers",
    "config",
    "config list",
    "token",
    "token new",
    "simulate",
    "completions",
];

fn help(command: &str, flag: &str) -> String {
    let desk = Desk::new();
    let words = command.split_whitespace();
    let words: Vec<&str> = match flag {
        "help" => ["help"].into_iter().chain(words).collect(),
        flag => words.chain([flag]).collect(),
    };
    let mut command = desk.command(words);
    let ended = command.env("COLUMNS", "80").ended().expect(0);
    ended.stdout
}

/// The flags that a help text lists.
fn flags(help: &str) -> Vec<&str> {
    let lines = help.lines().map(str::trim_start);
    let lines = lines.filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split([' ', ',', '.']).take(3));
    words.filter(|word| word.starts_with("--")).collect()
}

#[test]
fn short_help_fits_two_screens_and_a_line_a_flag() {
    for command in COMMANDS {
        let text = help(command, "-h");
        let lines = text.lines().count();
        assert!(
            lines <= TWO_SCREENS,
            "`{command} -h` takes {lines} lines: set hide_short_help on what is rare\n{text}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "`{command} -h`: {line:?}");
            // Continuation lines are indented more than any flag or argument.
            let indent = line.len() - line.trim_start().len();
            assert!(
                indent <= 6,
                "`{command} -h` goes on in {line:?}: begin the flag's documentation with a short \
                 paragraph of its own\n{text}"
            );
        }
    }
}

#[test]
fn long_help_has_every_flag_of_the_short_one_and_more() {
    for command in ["run", "work"] {
        let (short, long) = (help(command, "--help"), help(command, "help"));
        let (few, all) = (flags(&short), flags(&long));
        let missing: Vec<_> = few.iter().filter(|flag| !all.contains(flag)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(all.len() > few.len() + 5, "{few:?} {all:?}");
        let end = short.lines().last().unwrap();
        assert!(end.contains("batchwright help COMMAND"), "{end}");
    }
    let long = help("run", "help");
    for flag in ["--max-memory", "--ordered", "--resend", "--progress"] {
        assert!(flags(&long).contains(&flag), "{flag}");
        assert!(!flags(&help("run", "-h")).contains(&flag), "{flag}");
    }
    let short = help("run", "--help");
    assert!(short.lines().count() <= 24, "one screen\n{short}");
}
