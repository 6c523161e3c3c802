//! Words of a command line, split as in a POSIX shell, and quoted for one.
//!
//! No shell reads these lines, so syntax that only a shell could execute is rejected instead of being passed to the
//! program as an argument. For this, it must be known whether each character is quoted, which existing crates for
//! splitting words do not report.

use std::iter::{Copied, Peekable};
use std::slice::Iter;

/// Why a line cannot be split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SyntaxError {
    /// Syntax that a shell would execute.
    Shell(String),
    /// Not a valid program name.
    Builtin(String),
    /// A quote that is not closed.
    OpenQuote(char),
    /// Nothing follows the last backslash.
    TrailingBackslash,
    /// A NUL byte, which no argument can contain.
    Nul,
}

impl std::fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shell(what) => write!(
                f,
                "{what}, and no shell reads this line: use --shell, or quote what is meant as it stands"
            ),
            Self::Builtin(name) => write!(
                f,
                "`{name}` is carried out by a shell itself, and no shell reads this line: use --shell{}",
                match name.as_str() {
                    "cd" | "pushd" => ", or --workdir for the folder of all commands",
                    "export" => " (each line has a shell of its own), or --env for all commands",
                    _ => " (each line has a shell of its own)",
                }
            ),
            Self::OpenQuote(quote) => write!(f, "the quote {quote} is not closed on its line"),
            Self::TrailingBackslash => f.write_str("nothing follows the backslash at the end"),
            Self::Nul => f.write_str(
                "the line has a NUL byte, which no argument can hold (-0 reads lists that NUL separates)",
            ),
        }
    }
}

/// Words that a shell executes itself in place of a program and for which no program exists. Words for which
/// systems also have programs, such as `echo`, `test`, `kill` and `pwd`, are not in the list.
const BUILTINS: [&str; 56] = [
    "!", ".", ":", "[[", "{", "}", "alias", "bg", "break", "builtin", "case", "cd", "command",
    "continue", "declare", "disown", "do", "done", "elif", "else", "esac", "eval", "exec", "exit",
    "export", "fg", "fi", "for", "function", "getopts", "hash", "if", "jobs", "let", "local",
    "popd", "pushd", "read", "readonly", "return", "set", "shift", "shopt", "source", "then",
    "times", "trap", "type", "typeset", "ulimit", "umask", "unalias", "unset", "until", "wait",
    "while",
];

/// Rejects a program name that only a shell understands.
pub(super) fn check_program(name: &[u8]) -> Result<(), SyntaxError> {
    match BUILTINS.iter().find(|known| known.as_bytes() == name) {
        Some(known) => Err(SyntaxError::Builtin((*known).to_owned())),
        None => Ok(()),
    }
}

type Bytes<'a> = Peekable<Copied<Iter<'a, u8>>>;

/// The words of a line; empty for a blank line or a comment.
pub(super) fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, SyntaxError> {
    if line.contains(&0) {
        return Err(SyntaxError::Nul);
    }
    let mut bytes = line.iter().copied().peekable();
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut ended = false;
    while let Some(&byte) = bytes.peek() {
        match byte {
            b' ' | b'\t' => {
                bytes.next();
            }
            b'\n' => {
                ended = !words.is_empty();
                bytes.next();
            }
            b'#' => while bytes.next_if(|byte| *byte != b'\n').is_some() {},
            b'\\' if continues(&bytes) => {
                bytes.nth(1);
            }
            _ if ended => {
                return Err(SyntaxError::Shell("a line end between words".into()));
            }
            _ => {
                words.push(word(&mut bytes, words.is_empty())?);
                if let [program] = &words[..] {
                    check_program(program)?;
                }
            }
        }
    }
    Ok(words)
}

/// Whether a backslash and a line end come next, which a shell removes.
fn continues(bytes: &Bytes<'_>) -> bool {
    bytes.clone().nth(1) == Some(b'\n')
}

