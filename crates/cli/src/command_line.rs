//! Commands that users paste into a shell: quotes words, and finds the end of a command in a text.

use std::ffi::OsStr;

use batchwright::provider::redacted_url;

use super::sanitize::harmless_char;

/// This command, ready to be pasted into a shell, without a password in an address.
pub fn command_line() -> String {
    // Words that are not Unicode change slightly.
    let words = std::env::args_os();
    again(words.map(|word| word.to_string_lossy().into_owned()))
}

/// The same with another budget.
pub fn command_line_with_budget(value: &str) -> String {
    const NAMES: [&str; 2] = ["--budget", "--max-cost"];
    let mut words: Vec<String> = Vec::new();
    let mut given = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = given.next() {
        match word.split_once('=') {
            _ if NAMES.contains(&&*word) => drop(given.next()),
            Some((name, _)) if NAMES.contains(&name) => {}
            _ => words.push(word),
        }
    }
    words.extend(["--budget".to_owned(), value.to_owned()]);
    again(words.into_iter())
}

/// The same for a shell in any folder.
pub fn command_line_from_anywhere() -> String {
    let command = command_line();
    match std::env::current_dir() {
        Ok(folder) => format!("cd {} && {command}", quoted_path(folder)),
        Err(_) => command,
    }
}

/// The command to resume: without `--no-wait`, so that it collects results, without `--resend`, so that nothing is
/// billed again, and with progress shown.
fn again(words: impl Iterator<Item = String>) -> String {
    let mut words = words;
    let mut typed: Vec<String> = words.next().iter().map(|program| quoted(program)).collect();
    let mut files = false;
    while let Some(word) = words.next() {
        files |= word == "--";
        let shown = match word.as_str() {
            _ if files => word,
            "--no-wait" | "--quiet" => continue,
            "--resend=all" => continue,
            "--resend" => match words.next() {
                Some(what) if what == "all" => continue,
                what => {
                    typed.push(word);
                    what.unwrap_or_default()
                }
            },
            "--progress" => {
                words.next();
                continue;
            }
            _ if word.starts_with("--progress=") => continue,
            "--base-url" => {
                typed.push(word);
                match words.next() {
                    Some(address) => redacted_url(&address),
                    None => break,
                }
            }
            _ if word.starts_with("--base-url=") => redacted_url(&word),
            "--header" => {
                typed.push(word);
                match words.next() {
                    Some(header) => without_value(&header),
                    None => break,
                }
            }
            _ if word.starts_with("--header=") => {
                format!("--header={}", without_value(&word["--header=".len()..]))
            }
            _ => match without_quiet(&word) {
                Some(word) => word,
                None => continue,
            },
        };
        typed.push(quoted(&shown));
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

/// A word without the `q` of its short flags; `None` if no other flag is left. Letters after a flag with a value are
/// its value.
fn without_quiet(word: &str) -> Option<String> {
    let flags = word.strip_prefix('-').unwrap_or_default();
    let rest = flags.trim_start_matches('q');
    let plain = &flags[..flags.len() - rest.len()];
    if !plain.contains('q') {
        return Some(word.to_owned());
    }
    let left = plain.replace('q', "") + rest;
    (!left.is_empty()).then(|| format!("-{left}"))
}

/// A path quoted for a shell, see [`quoted`].
pub fn quoted_path(path: impl AsRef<OsStr>) -> String {
    quoted(&path.as_ref().to_string_lossy())
}

/// A word quoted for a shell, on one line if possible.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if word.chars().all(|c| harmless_char(c) == c) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    // Written with printf, because a terminal would not show it unchanged. The shell's substitution removes line ends
    // at the end of an output.
    let text = word.trim_end_matches('\n');
    let mut out = String::new();
    if !text.is_empty() {
        let mut escaped: String = text.chars().map(for_printf).collect();
        if escaped.starts_with('-') {
            // printf must not read it as an option.
            escaped.replace_range(..1, "\\055");
        }
        out = format!("\"$(printf '{escaped}')\"");
    }
    if text.len() < word.len() {
        out.push_str(&format!("'{}'", &word[text.len()..]));
    }
    out
}

/// A character in the format of `printf`, within both kinds of quotes.
fn for_printf(c: char) -> String {
    let octal = |text: &str| text.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    match c {
        '\n' => "\\n".to_owned(),
        '\t' => "\\t".to_owned(),
        '\\' => "\\\\".to_owned(),
        '%' => "%%".to_owned(),
        '\'' | '"' | '!' | '$' | '`' => octal(&c.to_string()),
        _ if harmless_char(c) != c => octal(&c.to_string()),
        _ => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a-1/b.jsonl"), "a-1/b.jsonl");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a\n\tb"), r#""$(printf 'a\n\tb')""#);
    }

    #[test]
    fn a_resume_command_shows_no_header_values() {
        let typed = |words: &[&str]| again(words.iter().map(|word| (*word).to_owned()));
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
    fn a_resume_command_shows_progress_and_resends_nothing() {
        let typed = |line: &str| again(line.split(' ').map(String::from));
        assert_eq!(
            typed("bw run -q a -qj4 --progress never --quiet -o -- -q --no-wait"),
            "bw run a -j4 -o -- -q --no-wait"
        );
        assert_eq!(
            typed(
                "bw --progress=plain -oq.jsonl --no-wait --resend all --base-url https://a:b@h/v1"
            ),
            format!(
                "bw -oq.jsonl --base-url {}",
                quoted(&redacted_url("https://a:b@h/v1"))
            )
        );
    }

    /// A displayed command can be pasted unchanged, whatever its words and its position in a text.
    #[test]
    #[cfg(unix)]
    fn a_printed_command_has_the_same_words() {
        let pieces = [
            "Don't explain; answer (yes) or `no`",
            "\n",
            "\n\n",
            " ",
            "'",
            "\"",
            "\\",
            "\\n",
            "%s",
            "%",
            "$HOME",
            "!",
            ";",
            ")",
            "\t",
            "\r",
            "\u{1b}[31m",
            "\u{202e}",
            "é",
            "--x=",
            "&&",
            "-",
            "#",
            "*",
            "a long text of many words that no line of any terminal has room for in one piece",
        ];

        let mut seed = 1_u64;
        let mut below = |n: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695);
            (seed >> 33) as usize % n
        };
        let mut script = String::new();
        let mut expected: Vec<String> = Vec::new();
        for _ in 0..40 {
            let mut words: Vec<String> = vec!["run".to_owned()];
            for _ in 0..below(4) + 1 {
                words.push((0..below(5)).map(|_| pieces[below(pieces.len())]).collect());
            }
            let program = ["batchwright", "/a/batchwright", "/a b/batchwright"][below(3)];
            let command = again(
                [program.to_owned()]
                    .into_iter()
                    .chain(words.iter().cloned()),
            );
            assert_eq!(crate::sanitize::harmless(&command), command);
            let call = command.strip_prefix(&quoted(program)).unwrap();
            script.push_str(&format!("printf '%s\\0' {call}\n"));
            expected.extend(words);
        }
        let said = Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap()
            .stdout;
        let said = String::from_utf8(said).unwrap();
        let mut said: Vec<&str> = said.split('\0').collect();
        said.pop();
        assert_eq!(said, expected);
    }
}
