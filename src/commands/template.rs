//! Commands made of a list of arguments, with the placeholders of GNU parallel.

use std::ffi::OsString;

use crate::base::error::{Error, ErrorKind};

use super::job::{CommandJob, os_string};
use super::words::{quote, split};

/// A command with places for an argument.
///
/// | placeholder | of `dir/photo.old.jpg` |
/// |---|---|
/// | `{}` | `dir/photo.old.jpg` |
/// | `{.}` | `dir/photo.old` |
/// | `{/}` | `photo.old.jpg` |
/// | `{//}` | `dir` |
/// | `{/.}` | `photo.old` |
/// | `{#}` | the number of the argument, from 1 |
///
/// Without any, the argument is added at the end. Whatever an argument holds, it stays one argument, and nothing
/// of it is carried out, also where a shell runs the command.
///
/// ```
/// use batchwright::commands::Template;
/// let template = Template::new(["convert", "{}", "{.}.png"])?;
/// assert_eq!(template.job(b"my photo.jpg", 1).text(), "convert 'my photo.jpg' 'my photo.png'");
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Template {
    words: Vec<Vec<Piece>>,
    /// The text for `sh -c` up to each place, and what stands there.
    script: Option<Script>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(Vec<u8>),
    Place(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    NoExtension,
    Name,
    Folder,
    Stem,
    Number,
}

/// A text for a shell that gets the arguments as its parameters, so that it never reads them as code.
#[derive(Debug, Clone)]
struct Script {
    text: Vec<u8>,
    parameters: Vec<Place>,
}

const PLACES: [(&[u8], Place); 6] = [
    (b"{}", Place::Whole),
    (b"{.}", Place::NoExtension),
    (b"{/}", Place::Name),
    (b"{//}", Place::Folder),
    (b"{/.}", Place::Stem),
    (b"{#}", Place::Number),
];

impl Template {
    /// A program and its arguments. One word with blanks in it is split as a line of a script is.
    ///
    /// # Errors
    /// Without a word, and when a single word cannot be split.
    pub fn new<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Self, Error> {
        let mut words: Vec<Vec<u8>> = words.into_iter().map(into_bytes).collect();
        if let [line] = &words[..]
            && line.iter().any(u8::is_ascii_whitespace)
        {
            words = split(line).map_err(|why| invalid(format!("the command: {why}")))?;
        }
        if words.is_empty() {
            return Err(invalid("there is no command to run".to_owned()));
        }
        let mut words: Vec<Vec<Piece>> = words.iter().map(|word| pieces(word)).collect();
        if !words.iter().any(|word| has_place(word)) {
            words.push(vec![Piece::Place(Place::Whole)]);
        }
        Ok(Self {
            words,
            script: None,
        })
    }

    /// A text that a shell runs: the words, with blanks between them.
    ///
    /// # Errors
    /// Without a word.
    pub fn shell<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Self, Error> {
        let words: Vec<Vec<u8>> = words.into_iter().map(into_bytes).collect();
        let text = words.join(&b' ');
        if text.trim_ascii().is_empty() {
            return Err(invalid("there is no command to run".to_owned()));
        }
        let mut whole = pieces(&text);
        if !has_place(&whole) {
            whole.extend([Piece::Text(b" ".to_vec()), Piece::Place(Place::Whole)]);
        }
        let script = Script::of(&whole);
        Ok(Self {
            words: vec![whole],
            script: Some(script),
        })
    }

    /// The command for an argument, the `number`th.
    pub fn job(&self, argument: &[u8], number: u64) -> CommandJob {
        let Some(script) = &self.script else {
            let word =
                |pieces: &Vec<Piece>| os_string(fill(pieces, argument, number, <[u8]>::to_vec));
            return CommandJob::of_words(self.words.iter().map(word).collect());
        };
        let mut words: Vec<OsString> = ["sh", "-c"].map(Into::into).into();
        words.push(os_string(script.text.clone()));
        words.push("sh".into());
        let parameters = script.parameters.iter();
        words.extend(parameters.map(|place| os_string(place.of(argument, number))));
        let mut job = CommandJob::of_words(words);
        job.text = self
            .words
            .first()
            .map(|text| fill(text, argument, number, quote));
        job
    }
}

impl Script {
    /// Each place becomes a parameter, quoted by what is open around it.
    fn of(pieces: &[Piece]) -> Self {
        let (mut text, mut parameters) = (Vec::new(), Vec::new());
        let mut quotes = Quotes::default();
        for piece in pieces {
            let place = match piece {
                Piece::Text(piece) => {
                    piece.iter().for_each(|byte| quotes.pass(*byte));
                    text.extend_from_slice(piece);
                    continue;
                }
                Piece::Place(place) => *place,
            };
            let known = parameters.iter().position(|known| *known == place);
            let number = known.unwrap_or_else(|| {
                parameters.push(place);
                parameters.len() - 1
            }) + 1;
            let parameter = format!("${{{number}}}");
            let quoted = match quotes.open {
                None => format!("\"{parameter}\""),
                Some(b'"') => parameter,
                Some(_) => format!("'\"{parameter}\"'"),
            };
            text.extend_from_slice(quoted.as_bytes());
        }
        Self { text, parameters }
    }
}

/// Which quote is open in a text for a shell. Where it errs (a quote within `$(…)` in quotes), an argument may
/// come apart at its blanks; it is a parameter all the same, and never code.
#[derive(Default)]
struct Quotes {
    open: Option<u8>,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, byte: u8) {
        if std::mem::take(&mut self.escaped) {
            return;
        }
        match (self.open, byte) {
            (Some(b'\''), b'\'') | (Some(b'"'), b'"') => self.open = None,
            (Some(b'\''), _) => {}
            (_, b'\\') => self.escaped = true,
            (None, b'\'' | b'"') => self.open = Some(byte),
            _ => {}
        }
    }
}

