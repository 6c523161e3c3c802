//! Podcast scripts: checks what a model wrote, and converts it to speakable text.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use batchwright::{Error, ErrorKind, Response};

/// About two hours of speech.
pub(crate) const MOST_CHARS: usize = 100_000;
pub(crate) const MOST_TURNS: usize = 2_000;

/// A complete script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Script {
    pub title: String,
    pub turns: Vec<Turn>,
}

/// What one speaker says at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub speaker: String,
    pub text: String,
}

/// The JSON Schema of a script. Without a maximum, small models never end a list.
pub(crate) fn schema(speakers: &[&str], most_turns: usize) -> Value {
    json!({
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "turns": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "speaker": {"type": "string", "enum": speakers},
                        "text": {"type": "string"},
                    },
                    "required": ["speaker", "text"],
                    "additionalProperties": false,
                },
                "minItems": 1,
                "maxItems": most_turns,
            },
        },
        "required": ["title", "turns"],
        "additionalProperties": false,
    })
}

impl Script {
    /// The script in a model's answer.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if it has a speaker that was not requested, or no text; [`ErrorKind::Invalid`] if it is
    /// far longer than requested.
    pub(crate) fn of_answer(answer: &Response, speakers: &[&str]) -> Result<Self, Error> {
        let script: Self = answer.parse()?;
        script.spoken(speakers)
    }

    /// The same script as speakable text by these speakers.
    pub(crate) fn spoken(self, speakers: &[&str]) -> Result<Self, Error> {
        let malformed = |why: String| Error::new(ErrorKind::Malformed, why);
        let mut turns: Vec<Turn> = Vec::with_capacity(self.turns.len());
        for turn in self.turns {
            let name = spoken(&turn.speaker);
            let name = name.trim_end_matches(':').trim_end();
            let known = speakers.iter().find(|one| one.eq_ignore_ascii_case(name));
            let Some(speaker) = known else {
                return Err(malformed(format!(
                    "the script has an unknown speaker; expected one of: {}",
                    speakers.join(", ")
                )));
            };
            let text = spoken(&turn.text);
            // Some models also repeat the name at the beginning of the text.
            let text = match text.split_once(':') {
                Some((name, rest)) if name.eq_ignore_ascii_case(speaker) => rest.trim_start(),
                _ => &text,
            };
            match turns.last_mut() {
                _ if text.is_empty() => {}
                Some(last) if last.speaker == *speaker => {
                    last.text.push(' ');
                    last.text.push_str(text);
                }
                _ => turns.push(Turn {
                    speaker: (*speaker).to_owned(),
                    text: text.to_owned(),
                }),
            }
        }
        let chars: usize = turns.iter().map(|turn| turn.text.chars().count()).sum();
        if chars > MOST_CHARS || turns.len() > MOST_TURNS {
            let why =
                format!("the script has more than {MOST_CHARS} characters or {MOST_TURNS} turns");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if turns.is_empty() {
            Err(malformed("the script is empty".to_owned()))
        } else {
            Ok(Self {
                title: spoken(&self.title),
                turns,
            })
        }
    }
}

/// A text in one line, without Markdown syntax.
fn spoken(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with("```"));
    let words = lines.map(|line| unmarked(&without_links(without_bullet(line))));
    let words: Vec<String> = words.collect();
    let words: Vec<&str> = words
        .iter()
        .flat_map(|line| line.split_whitespace())
        .collect();
    words.join(" ")
}

/// A line without the syntax of a heading, a quotation or a list item.
fn without_bullet(line: &str) -> &str {
    let heading = line.trim_start_matches('#');
    let line = if heading.starts_with(' ') {
        heading.trim_start()
    } else {
        line
    };
    let marks = ["> ", "- ", "* ", "+ "];
    let rest = marks.iter().find_map(|mark| line.strip_prefix(mark));
    rest.unwrap_or(line).trim_start()
}

