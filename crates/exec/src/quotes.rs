//! Which quotes are open at a position in a shell text. This is not a parser: it follows quotes, backslashes and comments,
//! and notices where text may mean something else.

/// A shell text up to a position.
#[derive(Debug, Default)]
pub(super) struct Quotes {
    /// The quote that is open: `'`, `"` or a backtick.
    open: Option<u8>,
    escaped: bool,
    comment: bool,
    in_word: bool,
    /// Within `((…))` or `${…}`.
    arithmetic: bool,
    brace: bool,
    /// Number of consecutive `<`.
    less: u8,
    here_document: bool,
    /// The last byte, if it is not quoted.
    last: u8,
}

impl Quotes {
    pub fn of(text: &[u8]) -> Self {
        let mut whole = Self::default();
        whole.pass(text);
        whole
    }

    pub fn pass(&mut self, text: &[u8]) {
        for byte in text {
            self.pass_byte(*byte);
        }
    }

    /// Why no argument can stand here.
    pub fn refusal(&self) -> Option<&'static str> {
        match self.open {
            _ if self.comment => Some("a comment"),
            _ if self.has_here_document() => Some("a here-document"),
            Some(b'`') => Some("backticks"),
            Some(_) => Some("quotes"),
            None if self.escaped => Some("what a backslash escapes"),
            None if self.arithmetic => Some("arithmetic"),
            None if self.brace => Some("`${…}`"),
            None if self.last == b'$' => Some("what a `$` begins"),
            None => None,
        }
    }

    /// Whether a backslash at the end of a line continues it.
    pub fn continues(&self) -> bool {
        self.escaped
    }

    /// Continues with the next line, as if the backslash and the line end did not exist.
    pub fn join(&mut self) {
        self.escaped = false;
    }

    /// The quote that is not closed.
    pub fn unclosed(&self) -> Option<char> {
        self.open.map(char::from)
    }

    pub fn has_here_document(&self) -> bool {
        self.here_document || self.less == 2
    }

    fn pass_byte(&mut self, byte: u8) {
        if self.comment {
            self.comment = byte != b'\n';
        } else if self.open == Some(b'\'') {
            self.open = self.open.filter(|quote| *quote != byte);
        } else if std::mem::take(&mut self.escaped) {
            (self.in_word, self.last) = (self.in_word || byte != b'\n', 0);
        } else if byte == b'\\' {
            self.escaped = true;
        } else if let Some(quote) = self.open {
            self.open = (quote != byte).then_some(quote);
        } else {
            self.plain(byte);
        }
    }

    /// A byte outside of quotes.
    fn plain(&mut self, byte: u8) {
        // Two start a here-document, three a here-string in some shells.
        self.less = match byte {
            b'<' if !self.arithmetic => self.less.saturating_add(1),
            _ => {
                self.here_document |= self.less == 2;
                0
            }
        };
        match (self.last, byte) {
            (b'(', b'(') => self.arithmetic = true,
            (b')', b')') => self.arithmetic = false,
            (b'$', b'{') => self.brace = true,
            (_, b'}') => self.brace = false,
            (_, b'\'' | b'"' | b'`') => self.open = Some(byte),
            // `$#` is a parameter.
            (_, b'#') => self.comment = !self.in_word,
            _ => {}
        }
        self.in_word = !b" \t\n;&|()<>".contains(&byte);
        self.last = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_stands_only_outside_of_quotes() {
        let good = "\necho it\\'s \necho 'a' \"b\" x=\necho a#b \necho $# \n$(cat \n\
                    echo $((1<<2)) \ncat <<<x \necho ${x} ";
        for text in good.lines().chain(["echo # it's\n"]) {
            assert_eq!(Quotes::of(text.as_bytes()).refusal(), None, "{text}");
        }
        for (text, why) in [
            ("echo \"\\\"", "quotes"),
            ("echo \"$(cat ", "quotes"),
            ("cat <<", "a here-document"),
            ("echo $", "what a `$` begins"),
        ] {
            assert_eq!(Quotes::of(text.as_bytes()).refusal(), Some(why), "{text}");
        }
    }
}
