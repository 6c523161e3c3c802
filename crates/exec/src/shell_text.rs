//! The quotes, substitutions and comments that are open at a position in a shell text.
//!
//! This is not a parser: it follows quotes, `$(…)` and comments, which can be recognised byte by byte, and reports
//! everything else as uncertain.

/// The context of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Around {
    Nothing,
    Single,
    Double,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Double,
    /// `$(`, in which quotes start again.
    Substitution,
    Parenthesis,
    Backtick,
    /// `${`
    Brace,
    /// `$((`, in which each parenthesis is closed separately.
    Arithmetic,
    ArithmeticParenthesis,
}

const HERE_DOCUMENT: &str = "a here-document";

/// A shell text up to a position.
#[derive(Debug, Default)]
pub(super) struct ShellText {
    open: Vec<Open>,
    single: bool,
    comment: bool,
    escaped: bool,
    /// The last byte was an unquoted `$`.
    dollar: bool,
    /// Number of consecutive `<`.
    less: u8,
    /// The last byte was a `(` that opens a context.
    parenthesis_begins: bool,
    in_word: bool,
    /// The unquoted part of the word.
    word: Vec<u8>,
    /// The reason why the context is unknown from here on.
    unsure: Option<&'static str>,
}

impl ShellText {
    pub(super) fn of(text: &[u8]) -> Self {
        let mut whole = Self::default();
        whole.pass_all(text);
        whole
    }