impl Place {
    fn of(self, argument: &[u8], number: u64) -> Vec<u8> {
        let name = || {
            argument
                .rsplit(|byte| *byte == b'/')
                .next()
                .unwrap_or(argument)
        };
        match self {
            Self::Whole => argument.to_vec(),
            Self::NoExtension => without_extension(argument).to_vec(),
            Self::Name => name().to_vec(),
            Self::Stem => without_extension(name()).to_vec(),
            Self::Folder => folder(argument).to_vec(),
            Self::Number => number.to_string().into_bytes(),
        }
    }
}

fn without_extension(path: &[u8]) -> &[u8] {
    let dot = path.iter().rposition(|byte| matches!(byte, b'.' | b'/'));
    match dot {
        Some(at) if path[at] == b'.' => &path[..at],
        _ => path,
    }
}

/// As `dirname` has it.
fn folder(path: &[u8]) -> &[u8] {
    let trimmed =
        |path: &'_ [u8]| path.len() - path.iter().rev().take_while(|b| **b == b'/').count();
    let path = match trimmed(path) {
        0 if !path.is_empty() => return b"/",
        end => &path[..end],
    };
    match path.iter().rposition(|byte| *byte == b'/') {
        None => b".",
        Some(at) => match trimmed(&path[..at]) {
            0 => b"/",
            end => &path[..end],
        },
    }
}

fn into_bytes(word: impl Into<OsString>) -> Vec<u8> {
    word.into().as_encoded_bytes().to_vec()
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

fn has_place(pieces: &[Piece]) -> bool {
    pieces.iter().any(|piece| matches!(piece, Piece::Place(_)))
}

fn pieces(word: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < word.len() {
        let found = PLACES.iter().find(|(name, _)| word[at..].starts_with(name));
        let Some((name, place)) = found else {
            at += 1;
            continue;
        };
        if from < at {
            pieces.push(Piece::Text(word[from..at].to_vec()));
        }
        pieces.push(Piece::Place(*place));
        at += name.len();
        from = at;
    }
    if from < word.len() || word.is_empty() {
        pieces.push(Piece::Text(word[from..].to_vec()));
    }
    pieces
}

fn fill(pieces: &[Piece], argument: &[u8], number: u64, put: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut filled = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => filled.extend_from_slice(text),
            Piece::Place(place) => filled.extend(put(&place.of(argument, number))),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_as_gnu_parallel_fills_them() {
        let all = Template::new(["{}", "{.}", "{/}", "{//}", "{/.}", "{#}", "a{.}b{#}c"]).unwrap();
        let filled = |argument: &str| {
            let job = all.job(argument.as_bytes(), 7);
            let words = job
                .command()
                .iter()
                .map(|word| word.to_str().unwrap().to_owned());
            words.collect::<Vec<_>>().join("|")
        };
        // Taken from GNU parallel 20221122.
        assert_eq!(
            filled("d/p.old.jpg"),
            "d/p.old.jpg|d/p.old|p.old.jpg|d|p.old|7|ad/p.oldb7c"
        );
        assert_eq!(filled("x"), "x|x|x|.|x|7|axb7c");
        assert_eq!(filled("/x.y"), "/x.y|/x|x.y|/|x|7|a/xb7c");
        assert_eq!(filled("a.b/c"), "a.b/c|a.b/c|c|a.b|c|7|aa.b/cb7c");
        assert_eq!(filled("a."), "a.|a|a.|.|a|7|aab7c");
        assert_eq!(filled(""), "|||.||7|ab7c");
    }

    #[test]
    fn without_a_place_the_argument_comes_last() {
        let text = |template: Template| template.job(b"a b", 1).text();
        assert_eq!(
            text(Template::new(["gzip", "-k"]).unwrap()),
            "gzip -k 'a b'"
        );
        assert_eq!(
            text(Template::new(["gzip -k {} x"]).unwrap()),
            "gzip -k 'a b' x"
        );
        assert_eq!(
            text(Template::shell(["gzip", "-k"]).unwrap()),
            "gzip -k 'a b'"
        );
        assert!(Template::new(["gzip {} > x"]).is_err());
        assert!(Template::new([""; 0]).is_err() && Template::shell([" "]).is_err());
    }

    /// Arguments that would be code, in every kind of quotes: the shell prints them as they are.
    #[test]
    #[cfg(unix)]
    fn an_argument_is_never_code() {
        let evil: [&[u8]; 6] = [
            b"$(touch hacked)",
            b"`touch hacked`",
            b"'; touch hacked; '",
            b"\"; touch hacked; \"",
            b"a\nb  c\\",
            b"\xff\xfe*",
        ];
        let folder = tempfile::tempdir().unwrap();
        for text in [
            "printf %s {}",
            "printf %s \"{}\"",
            "printf %s '{}'",
            "printf '%s' {} | cat",
        ] {
            let template = Template::shell([text]).unwrap();
            for argument in evil {
                let job = template.job(argument, 1);
                let words = job.command();
                let mut command = std::process::Command::new(&words[0]);
                let said = command
                    .args(&words[1..])
                    .current_dir(folder.path())
                    .output()
                    .unwrap();
                assert_eq!(said.stdout, argument, "{text}");
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
