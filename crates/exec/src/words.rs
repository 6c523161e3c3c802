//! Words of a command line, split as in a POSIX shell, and quoted for one.
//!
//! No shell reads these lines, so syntax that only a shell could execute is rejected instead of being passed to the
//! program as an argument. For this, it must be known whether each character is quoted, which existing crates for
//! splitting words do not report.

use std::iter::{Copied, Peekable};
use std::slice::Iter;
use std::sync::LazyLock;

use regex::bytes::Regex;

/// Words that a shell executes itself in place of a program and for which no program exists. Words for which
/// systems also have programs, such as `echo`, `test`, `kill` and `pwd`, are not in the list.
const BUILTINS: [&str; 32] = [
    "!", ".", ":", "[[", "{", "alias", "case", "cd", "declare", "eval", "exec", "exit", "export",
    "for", "function", "if", "let", "local", "popd", "pushd", "read", "return", "set", "shift",
    "shopt", "source", "trap", "ulimit", "unset", "until", "wait", "while",
];

/// Rejects a program name that only a shell understands.
pub(super) fn check_program(name: &[u8]) -> Result<(), String> {
    let Some(known) = BUILTINS.iter().find(|known| known.as_bytes() == name) else {
        return Ok(());
    };
    Err(format!(
        "`{known}` is carried out by a shell itself, and no shell reads this line: use --shell (each line has a shell of \
         its own), or --workdir and --env for the folder and the variables of all commands"
    ))
}