    pub(super) fn pass_all(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.pass(*byte));
    }

    /// The context of this position; if nothing can be inserted here safely, an error that describes the position.
    pub(super) fn around(&self) -> Result<Around, &'static str> {
        if self.comment {
            return Err("a comment");
        }
        if let Some(why) = self.unsure {
            return Err(why);
        }
        if self.single {
            return Ok(Around::Single);
        }
        match self.open.last() {
            _ if self.less == 2 => Err(HERE_DOCUMENT),
            _ if self.escaped => Err("what a backslash escapes"),
            _ if self.dollar => Err("what a `$` begins"),
            Some(Open::Backtick) => Err("backticks"),
            Some(Open::Brace) => Err("`${…}`"),
            Some(Open::Arithmetic | Open::ArithmeticParenthesis) => Err("arithmetic"),
            Some(Open::Double) => Ok(Around::Double),
            None | Some(Open::Substitution | Open::Parenthesis) => Ok(Around::Nothing),
        }
    }

    /// A part of a word was inserted here.
    pub(super) fn placed(&mut self) {
        self.less = 0;
        self.parenthesis_begins = false;
        self.quoted_part();
    }

    /// Whether a backslash at the end of a line continues it.
    pub(super) fn continues(&self) -> bool {
        self.escaped
    }

    /// Continues with the next line, as if the backslash and the line end did not exist.
    pub(super) fn join(&mut self) {
        self.escaped = false;
    }

    pub(super) fn has_here_document(&self) -> bool {
        self.less == 2 || self.unsure == Some(HERE_DOCUMENT)
    }

    /// What is certainly still open.
    pub(super) fn unclosed(&self) -> Option<&'static str> {
        match self.open.last() {
            _ if self.unsure.is_some() => None,
            _ if self.single => Some("the quote '"),
            Some(Open::Double) => Some("the quote \""),
            Some(Open::Backtick) => Some("the quote `"),
            Some(Open::Brace) => Some("`${`"),
            Some(_) => Some("a parenthesis"),
            None => None,
        }
    }

    fn pass(&mut self, byte: u8) {
        if self.comment {
            self.comment = byte != b'\n';
            return;
        }
        if self.single {
            self.single = byte != b'\'';
            return;
        }
        if std::mem::take(&mut self.escaped) {
            if byte != b'\n' {
                self.quoted_part();
            }
            return;
        }
        if byte == b'\\' {
            self.escaped = true;
            if self.open.last() == Some(&Open::Brace) {
                self.doubt("`${…}` with quotes");
            }
            // The delimiter of a here-document may be quoted like this.
            self.count_less(byte);
            return;
        }
        self.count_less(byte);
        self.pass_unescaped(byte);
    }

    /// A byte that is neither in single quotes nor escaped.
    fn pass_unescaped(&mut self, byte: u8) {
        let after_dollar = std::mem::take(&mut self.dollar);
        let parenthesis_begins = std::mem::take(&mut self.parenthesis_begins);
        match self.open.last() {
            Some(Open::Backtick) => {
                if byte == b'`' {
                    self.open.pop();
                }
            }
            _ if after_dollar && byte == b'(' => {
                self.open.push(Open::Substitution);
                self.parenthesis_begins = true;
                self.word_ends();
            }
            _ if after_dollar && byte == b'{' => self.open.push(Open::Brace),
            _ if byte == b'`' => {
                self.quoted_part();
                self.open.push(Open::Backtick);
            }
            _ if byte == b'$' => {
                self.quoted_part();
                // `$$` is a complete parameter.
                self.dollar = !after_dollar;
            }
            Some(Open::Double) => {
                if byte == b'"' {
                    self.open.pop();
                }
            }
            Some(Open::Brace) => match byte {
                b'}' => drop(self.open.pop()),
                b'\'' | b'"' => self.doubt("`${…}` with quotes"),
                _ => {}
            },
            Some(Open::Arithmetic) => match byte {
                b')' => {
                    self.open.pop();
                    self.quoted_part();
                }
                // `$( (…) …)` without the blank.
                _ => self.doubt("what may be arithmetic"),
            },
            Some(Open::ArithmeticParenthesis) => match byte {
                b'(' => self.open.push(Open::ArithmeticParenthesis),
                b')' => drop(self.open.pop()),
                b'\'' | b'"' => self.doubt("what may be arithmetic"),
                _ => {}
            },
            Some(Open::Substitution) if parenthesis_begins && byte == b'(' => {
                self.open.pop();
                self.open
                    .extend([Open::Arithmetic, Open::ArithmeticParenthesis]);
            }
            // Some shells read this as arithmetic.
            Some(Open::Parenthesis) if parenthesis_begins && byte == b'(' => {
                self.doubt("what may be arithmetic");
            }
            None | Some(Open::Substitution | Open::Parenthesis) => self.plain(byte, after_dollar),
        }
    }

    /// A byte outside of quotes.
    fn plain(&mut self, byte: u8, after_dollar: bool) {
        match byte {
            b'\'' if after_dollar => self.doubt("what follows `$'`, which shells take in two ways"),
            b'\'' => {
                self.quoted_part();
                self.single = true;
            }
            b'"' => {
                self.quoted_part();
                self.open.push(Open::Double);
            }
            b'#' if !self.in_word => self.comment = true,
            b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' => self.word_ends(),
            b'(' => {
                self.word_ends();
                self.open.push(Open::Parenthesis);
                self.parenthesis_begins = true;
            }
            b')' => {
                self.word_ends();
                if self.open.pop() == Some(Open::Substitution) {
                    self.quoted_part();
                }
            }
            _ => {
                self.in_word = true;
                self.word.push(byte);
            }
        }
    }

    /// Counts `<` outside of quotes: two start a here-document, three a here-string in some shells.
    fn count_less(&mut self, byte: u8) {
        let outside = matches!(
            self.open.last(),
            None | Some(Open::Substitution | Open::Parenthesis)
        );
        match byte {
            b'<' if outside => self.less = self.less.saturating_add(1),
            _ => {
                if std::mem::take(&mut self.less) == 2 {
                    self.doubt(HERE_DOCUMENT);
                }
            }
        }
    }

    fn quoted_part(&mut self) {
        self.dollar = false;
        self.in_word = true;
        // It is not a keyword any more.
        self.word.push(b'\\');
    }

    fn word_ends(&mut self) {
        // The parentheses of its patterns are not closed.
        if self.word == b"case" && !self.open.is_empty() {
            self.doubt("a `case` within parentheses");
        }
        self.word.clear();
        self.in_word = false;
    }

    fn doubt(&mut self, why: &'static str) {
        self.unsure.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_contexts_are_recognised_or_rejected() {
        use Around::{Double, Nothing, Single};
        for (text, around) in [
            ("", Ok(Nothing)),
            ("echo '", Ok(Single)),
            ("echo \"", Ok(Double)),
            ("echo \"'", Ok(Double)),
            ("echo \"\\\"", Ok(Double)),
            ("echo \\' \"$(cat ", Ok(Nothing)),
            ("\"$(cat \"$(cat '", Ok(Single)),
            ("\"$(cat x) ", Ok(Double)),
            ("\"$( (cat); (cat) ) ", Ok(Double)),
            ("\"$((1+(2))) ", Ok(Double)),
            ("\"$((1<<2)) ", Ok(Double)),
            ("\"${x:-$y} ", Ok(Double)),
            ("\"`cat \\`'` ", Ok(Double)),
            ("echo it\\'s # it's\n", Ok(Nothing)),
            ("echo a#b' ", Ok(Single)),
            ("echo \"$(x)\"#' ", Ok(Single)),
            ("echo $(x)#$((1))#' ", Ok(Single)),
            ("echo $# ' ", Ok(Single)),
            ("cat <<<x ", Ok(Nothing)),
            ("case x in a) ", Ok(Nothing)),
            ("echo # ", Err("a comment")),
            ("echo `cat ", Err("backticks")),
            ("echo ${x", Err("`${…}`")),
            ("echo $((1+", Err("arithmetic")),
            ("cat <<", Err(HERE_DOCUMENT)),
            ("cat <<END\n", Err(HERE_DOCUMENT)),
            ("\"$(cat <<END\n", Err(HERE_DOCUMENT)),
            ("echo \\", Err("what a backslash escapes")),
            ("echo \"$", Err("what a `$` begins")),
        ] {
            assert_eq!(ShellText::of(text.as_bytes()).around(), around, "{text}");
        }
        for text in [
            "\"$(case x in a) ",
            "\"${x:-'}'} ",
            "$((cat) | x) ",
            "$'\\' ",
            "((x = ",
            "((cat) ",
        ] {
            assert!(ShellText::of(text.as_bytes()).around().is_err(), "{text}");
        }
    }

    #[test]
    fn unclosed_contexts_are_named() {
        for (text, open) in [
            ("echo 'a", Some("the quote '")),
            ("echo \"a", Some("the quote \"")),
            ("echo $(a", Some("a parenthesis")),
            ("echo it\\'s \"it's\" # it's", None),
            ("case x in a) echo;; esac", None),
        ] {
            assert_eq!(ShellText::of(text.as_bytes()).unclosed(), open, "{text}");
        }
        assert!(ShellText::of(b"cat <<END").has_here_document());
        assert!(ShellText::of(b"cat << 'END'").has_here_document());
        assert!(!ShellText::of(b"echo '<<' \"<<\" $((1<<2)) <<<x").has_here_document());
    }
}