fn word(bytes: &mut Bytes<'_>, first: bool) -> Result<Vec<u8>, SyntaxError> {
    let mut word = Vec::new();
    // Until a part is quoted, the word may be an assignment.
    let mut plain = true;
    let mut bracket = false;
    while let Some(&byte) = bytes.peek() {
        if matches!(byte, b' ' | b'\t' | b'\n') {
            break;
        }
        bytes.next();
        match byte {
            b'\'' => {
                plain = false;
                single_quoted(bytes, &mut word)?;
            }
            b'"' => {
                plain = false;
                double_quoted(bytes, &mut word)?;
            }
            b'\\' if bytes.next_if_eq(&b'\n').is_some() => {}
            b'\\' => {
                plain = false;
                word.push(bytes.next().ok_or(SyntaxError::TrailingBackslash)?);
            }
            // Its meaning differs between shells.
            b'$' if bytes.peek() == Some(&b'"') => return Err(shell(b'$')),
            b'$' => dollar(bytes, &mut word)?,
            b'`' | b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' => return Err(shell(byte)),
            b'*' | b'?' => return Err(glob(byte)),
            b']' if bracket => return Err(glob(b'[')),
            b'~' if word.is_empty() && plain => {
                return Err(SyntaxError::Shell("`~` stands for a home folder".into()));
            }
            b'=' if first && plain && is_name(&word) => {
                let name = String::from_utf8_lossy(&word);
                return Err(SyntaxError::Shell(format!(
                    "`{name}=` sets a variable (as does `env {name}=… PROGRAM`)"
                )));
            }
            _ => {
                bracket |= byte == b'[';
                word.push(byte);
            }
        }
    }
    Ok(word)
}

fn single_quoted(bytes: &mut Bytes<'_>, word: &mut Vec<u8>) -> Result<(), SyntaxError> {
    loop {
        match bytes.next() {
            None => return Err(SyntaxError::OpenQuote('\'')),
            Some(b'\'') => return Ok(()),
            Some(byte) => word.push(byte),
        }
    }
}

fn double_quoted(bytes: &mut Bytes<'_>, word: &mut Vec<u8>) -> Result<(), SyntaxError> {
    loop {
        match bytes.next() {
            None => return Err(SyntaxError::OpenQuote('"')),
            Some(b'"') => return Ok(()),
            Some(b'`') => return Err(shell(b'`')),
            Some(b'$') => dollar(bytes, word)?,
            Some(b'\\') => match bytes.next() {
                None => return Err(SyntaxError::OpenQuote('"')),
                Some(b'\n') => {}
                Some(escaped @ (b'$' | b'`' | b'"' | b'\\')) => word.push(escaped),
                Some(other) => word.extend([b'\\', other]),
            },
            Some(byte) => word.push(byte),
        }
    }
}

/// A dollar sign that begins no expansion is an ordinary character.
fn dollar(bytes: &mut Bytes<'_>, word: &mut Vec<u8>) -> Result<(), SyntaxError> {
    match bytes.peek().copied() {
        Some(b'\\') if continues(bytes) => Err(shell(b'$')),
        Some(next) if next.is_ascii_alphanumeric() || b"_{([@*#?$!-'".contains(&next) => {
            let next = char::from(next);
            Err(SyntaxError::Shell(format!(
                "`${next}` is replaced by a shell"
            )))
        }
        _ => {
            word.push(b'$');
            Ok(())
        }
    }
}

fn shell(byte: u8) -> SyntaxError {
    SyntaxError::Shell(format!("`{}` is shell syntax", char::from(byte)))
}

fn glob(byte: u8) -> SyntaxError {
    let byte = char::from(byte);
    SyntaxError::Shell(format!("`{byte}` stands for names of files"))
}

/// Whether this may be the name of a variable.
fn is_name(word: &[u8]) -> bool {
    let named = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    word.first().is_some_and(|byte| !byte.is_ascii_digit()) && word.iter().all(named)
}

/// Whether this has the same meaning for a shell with and without quotes.
pub(super) fn is_plain(word: &[u8]) -> bool {
    word.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_./:,@%+".contains(byte))
}

/// A word quoted for a shell: one argument, whatever it contains.
pub(super) fn quote(word: &[u8]) -> Vec<u8> {
    if is_plain(word) && !word.is_empty() {
        word.to_vec()
    } else {
        single_quote(word)
    }
}

