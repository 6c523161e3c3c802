//! Commands that users paste into a shell.

use std::ffi::OsString;

use batchwright::provider::redacted_url;
use batchwright::unstable::quoted;

/// This command, ready to be pasted into a shell, without a password in an address.
pub fn command_line() -> String {
    again(std::env::args_os(), false)
}

/// The same with another budget, which the user chooses.
pub fn command_line_with_budget() -> String {
    again(std::env::args_os(), true)
}

/// The same for a shell in any folder.
pub fn command_line_from_anywhere() -> String {
    let command = command_line();
    match std::env::current_dir() {
        Ok(folder) => format!("cd {} && {command}", quoted(folder)),
        Err(_) => command,
    }
}

/// The command to resume: without `--no-wait`, so that it collects results, without `--resend`, so that nothing is
/// billed again, with progress shown, and without secrets.
fn again(words: impl Iterator<Item = OsString>, with_budget: bool) -> String {
    // Words that are not Unicode change slightly.
    let mut words = words.map(|word| word.to_string_lossy().into_owned());
    let mut typed: Vec<String> = words.next().iter().map(quoted).collect();
    let mut files = false;
    while let Some(word) = words.next() {
        files |= word == "--";
        let (flag, joined) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (&*word, None),
        };
        let mut value = || joined.clone().or_else(|| words.next()).unwrap_or_default();
        let shown = match flag {
            _ if files => None,
            "--no-wait" | "--quiet" | "-q" => continue,
            "--progress" => {
                value();
                continue;
            }
            "--resend" => match value() {
                all if all == "all" => continue,
                what => Some(what),
            },
            "--budget" | "--max-cost" if with_budget => {
                value();
                Some("USD".to_owned())
            }
            "--base-url" => Some(redacted_url(&value())),
            "--header" => Some(without_value(&value())),
            _ => None,
        };
        match shown {
            None => typed.push(quoted(&word)),
            Some(shown) if joined.is_none() => typed.extend([flag.to_owned(), quoted(&shown)]),
            Some(shown) => typed.push(quoted(&format!("{flag}={shown}"))),
        }
    }
    typed.join(" ")
}

/// The displayable form of a header: its name, or the file that it is read from.
fn without_value(header: &str) -> String {
    match header.split_once(':') {
        _ if header.starts_with('@') => header.to_owned(),
        Some((name, _)) => format!("{name}: ***"),
        None => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a-1/b.jsonl"), "a-1/b.jsonl");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_resume_command_shows_no_header_values() {
        let typed = |words: &[&str]| again(words.iter().map(OsString::from), false);
        for (header, shown) in [
            ("X-Team: secret", "'X-Team: ***'"),
            ("Authorization:Bearer secret", "'Authorization: ***'"),
            ("secret", "'***'"),
            ("@headers.txt", "@headers.txt"),
        ] {
            let line = typed(&["bw", "run", "a", "--header", header]);
            assert_eq!(line, format!("bw run a --header {shown}"));
            let line = typed(&["bw", "run", &format!("--header={header}")]);
            assert!(!line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn a_command_that_its_budget_ended_asks_for_another_one() {
        for (given, shown) in [
            ("bw run a --budget 1 -o b", "bw run a --budget USD -o b"),
            ("bw run --max-cost=1 a", "bw run --max-cost=USD a"),
        ] {
            assert_eq!(again(given.split(' ').map(OsString::from), true), shown);
            assert_eq!(again(given.split(' ').map(OsString::from), false), given);
        }
    }

    #[test]
    fn a_resume_command_shows_progress_and_resends_nothing() {
        let typed = |line: &str| again(line.split(' ').map(OsString::from), false);
        assert_eq!(
            typed("bw run -q a --progress never --quiet --resend none -o -- -q --no-wait"),
            "bw run a --resend none -o -- -q --no-wait"
        );
        assert_eq!(
            typed(
                "bw --progress=plain -oq.jsonl --no-wait --resend all --base-url=https://a:b@h/v1"
            ),
            format!(
                "bw -oq.jsonl {}",
                quoted(&format!("--base-url={}", redacted_url("https://a:b@h/v1")))
            )
        );
    }
}