/// The words of a line; empty for a blank line or a comment.
pub(super) fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if line.contains(&0) {
        let why = "the line has a NUL byte, which no argument can hold (-0 reads lists that NUL separates)";
        return Err(why.to_owned());
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
    // Until a part is quoted, the word may be an assignment, by its first `=`.
    let (mut plain, mut bracket, mut assigns) = (true, false, first);
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
                // At the end of a word or before the closing quote, it is an ordinary character.
                let ends = |next: &u8| b" \t\n".contains(next) || quote == Some(*next);
                if !bytes.peek().is_none_or(ends) {
                    return Err(shell("`$` begins what a shell replaces"));
                }
                word.push(byte);
            }
            (None, _) => {
                refuse(byte, &word, plain, plain && assigns, bracket)?;
                bracket |= byte == b'[';
                assigns &= byte != b'=';
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
    Err(shell(&match byte {
        b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' => format!("`{shown}` is shell syntax"),
        b'*' | b'?' => format!("`{shown}` stands for names of files"),
        b']' if bracket => "`[` stands for names of files".to_owned(),
        b'~' if word.is_empty() && plain => "`~` stands for a home folder".to_owned(),
        b'=' if assigns && is_name(word) => {
            let name = String::from_utf8_lossy(word);
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

/// A shell text, read once and piece by piece.
#[derive(Default)]
pub(super) struct ShellText {
    /// What is open at its end, from the outside: quotes, backticks, comments (`\n`), and the `)` that are missing since
    /// a `$(` within double quotes.
    pub open: Vec<u8>,
    seen: Vec<u8>,
    /// Whether that is uncertain, because shells read the text differently or something in it is not followed here.
    pub unsure: bool,
}

impl ShellText {
    /// Reads on. What is escaped, and a `${…}` or `((…))`, must not go over the end of a piece, or it is uncertain.
    pub fn read(&mut self, text: &[u8]) {
        let Self { open, seen, .. } = self;
        let ends = |byte: &u8| b" \t\n;&|(){}".contains(byte);
        let mut bytes = text.iter();
        while let Some(&(mut byte)) = bytes.next() {
            let before = seen.last().copied().unwrap_or(b' ');
            match (open.last().copied(), byte) {
                (Some(quote), _) if quote == byte => drop(open.pop()),
                (Some(b'\'' | b'\n'), _) => {}
                // What is escaped is passed. A continued line is one line, but some shells do not continue a `$`.
                (_, b'\\') if bytes.next() == Some(&b'\n') => {
                    self.unsure |= before == b'$';
                    continue;
                }
                (_, b'<') if before == b'<' => self.unsure |= open.last() != Some(&b'"'),
                (Some(b'`'), _) => {}
                // After `$$` in quotes, dash takes a `(` for text, and bash for a beginning.
                (_, b'(' | b'{' | b'[') if before == 0 || [before, byte] == *b"$[" => {
                    self.unsure = true;
                }
                (_, b'$') if before == b'$' => byte = 0,
                (_, b'{') if before == b'$' => self.unsure |= !skip(&mut bytes, &SIMPLE[0]),
                (Some(b'"'), b'(') if before == b'$' => open.push(b')'),
                (Some(b'"'), _) if byte != b'`' => {}
                (_, b'\'' | b'"' | b'`') => {
                    // In bash, `\'` does not end `$'…'`.
                    self.unsure |= [before, byte] == *b"$'";
                    open.push(byte);
                }
                (within, b'(') if before != byte || !skip(&mut bytes, &SIMPLE[1]) => {
                    self.unsure |= before == byte;
                    open.extend(within);
                }
                (_, b'#') if b" \t\n;&|()<>".contains(&before) => {
                    self.unsure |= before == b')';
                    open.push(b'\n');
                }
                // The `)` after its patterns would be taken for the end of the `$(`.
                (Some(_), b' ' | b'\t' | b'\n') => {
                    self.unsure |= seen.rsplit(ends).next() == Some(b"case");
                }
                _ => {}
            }
            seen.push(byte);
        }
    }
}

/// What follows the beginning of a `${…}` or `((…))`, if all shells agree on its end: if there is only simple text in
/// it, with quotes, `${…}` and `$(…)`, and nothing that may be a comment, a here-document or a command (`${ command; }`).
static SIMPLE: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    let text = r"(?:[\w./:,=+*?%@~^!\[\]-]#*|[ ;&|>]|<[\w =]|\$[\w#@*?!-]|\\/)";
    let name = r"[\w#!@*?-]#*";
    let part = format!(r"{text}|\$\({text}*\)|\$\{{{name}{text}*\}}");
    let sum = format!(r"(?:{part}|\((?:{part})*\))*\)\)");
    let value = format!(r#"{name}(?:{part}|"(?:{part})*"|'[\w./:,=+*?%@~^! -]*')*\}}"#);
    [value, sum].map(|whole| Regex::new(&format!("(?-u)^{whole}")).expect("it is valid"))
});

/// Skips what is in a `${…}` or `((…))`, up to the last `}` or `)`, if it is simple.
fn skip(bytes: &mut Iter<'_, u8>, simple: &Regex) -> bool {
    simple.find(bytes.as_slice()).is_some_and(|found| {
        let is_case = found.as_bytes().windows(5).any(|word| word == b"case ");
        !is_case && bytes.nth(found.len() - 2).is_some()
    })
}

/// Whether a backslash at the end escapes what follows.
pub(super) fn ends_escaped(text: &[u8]) -> bool {
    let backslashes = text.iter().rev().take_while(|byte| **byte == b'\\');
    backslashes.count() % 2 == 1
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

    #[test]
    fn shell_syntax_is_rejected_unless_it_is_quoted() {
        let syntax = "a | b\na > f\na < f\na && b\na &\na; b\necho $HOME\necho \"$HOME\"\n\
                      echo ${X}\necho $(x)\necho `x`\necho \"`x`\"\nls *.c\nls a?\nls [ab]*\n\
                      ls [ab]\nls ~\nls ~/x\nX=1 prog\n(a)\necho $'x'\necho $1";
        let builtins = "cd /tmp\nexport X=1\nfor x in a b\nset -e\n. x\n{ a\n[[ a\n! a\nwhile a";
        for (lines, why) in [
            (syntax, &["no shell reads"][..]),
            (builtins, &["carried out by a shell"]),
            ("cd /tmp && ls", &["--shell", "--workdir"]),
            ("a 'b", &["the quote ' is not closed"]),
            ("a \"b\\", &["the quote \" is not closed"]),
            ("a \\", &["nothing follows the backslash"]),
            ("a \0", &["NUL byte"]),
        ] {
            for line in lines.lines() {
                let refused = split(line.as_bytes()).unwrap_err();
                assert!(
                    why.iter().all(|why| refused.contains(why)),
                    "{line}: {refused}"
                );
            }
        }
    }

    #[test]
    fn words_of_programs_are_accepted() {
        for (line, words) in [
            (r#"a '|' "&&" \> '$HOME' \*"#, "a,|,&&,>,$HOME,*"),
            ("[ -f x ]", "[,-f,x,]"),
            (r#"echo \[x] '['a] "[a"] a]"#, "echo,[x],[a],[a],a]"),
            ("echo 5$ $ a$", "echo,5$,$,a$"),
            ("prog x=1 --y=a~b", "prog,x=1,--y=a~b"),
            ("echo {} {a.b} a#b # comment | x", "echo,{},{a.b},a#b"),
            ("echo '' \"\"", "echo,,"),
            ("echo cd", "echo,cd"),
            ("kill 1", "kill,1"),
        ] {
            let split = split(line.as_bytes()).unwrap();
            assert_eq!(
                String::from_utf8(split.join(&b',')).unwrap(),
                words,
                "{line}"
            );
        }
        for empty in ["# only a comment", " \t"] {
            assert_eq!(split(empty.as_bytes()), Ok(vec![]));
        }
    }

    /// Compares with a real shell, for words made of all special characters.
    #[test]
    fn words_are_split_like_in_a_shell() {
        let pieces =
            b"a%'%\"%\\% %\t%\\\\%\\'%'x y'%\"x y\"%#%=%\xff\xfe%'$HOME'%\\$%\"\\$x\"%{%}%!%\
                       \"a\\b\"%-%\\\n%\r%$\\\n% # it's \\%\0%`%~%[%]";
        let pieces: Vec<&[u8]> = pieces.split(|byte| *byte == b'%').collect();
        let mut seed = 7_u64;
        let mut below = move |n: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695);
            (seed >> 33) as usize % n
        };
        let (mut script, mut expected) = (b"set -f\n".to_vec(), Vec::new());
        let mut print = |words: &[u8]| {
            script.extend([b"printf '%s\\0' ", words, b"\nprintf '\\0'\n"].concat());
        };
        for _ in 0..5000 {
            let mut line = b"x ".to_vec();
            (0..1 + below(8)).for_each(|_| line.extend(pieces[below(pieces.len())]));
            let Ok(words) = split(&line) else { continue };
            print(&line);
            // Quoted words are printed unchanged.
            let quoted: Vec<Vec<u8>> = words.iter().map(|word| quote(word)).collect();
            print(&quoted.join(&b' '));
            expected.extend([&words.join(&0)[..], b"\0\0"].concat().repeat(2));
        }
        assert!(expected.len() > 10_000);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        std::fs::write(&path, script).unwrap();
        let mut shell = std::process::Command::new("sh");
        let said = shell.arg(&path).output().unwrap();
        assert!(
            said.stdout == expected,
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
}