/// A line in which links are replaced by their texts.
fn without_links(line: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(line.len()), line);
    while let Some((before, after)) = rest.split_once("](") {
        let Some((end, open)) = after.find(')').zip(before.rfind('[')) else {
            out.push_str(before);
            out.push_str("](");
            rest = after;
            continue;
        };
        out.push_str(before[..open].trim_end_matches('!'));
        out.push_str(&before[open + 1..]);
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    out
}

/// A line without the syntax of emphasis and code.
fn unmarked(line: &str) -> String {
    let letters: Vec<char> = line.chars().collect();
    let at = |place: Option<usize>| place.and_then(|place| letters.get(place).copied());
    let is_mark = |i: usize, letter: char| {
        let (before, after) = (at(i.checked_sub(1)), at(Some(i + 1)));
        let blank = |side: Option<char>| side.is_none_or(char::is_whitespace);
        let word = |side: Option<char>| side.is_some_and(char::is_alphanumeric);
        match letter {
            '`' => true,
            // Between blanks it is an operator, as in `2 * 3`.
            '*' => !(blank(before) && blank(after)),
            // Within a word it is part of the word.
            '_' => !(word(before) && word(after)),
            '~' => before == Some('~') || after == Some('~'),
            _ => false,
        }
    };
    let kept = letters.iter().enumerate();
    let kept = kept.filter(|(i, letter)| !is_mark(*i, **letter));
    kept.map(|(_, letter)| *letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEAKERS: [&str; 2] = ["Host", "Guest"];

    fn read(text: &str) -> Result<Script, Error> {
        Script::of_answer(&Response::new("test", text), &SPEAKERS)
    }

    #[test]
    fn markdown_is_removed_and_signs_are_kept() {
        for (written, said) in [
            ("**Good** _morning_, `all`.", "Good morning, all."),
            (
                "## Rain\n\n- It *rained*.\n> And how!",
                "Rain It rained. And how!",
            ),
            (
                "See [the report](https://example.org/a_b) now",
                "See the report now",
            ),
            ("![map](m.png) and ~~not~~", "map and not"),
            (
                "2 * 3 = 6, snake_case, #1, ~5",
                "2 * 3 = 6, snake_case, #1, ~5",
            ),
            ("a](b and [c](d", "a](b and [c](d"),
            ("```\ncode\n```", "code"),
            ("雨が**降った**。", "雨が降った。"),
        ] {
            assert_eq!(spoken(written), said);
        }
    }

    #[test]
    fn an_answer_is_a_script_with_any_surrounding_text() {
        let script = read(
            "```json\n{\"title\": \"# Rain\", \"turns\": [{\"speaker\": \"**host:**\", \"text\": \"Host: It rained.\"}, \
             {\"speaker\": \"Host\", \"text\": \"*All day.*\"}, {\"speaker\": \"Guest\", \"text\": \" \"}, \
             {\"speaker\": \"GUEST\", \"text\": \"Where: here?\"}]}\n```",
        )
        .unwrap();
        let turn = |speaker: &str, text: &str| Turn {
            speaker: speaker.to_owned(),
            text: text.to_owned(),
        };
        let turns = vec![
            turn("Host", "It rained. All day."),
            turn("Guest", "Where: here?"),
        ];
        assert_eq!(
            script,
            Script {
                title: "Rain".to_owned(),
                turns
            }
        );
    }

    #[test]
    fn an_invalid_script_is_retried_and_a_too_long_one_is_not() {
        let one = |speaker: &str, text: &str| {
            let script = json!({"title": "", "turns": [{"speaker": speaker, "text": text}]});
            read(&script.to_string()).unwrap_err().kind()
        };
        assert_eq!(one("Nobody", "Hello."), ErrorKind::Malformed);
        assert_eq!(one("Host", "** **"), ErrorKind::Malformed);
        assert_eq!(one("Host", &"a".repeat(MOST_CHARS + 1)), ErrorKind::Invalid);
        assert_eq!(
            read("Host: Hello.").unwrap_err().kind(),
            ErrorKind::Malformed
        );
        let none = read(r#"{"title": "a", "turns": []}"#);
        assert_eq!(none.unwrap_err().kind(), ErrorKind::Malformed);
    }
}
