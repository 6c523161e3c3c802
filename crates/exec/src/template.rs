//! Commands created from a list of arguments, with the placeholders of GNU parallel.

use std::ffi::{OsStr, OsString};
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use batchwright::Error;

use super::record::CommandJob;
use super::words::{ShellText, check_program, ends_escaped, quote, split};
use crate::invalid;

/// A command with placeholders for an argument.
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
/// Without a placeholder, the argument is added at the end. Other placeholders of GNU parallel are rejected. An
/// argument always stays one argument and is never executed, even if a shell runs the command: there, a placeholder
/// becomes a quoted parameter of the shell (`"$1"`), so it must not stand within quotes.
///
/// ```
/// use batchwright_exec::Template;
/// let template = Template::new(["convert", "{}", "{.}.png"])?;
/// assert_eq!(template.job(b"my photo.jpg", 1).text(), "convert 'my photo.jpg' 'my photo.png'");
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Template {
    words: Vec<Vec<Piece>>,
    /// The text for a shell, whose placeholders are parameters in the words.
    shell: Option<Vec<Piece>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(Vec<u8>),
    Place(&'static [u8]),
}

const PLACES: [&[u8]; 6] = [b"{}", b"{.}", b"{/}", b"{//}", b"{/.}", b"{#}"];

/// Placeholders that only GNU parallel has; a program would receive them unchanged.
const FOREIGN: [&[u8]; 6] = [b"{1}", b"{2}", b"{%}", b"{..}", b"{+/}", b"{= "];

impl Template {
    /// A program and its arguments. A single word that contains blanks is split like a line of a script.
    ///
    /// # Errors
    /// If there is no word, or a single word cannot be split.
    pub fn new<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Self, Error> {
        let wrong = |why: String| invalid(format!("the command: {why}"));
        let words = words.into_iter().map(Into::into);
        let mut words: Vec<Vec<u8>> = words.map(OsString::into_vec).collect();
        if let [line] = &words[..]
            && line.iter().any(u8::is_ascii_whitespace)
        {
            words = split(line).map_err(wrong)?;
        }
        let Some(program) = words.first() else {
            return Err(invalid("there is no command to run"));
        };
        check_program(program).map_err(wrong)?;
        let words = words.iter().map(|word| pieces(word));
        let mut words = words.collect::<Result<Vec<_>, _>>()?;
        if !words.iter().any(|word| has_place(word)) {
            words.push(vec![Piece::Place(PLACES[0])]);
        }
        Ok(Self { words, shell: None })
    }

    /// A text that a shell runs: the words, joined by blanks.
    ///
    /// # Errors
    /// If there is no word; and for a placeholder within quotes, or in a context where an argument might not stay one: in
    /// comments and backticks, after `<<`, `$[`, `)#`, a `${` or `((` that is not closed or not simple, and a `case` in
    /// `"$(…)"`, and directly after a backslash or `$`.
    pub fn shell<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Self, Error> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let text = words.join(OsStr::new(" ")).into_vec();
        if text.trim_ascii().is_empty() {
            return Err(invalid("there is no command to run"));
        }
        let mut whole = pieces(&text)?;
        if !has_place(&whole) {
            whole.extend([Piece::Text(b" ".to_vec()), Piece::Place(PLACES[0])]);
        }
        let (mut text, mut parameters) = (Vec::new(), Vec::new());
        let mut read = ShellText::default();
        for piece in &whole {
            let from = text.len();
            match piece {
                Piece::Text(piece) => text.extend_from_slice(piece),
                Piece::Place(_) => {
                    // A parameter is complete in itself, so it changes nothing for the places after it.
                    check_place(&read, &text)?;
                    parameters.push(vec![piece.clone()]);
                    text.extend(format!("\"${{{}}}\"", parameters.len()).into_bytes());
                }
            }
            read.read(&text[from..]);
        }
        let fixed = [b"sh".to_vec(), b"-c".to_vec(), text, b"sh".to_vec()];
        let fixed = fixed.map(|word| vec![Piece::Text(word)]);
        Ok(Self {
            words: fixed.into_iter().chain(parameters).collect(),
            shell: Some(whole),
        })
    }

    /// The command for the argument with this number.
    pub fn job(&self, argument: &[u8], number: u64) -> CommandJob {
        let value = |place: &[u8]| value(place, argument, number);
        let words = self.words.iter();
        let words = words.map(|word| OsString::from_vec(fill(word, value)));
        let mut job = CommandJob::of_words(words.collect());
        let quoted = |place: &[u8]| quote(&value(place));
        job.text = self.shell.as_ref().map(|shell| fill(shell, quoted));
        job
    }
}

