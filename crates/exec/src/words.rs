//! Words of a command line, split as in a POSIX shell, and quoted for one.
//!
//! No shell reads these lines, so syntax that only a shell could execute is rejected instead of being passed to the
//! program as an argument. For this, it must be known whether each character is quoted, which existing crates for
//! splitting words do not report.

use std::iter::{Copied, Peekable};
use std::slice::Iter;

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
pub(super) fn check_program(name: &[u8]) -> Result<(), String> {
    let Some(known) = BUILTINS.iter().find(|known| known.as_bytes() == name) else {
        return Ok(());
    };
    let instead = match *known {
        "cd" | "pushd" => ", or --workdir for the folder of all commands",
        "export" => " (each line has a shell of its own), or --env for all commands",
        _ => " (each line has a shell of its own)",
    };
    Err(format!(
        "`{known}` is carried out by a shell itself, and no shell reads this line: use --shell{instead}"
    ))
}

/// The words of a line; empty for a blank line or a comment.
pub(super) fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if line.contains(&0) {
        return Err(
            "the line has a NUL byte, which no argument can hold (-0 reads lists that NUL separates)"
                .to_owned(),
        );
    }
    let mut bytes = line.iter().copied().peekable();
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut ended = false;
    while let Some(&byte) = bytes.peek() {
        match byte {
            b' ' | b'\t' => drop(bytes.next()),
            b'\n' => {
                ended = !words.is_empty();
                bytes.next();
            }
            b'#' => while bytes.next_if(|byte| *byte != b'\n').is_some() {},
            b'\\' if bytes.clone().nth(1) == Some(b'\n') => drop(bytes.nth(1)),
            _ if ended => return Err(shell("a line end between words")),
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

fn word(bytes: &mut Peekable<Copied<Iter<'_, u8>>>, first: bool) -> Result<Vec<u8>, String> {
    let mut word = Vec::new();
    let mut quote = None;
    // Until a part is quoted, the word may be an assignment.
    let (mut plain, mut bracket) = (true, false);
    while let Some(&byte) = bytes.peek() {
        if quote.is_none() && b" \t\n".contains(&byte) {
            break;
        }
        bytes.next();
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(b'\''), _) => word.push(byte),
            (None, b'\'' | b'"') => (quote, plain) = (Some(byte), false),
            (_, b'\\') => match (quote, bytes.next()) {
                (_, Some(b'\n')) => {}
                (Some(_), Some(next)) if !b"$`\"\\".contains(&next) => word.extend([byte, next]),
                (_, Some(next)) => {
                    plain = false;
                    word.push(next);
                }
                (Some(_), None) => break,
                (None, None) => return Err("nothing follows the backslash at the end".to_owned()),
            },
            (_, b'`') => return Err(shell("`` ` `` is shell syntax")),
            (_, b'$') => {
                // One that begins no expansion is an ordinary character.
                let next = bytes.peek().copied().unwrap_or(b' ');
                let joined = next == b'\\' && bytes.clone().nth(1) == Some(b'\n');
                let begins = next.is_ascii_alphanumeric() || b"_{([@*#?$!-'".contains(&next);
                if joined || begins || (quote.is_none() && next == b'"') {
                    return Err(shell(&format!(
                        "`${}` is replaced by a shell",
                        char::from(next)
                    )));
                }
                word.push(byte);
            }
            (None, _) => {
                refuse(byte, &word, plain, plain && first, bracket)?;
                bracket |= byte == b'[';
                word.push(byte);
            }
            (Some(_), _) => word.push(byte),
        }
    }
    match quote {
        Some(quote) => Err(format!(
            "the quote {} is not closed on its line",
            char::from(quote)
        )),
        None => Ok(word),
    }
}

/// Rejects an unquoted byte that a shell would not pass on, after this part of a word.
fn refuse(byte: u8, word: &[u8], plain: bool, assigns: bool, bracket: bool) -> Result<(), String> {
    let shown = char::from(byte);
    let name = String::from_utf8_lossy(word);
    Err(shell(&match byte {
        b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' => format!("`{shown}` is shell syntax"),
        b'*' | b'?' => format!("`{shown}` stands for names of files"),
        b']' if bracket => "`[` stands for names of files".to_owned(),
        b'~' if word.is_empty() && plain => "`~` stands for a home folder".to_owned(),
        b'=' if assigns && is_name(word) => {
            format!("`{name}=` sets a variable (as does `env {name}=… PROGRAM`)")
        }
        _ => return Ok(()),
    }))
}

fn shell(what: &str) -> String {
    format!(
        "{what}, and no shell reads this line: use --shell, or quote what is meant as it stands"
    )
}

/// Whether this may be the name of a variable.
fn is_name(word: &[u8]) -> bool {
    let named = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    word.first().is_some_and(|byte| !byte.is_ascii_digit()) && word.iter().all(named)
}

/// A word quoted for a shell: one argument, whatever it contains.
pub(super) fn quote(word: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:,@%+".contains(byte);
    if word.iter().all(is_plain) && !word.is_empty() {
        return word.to_vec();
    }
    let parts: Vec<&[u8]> = word.split(|byte| *byte == b'\'').collect();
    [b"'", &parts.join(&br"'\''"[..])[..], b"'"].concat()
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
            assert!(refused.unwrap_err().contains("no shell reads"), "{line}");
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
            let refused = split(line.as_bytes()).unwrap_err();
            assert!(refused.contains("carried out by a shell"), "{line}");
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
        let why = split(b"cd /tmp && ls").unwrap_err();
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
        for (line, why) in [
            (&b"a 'b"[..], "the quote ' is not closed"),
            (b"a \"b\\", "the quote \" is not closed"),
            (b"a \\", "nothing follows the backslash"),
            (b"a \0", "NUL byte"),
        ] {
            let refused = split(line).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    /// Compares with a real shell, for words made of all special characters.
    #[test]
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
