//! Wraps texts between words, because a terminal would break within one.

use super::command_line::command_at;

/// Indentation of continued lines.
const INDENT: usize = 2;

/// The lines of a message, each broken if it does not fit.
pub fn fitted(message: &str, width: usize) -> String {
    let lines = lines(message).into_iter().map(|line| {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        if line.chars().count() <= width {
            return line.to_owned();
        }
        let lines = wrapped(words, width.saturating_sub(indent + INDENT));
        let space = " ".repeat(indent);
        let between = format!("\n{space}{:INDENT$}", "");
        format!("{space}{}", lines.join(&between))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A text in lines that are not longer than `width` unless a word is. A command is not broken, so that it can be
/// copied.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(piece(rest));
        rest = after.trim_start();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + piece.chars().count() <= width => {
                line.push(' ');
                line.push_str(piece);
            }
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
}

/// The length of the first piece of a text: a word, or a command with all its words.
fn piece(text: &str) -> usize {
    let word = || text.find(char::is_whitespace).unwrap_or(text.len());
    command_at(text).unwrap_or_else(word)
}

/// The lines of a text. The words of a command may contain line ends.
fn lines(mut text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    loop {
        let mut end = 0;
        while let Some(c) = text[end..].chars().next().filter(|c| *c != '\n') {
            end += if c.is_whitespace() {
                c.len_utf8()
            } else {
                piece(&text[end..])
            };
        }
        lines.push(&text[..end]);
        if end == text.len() {
            return lines;
        }
        text = &text[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_continue_indented() {
        let text = "batchwright: no key for groq, openai (see batchwright providers); taking local";
        assert_eq!(fitted(text, 100), text);
        assert_eq!(
            fitted(text, 40),
            "batchwright: no key for groq, openai\n  (see batchwright providers); taking\n  local"
        );
        assert_eq!(fitted("a\n  bb cc dd", 9), "a\n  bb cc\n    dd");
    }

    #[test]
    fn a_command_is_one_piece_however_long() {
        let text = "to go on: batchwright run in.jsonl -o out.jsonl";
        assert_eq!(
            fitted(text, 20),
            "to go on:\n  batchwright run in.jsonl -o out.jsonl"
        );
        let text = "it is batchwright run --template '(a; b)' x; then that";
        let lines = [
            "it is",
            "batchwright run --template '(a; b)' x;",
            "then that",
        ];
        assert_eq!(wrapped(text, 10), lines);
        assert_eq!(fitted("a `batchwright", 3), "a\n  `batchwright");
    }
}