/// Rejects a placeholder after this part of a shell text, if an argument might not stay one there.
fn check_place(read: &ShellText, before: &[u8]) -> Result<(), Error> {
    let place = match read.open[..] {
        [b'\'' | b'"'] => {
            return Err(invalid(
                "the command: an argument cannot be put into quotes: write {} without them, it stays one argument",
            ));
        }
        [b'\n'] => "a comment",
        [_, ..] => "backticks, or a `$(` within quotes",
        [] if ends_escaped(before) => "what a backslash escapes",
        [] if read.unsure || before.ends_with(b"$") => {
            "what follows `$`, or may be in a here-document, arithmetic or `${…}` (after `<<`, `((`, `$[`, `)#`, a `case` in `\"$(`)"
        }
        [] => return Ok(()),
    };
    Err(invalid(format!(
        "the command: an argument cannot be put safely into {place}: give it to a variable before, as in `x={{}}; …`, and \
         write \"$x\" there"
    )))
}

/// What a placeholder stands for.
fn value(place: &[u8], argument: &[u8], number: u64) -> Vec<u8> {
    let name = argument.rsplit(|byte| *byte == b'/').next();
    let name = name.unwrap_or(argument);
    match place {
        b"{.}" => without_extension(argument).to_vec(),
        b"{/}" => name.to_vec(),
        b"{/.}" => without_extension(name).to_vec(),
        b"{//}" => folder(argument).to_vec(),
        b"{#}" => number.to_string().into_bytes(),
        _ => argument.to_vec(),
    }
}

fn without_extension(path: &[u8]) -> &[u8] {
    let dot = path.iter().rposition(|byte| matches!(byte, b'.' | b'/'));
    match dot {
        Some(at) if path[at] == b'.' => &path[..at],
        _ => path,
    }
}

/// The folder as `dirname` returns it.
fn folder(path: &[u8]) -> &[u8] {
    match Path::new(OsStr::from_bytes(path)).parent() {
        None if path.starts_with(b"/") => b"/",
        Some(folder) if !folder.as_os_str().is_empty() => folder.as_os_str().as_bytes(),
        _ => b".",
    }
}

fn has_place(pieces: &[Piece]) -> bool {
    pieces.iter().any(|piece| matches!(piece, Piece::Place(_)))
}