pub(super) fn single_quote(word: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        let words = split(line.as_bytes()).unwrap_or_else(|why| panic!("{line}: {why}"));
        let texts = words.into_iter().map(String::from_utf8);
        texts.map(Result::unwrap).collect()
    }

    #[test]
    fn shell_syntax_is_rejected_unless_it_is_quoted() {
        for line in [
            "a | b",
            "a > f",
            "a < f",
            "a && b",
            "a &",
            "a; b",
            "echo $HOME",
            "echo \"$HOME\"",
            "echo ${X}",
            "echo $(x)",
            "echo `x`",
            "echo \"`x`\"",
            "ls *.c",
            "ls a?",
            "ls [ab]*",
            "ls [ab]",
            "ls ~",
            "ls ~/x",
            "X=1 prog",
            "(a)",
            "echo $'x'",
            "echo $1",
        ] {
            let refused = split(line.as_bytes());
            assert!(matches!(refused, Err(SyntaxError::Shell(_))), "{line}");
        }
        for (line, words) in [
            (
                r#"a '|' "&&" \> '$HOME' \*"#,
                &["a", "|", "&&", ">", "$HOME", "*"][..],
            ),
            ("[ -f x ]", &["[", "-f", "x", "]"]),
            ("echo 5$ $ a$", &["echo", "5$", "$", "a$"]),
            ("prog x=1 --y=a~b", &["prog", "x=1", "--y=a~b"]),
            (
                "echo {} {a,b} a#b # comment | x",
                &["echo", "{}", "{a,b}", "a#b"],
            ),
            ("# only a comment", &[]),
            (" \t", &[]),
            ("echo '' \"\"", &["echo", "", ""]),
        ] {
            assert_eq!(texts(line), words, "{line}");
        }
    }

    #[test]
    fn words_of_a_shell_are_not_programs() {
        for line in [
            "cd /tmp",
            "export X=1",
            "for x in a b",
            "set -e",
            ". x",
            "{ a",
            "[[ a",
            "! a",
            "while a",
        ] {
            assert!(
                matches!(split(line.as_bytes()), Err(SyntaxError::Builtin(_))),
                "{line}"
            );
        }
        for line in [
            "echo cd",
            "true",
            "test -e x",
            "printf x",
            "kill 1",
            "pwd",
            "[ x = x ]",
        ] {
            split(line.as_bytes()).unwrap();
        }
        let why = split(b"cd /tmp && ls").unwrap_err().to_string();
        assert!(
            why.contains("--shell") && why.contains("--workdir"),
            "{why}"
        );
    }

    #[test]
    fn no_bytes_make_it_panic_and_no_argument_has_a_nul_byte() {
        let mut below = numbers(11);
        for _ in 0..50_000 {
            let special = b"'\"\\ \n\t#$`a=\0\xff[]~\r";
            let line: Vec<u8> = (0..below(12))
                .map(|_| match below(4) {
                    0 => below(256) as u8,
                    _ => special[below(special.len())],
                })
                .collect();
            if let Ok(words) = split(&line) {
                assert!(words.iter().all(|word| !word.contains(&0)), "{line:?}");
            }
        }
    }

    /// Pseudo-random numbers below a limit, the same in each run.
    fn numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
        move |n| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695);
            (seed >> 33) as usize % n
        }
    }

    #[test]
    fn unclosed_quotes_and_escapes_are_rejected() {
        assert_eq!(split(b"a 'b"), Err(SyntaxError::OpenQuote('\'')));
        assert_eq!(split(b"a \"b\\"), Err(SyntaxError::OpenQuote('"')));
        assert_eq!(split(b"a \\"), Err(SyntaxError::TrailingBackslash));
        assert_eq!(split(b"a \0"), Err(SyntaxError::Nul));
    }

    /// Compares with a real shell, for words made of all special characters.
    #[test]
    #[cfg(unix)]
    fn words_are_split_like_in_a_shell() {
        use std::os::unix::ffi::OsStrExt;

        let pieces: [&[u8]; 25] = [
            b"a",
            b"'",
            b"\"",
            b"\\",
            b" ",
            b"\t",
            b"\\\\",
            b"\\'",
            b"'x y'",
            b"\"x y\"",
            b"#",
            b"=",
            b"\xff\xfe",
            b"'$HOME'",
            b"\\$",
            b"\"\\$x\"",
            b"{",
            b"}",
            b"!",
            b"\"a\\b\"",
            b"-",
            b"\\\n",
            b"\r",
            b"$\\\n",
            b" # it's \\",
        ];
        let mut below = numbers(7);
        let (mut script, mut expected) = (b"set -f\n".to_vec(), Vec::new());
        for _ in 0..3000 {
            let mut line = b"x ".to_vec();
            (0..1 + below(8)).for_each(|_| line.extend_from_slice(pieces[below(pieces.len())]));
            let Ok(words) = split(&line) else { continue };
            script.extend_from_slice(b"printf '%s\\0' ");
            script.extend_from_slice(&line);
            script.extend_from_slice(b"\nprintf '\\0'\n");
            // Quoted words are printed unchanged.
            script.extend_from_slice(b"printf '%s\\0' ");
            script.extend(
                words
                    .iter()
                    .map(|word| quote(word))
                    .collect::<Vec<_>>()
                    .join(&b' '),
            );
            script.extend_from_slice(b"\nprintf '\\0'\n");
            let mut said: Vec<u8> = words.join(&0);
            said.extend(b"\0\0");
            expected.extend(said.repeat(2));
        }
        assert!(expected.len() > 10_000);
        let script = std::ffi::OsStr::from_bytes(&script).to_owned();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        std::fs::write(&path, script.as_bytes()).unwrap();
        let said = std::process::Command::new("sh")
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            said.stdout == expected,
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
}