fn pieces(word: &[u8]) -> Result<Vec<Piece>, Error> {
    let (mut pieces, mut text) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < word.len() {
        let is_here = |place: &&&[u8]| word[at..].starts_with(place);
        let begins = at == 0 || b" \t\n\"'/=".contains(&word[at - 1]);
        if begins && let Some(foreign) = FOREIGN.iter().find(is_here) {
            return Err(invalid(format!(
                "the command: {} … is GNU parallel's; there is one list, and known are {{}} {{.}} {{/}} {{//}} {{/.}} {{#}}: with \
                 --shell, a shell takes names apart",
                String::from_utf8_lossy(foreign)
            )));
        }
        if let Some(place) = PLACES.iter().find(is_here) {
            pieces.extend([Piece::Text(mem::take(&mut text)), Piece::Place(place)]);
            at += place.len();
        } else {
            text.push(word[at]);
            at += 1;
        }
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

fn fill(pieces: &[Piece], value: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Place(place) => value(place),
    };
    pieces.iter().flat_map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(template: Result<Template, Error>, argument: &str) -> String {
        template.unwrap().job(argument.as_bytes(), 7).text()
    }

    #[test]
    fn placeholders_are_filled_like_gnu_parallel() {
        let all = Template::new(["{}", "{.}", "{/}", "{//}", "{/.}", "{#}", "a{.}b{#}c"]).unwrap();
        // Copied from GNU parallel 20221122.
        for (argument, filled) in [
            (
                "d/p.old.jpg",
                "d/p.old.jpg|d/p.old|p.old.jpg|d|p.old|7|ad/p.oldb7c",
            ),
            ("x", "x|x|x|.|x|7|axb7c"),
            ("/x.y", "/x.y|/x|x.y|/|x|7|a/xb7c"),
            ("a.b/c", "a.b/c|a.b/c|c|a.b|c|7|aa.b/cb7c"),
            ("a.", "a.|a|a.|.|a|7|aab7c"),
            ("", "|||.||7|ab7c"),
            ("/", "/|/||/||7|a/b7c"),
            ("d//e", "d//e|d//e|e|d|e|7|ad//eb7c"),
        ] {
            let job = all.job(argument.as_bytes(), 7);
            assert_eq!(job.command.join("|".as_ref()), filled);
        }
    }

    #[test]
    fn without_a_placeholder_the_argument_is_last_and_what_is_shown_is_safe_to_paste() {
        for (template, argument, text) in [
            (Template::new(["gzip", "-k"]), "a b", "gzip -k 'a b'"),
            (Template::new(["gzip -k {} x"]), "a b", "gzip -k 'a b' x"),
            (Template::shell(["gzip", "-k"]), "a b", "gzip -k 'a b'"),
            (Template::shell(["echo 'it' {}"]), "a", "echo 'it' a"),
            (
                Template::shell(["echo x{}y"]),
                "$(x) 'y",
                "echo x'$(x) '\\''y'y",
            ),
            (Template::new(["echo"]), "{a,b}", "echo '{a,b}'"),
        ] {
            assert_eq!(shown(template, argument), text);
        }
        for wrong in ["gzip {} > x", "cd {}"] {
            assert!(Template::new([wrong]).is_err());
        }
        assert!(Template::new([""; 0]).is_err() && Template::shell([" "]).is_err());
    }

    #[test]
    fn what_might_split_an_argument_and_other_placeholders_are_rejected_with_advice() {
        for text in ["{1}", "x/{2}", "{%}", "{..}", "{+/}", "{= s/a/b/ =}"] {
            for template in [
                Template::new(["echo", text]),
                Template::shell(["echo", text]),
            ] {
                let error = template.unwrap_err();
                let known = "{} {.} {/} {//} {/.} {#}";
                assert!(error.message().contains(known), "{error}");
            }
        }
        Template::new(["grep", "-E", "[0-9]{3}|a{2,}|{a}"]).unwrap();
        for text in [
            "for i in {1..5}; do echo ${1} ${x%.}; done; awk '{print $1}'",
            "x={}; cat <<END\n$x\nEND",
            "d=${OUT:-\"/tmp\"}; echo {} $d",
            "d=${OUT:-$(pwd)}; echo {} $d",
            "d=\"${OUT:-\"$(pwd)/a\"}\"; echo {} $d",
            "d=${V:-$(git-version)}${W:-$(/bin/pwd)}${x#y}${#x}; echo {} $d",
            "d=\"$(dirname \"$HOME\")\"; echo {} $d",
            "grep -E '((a|b)c)' {}; sed 's/(a)#${<<//' {}; grep -E \"((a|b)c)+\" {}",
            "i=$((i+1)); n=\"$((RANDOM % ($(nproc)*5)))\"; ((i++)); (((i+1)*2)); echo {} $i",
            "make -j${J:-$(nproc --all)} {}; d=\"${OUT:-${HOME}/out}\"; g=\"${f//\\//_}${f%'.txt'}\"; echo {}",
            "x=\"$(grep --ignore-case foo $f.case x)\"; echo {} \"$x\"",
            "d=\"$(echo \"it's (a)\" 'b\"' `c \"`)\"; echo {} $d; case $d in a) echo {};; esac",
        ] {
            Template::shell([text]).unwrap();
        }
        for (text, why) in [
            ("cat <<END\n{}\nEND", "a here-document"),
            ("echo `cat {}`", "backticks"),
            ("echo $(({} + 1))", "arithmetic"),
            ("echo $(( (1+(2)) + {} ))", "arithmetic"),
            ("echo $[{}]", "arithmetic"),
            ("echo ${x#'}'}{}", "`${"),
            ("echo ${x:\"}\"{}}", "`${"),
            ("echo ${x:$(a})+{}}", "`${"),
            ("echo ${x:$(a\")\"})+{}}", "`${"),
            ("echo ${x:)$(a})+{}}", "`${"),
            ("echo ${x:$(case x in a)};; esac)+{}}", "`${"),
            ("echo ${x:-{}}", "`${"),
            ("echo ${x:-${y}{}}", "`${"),
            ("echo ${x:- #} \"a\n{} b\"", "`${"),
            ("echo \"${x:-\" #\"} \"a\n{} b\"", "`${"),
            ("x=\"$(basename \"{}\")\"", "within quotes"),
            ("printf '<%s>' \"$(printf '[%s]' \"{}\")\"", "within quotes"),
            ("x=\"$( (a); b \"$(c)\" \"{}\")\"", "within quotes"),
            ("x=\"$(basename {})\"", "within quotes"),
            ("x=\"`basename \"{}\"`\"", "within quotes"),
            ("x=\"$(echo \"it's\")\" y='{}'", "into quotes"),
            ("x=\"$(true # \"\n)\"; y=\"{}\"", "into quotes"),
            ("echo \\\n# '\necho '{}'", "into quotes"),
            ("(echo \"$$(\" # \"\n)\"{}\"", "into quotes"),
            ("echo \"$$(\"{}\")\"", "arithmetic"),
            ("x=\"$(case x in a) echo \"{}\"; esac)\"", "a `case`"),
            ("p \"$(ca\\\nse x in x) p \"{}\";; esac)\"", "a `case`"),
            ("cat <\\\n<END\n{}\nEND", "a here-document"),
            ("p $(\\\n({}+1))", "arithmetic"),
            ("p $(p a)\\\n#'b\n{}'", "`)#`"),
            ("p $\\\n[{}]", "`$[`"),
            ("p $\\\n{}", "`${"),
            ("p $'\\'' '{}'", "`${"),
            ("grep $'\\t' {}", "what follows `$`"),
            ("p \"$((a) )\" {}", "arithmetic"),
            ("p \"${ a }\" {} \"; }\"", "`${"),
            ("p `cat <<END`\n{}\nEND", "a here-document"),
            ("p $((1)) $((1 #))\n {}", "arithmetic"),
            ("x=\"$(echo ${x%)} \"{}\")\"", "`${"),
            ("echo $(a)#'b\n{}'", "`)#`"),
            ("echo x # {}", "a comment"),
            ("echo x # no place", "a comment"),
            ("echo \\{}", "what a backslash escapes"),
            ("echo \"{}\"", "into quotes"),
            ("echo '{}'", "into quotes"),
            ("echo 'x", "into quotes"),
        ] {
            let error = Template::shell([text]).unwrap_err();
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }

    /// Random arguments in random places: a shell prints them unchanged, and so does a shell that runs the
    /// displayed text.
    #[test]
    fn an_argument_stays_one_argument_and_is_never_code() {
        use std::process::Command;

        let mut seed = 5_u64;
        let mut below = |n: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695);
            (seed >> 33) as usize % n
        };
        let parts =
            b"$(touch hacked)%`touch hacked`%'; touch hacked; '%\"; touch hacked; \"%a%\n%  %\
                      \\%'%\"%\xff*%$x%!%# ";
        let parts: Vec<&[u8]> = parts.split(|byte| *byte == b'%').collect();
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..150 {
            let mut text = ["printf %s {}", "x={}; printf %s \"$x\""][below(2)].to_owned();
            for _ in 0..below(4) {
                text = match below(5) {
                    0 => format!("( {text})"),
                    1 => format!("true # it's\n{text}"),
                    2 => format!("{text} | cat"),
                    3 => format!(
                        "true 'it\"s' \"it's\" \\' \"$(true \"$x\")\"`true`$(true)${{x-}}${{x-\"$(true)\"}}; {text}"
                    ),
                    _ => format!("case {{}} in {{}}) {text};; esac"),
                };
            }
            let mut argument: Vec<u8> = Vec::new();
            (0..below(5)).for_each(|_| argument.extend(parts[below(parts.len())]));
            // A substitution removes line ends at its end.
            argument.push(b'.');
            let job = Template::shell([&text]).unwrap().job(&argument, 1);
            let shown = OsString::from_vec(job.text_bytes().into_owned());
            let shown = ["sh".into(), "-c".into(), shown];
            for words in [&job.command[..], &shown] {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).current_dir(folder.path());
                let said = command.output().unwrap();
                assert_eq!(said.stdout, argument, "{text}\n{words:?}");
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
