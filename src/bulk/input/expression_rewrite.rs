//! Rewrites a template before it is compiled: `row["Review Text"]` becomes a variable, a comparison becomes a call that
//! checks the kinds of its operands, and `{{ price }}` and `{{ price|trim }}` show a number as it is written in the
//! record. The template was parsed before, so its syntax is correct.

use std::collections::HashSet;

use super::template_tokens::{Kind, token, unquoted};

/// The function that evaluates comparisons. Its first argument is the number of the comparison.
pub(super) const COMPARE: &str = "__compare";
/// Prefix of a variable for a column named in `row["…"]`.
const COLUMN: &str = "__column_";
/// Prefix of a variable with a column's text as it is written in the record.
const WRITTEN: &str = "__written_";

/// Filters for texts. A number passes through them as it is written.
const TEXT_FILTERS: [&str; 13] = [
    "capitalize",
    "count",
    "e",
    "escape",
    "indent",
    "length",
    "lower",
    "replace",
    "split",
    "string",
    "title",
    "trim",
    "upper",
];

/// A template whose comparisons are checked.
pub(super) struct Rewritten {
    pub(super) text: String,
    /// The columns named in `row["…"]`.
    columns: Vec<String>,
    /// The operands of each comparison as written in the template.
    pub(super) operands: Vec<Vec<String>>,
}

/// The value of a variable of the rewritten template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) variable: String,
    pub(super) column: String,
    /// The text that a plain template would show, even if the column has a number.
    pub(super) as_text: bool,
}

impl Rewritten {
    pub(super) fn of(template: &str) -> Self {
        let mut columns = Vec::new();
        let mut pieces = pieces(template);
        for piece in &mut pieces {
            if let Piece::Tag(tag) = piece {
                tag.name_columns(&mut columns);
            }
        }
        let tags = pieces.iter().filter_map(|piece| match piece {
            Piece::Tag(tag) => Some(tag),
            Piece::Text(_) => None,
        });
        let assigned: HashSet<String> = tags.flat_map(Tag::assigned).collect();
        for piece in &mut pieces {
            if let Piece::Tag(tag) = piece {
                tag.show_texts(&assigned);
            }
        }
        let mut writer = Writer {
            template,
            operands: Vec::new(),
        };
        let mut text = String::new();
        for piece in &pieces {
            match piece {
                Piece::Text(own) => text.push_str(own),
                Piece::Tag(tag) => {
                    text.push_str(tag.open);
                    text.push_str(&writer.tag(tag));
                    text.push_str(tag.close);
                }
            }
        }
        Self {
            text,
            columns,
            operands: writer.operands,
        }
    }

    /// The value of a variable of the rewritten template.
    pub(super) fn binding(&self, variable: String) -> Binding {
        let (as_text, name) = match variable.strip_prefix(WRITTEN) {
            Some(name) => (true, name),
            None => (false, variable.as_str()),
        };
        let number = name.strip_prefix(COLUMN).and_then(|n| n.parse().ok());
        let column = number.and_then(|n: usize| self.columns.get(n));
        let column = column.map_or(name, String::as_str).to_owned();
        Binding {
            variable,
            column,
            as_text,
        }
    }
}

enum Piece<'t> {
    Text(&'t str),
    Tag(Tag<'t>),
}

/// `{{ … }}` or `{% … %}`.
struct Tag<'t> {
    open: &'t str,
    tokens: Vec<Token<'t>>,
    /// With the blanks before it.
    close: &'t str,
}

struct Token<'t> {
    kind: Kind,
    /// The blanks before it.
    gap: &'t str,
    text: String,
    start: usize,
    end: usize,
}

impl Token<'_> {
    fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    fn is_op(&self, op: &str) -> bool {
        self.kind == Kind::Other && self.text == op
    }

    fn opens(&self) -> bool {
        ["(", "[", "{"].iter().any(|op| self.is_op(op))
    }

    fn closes(&self) -> bool {
        [")", "]", "}"].iter().any(|op| self.is_op(op))
    }

    /// Whether a minus after it subtracts, and does not negate.
    fn ends_value(&self) -> bool {
        const KEYWORDS: [&str; 7] = ["and", "elif", "else", "if", "in", "not", "or"];
        match self.kind {
            Kind::Word => !KEYWORDS.contains(&self.text.as_str()),
            Kind::Text => true,
            Kind::Other => self.closes() || self.text.starts_with(|c: char| c.is_ascii_digit()),
        }
    }
}

/// Splits a template into tags and the texts between them, including comments and `raw` blocks.
fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut all = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(open) = template[at..].find('{').map(|i| at + i) {
        let rest = &template[open..];
        let close = match rest.as_bytes().get(1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                at = rest.find("#}").map_or(template.len(), |i| open + i + 2);
                continue;
            }
            _ => {
                at = open + 1;
                continue;
            }
        };
        let Some((tag, after)) = tag(template, open, close) else {
            break;
        };
        at = after;
        if close == "%}" && tag.tokens.first().is_some_and(|first| first.is_word("raw")) {
            let end = template[at..].find("endraw").map(|i| at + i);
            let end = end.and_then(|i| Some(i + template[i..].find("%}")? + 2));
            at = end.unwrap_or(template.len());
            continue;
        }
        all.push(Piece::Text(&template[from..open]));
        all.push(Piece::Tag(tag));
        from = at;
    }
    all.push(Piece::Text(&template[from..]));
    all
}

/// The tag that opens there, and where it ends.
fn tag<'t>(template: &'t str, open: usize, close: &str) -> Option<(Tag<'t>, usize)> {
    let mut at = open + 2;
    at += usize::from(template[at..].starts_with(['-', '+']));
    let begun = at;
    let mut tokens: Vec<Token<'t>> = Vec::new();
    let mut depth = 0_usize;
    loop {
        let rest = &template[at..];
        let gap = &rest[..rest.len() - rest.trim_start().len()];
        let start = at + gap.len();
        let rest = &template[start..];
        let bare = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        if depth == 0 && (rest.starts_with(close) || bare.starts_with(close)) {
            let end = start + rest.find(close)? + close.len();
            let tag = Tag {
                open: &template[open..begun],
                tokens,
                close: &template[at..end],
            };
            return Some((tag, end));
        }
        let (kind, len) = token(rest)?;
        let token = Token {
            kind,
            gap,
            text: rest[..len].to_owned(),
            start,
            end: start + len,
        };
        depth += usize::from(token.opens());
        depth -= usize::from(token.closes() && depth > 0);
        tokens.push(token);
        at = start + len;
    }
}

impl Tag<'_> {
    /// Makes a variable of each `row["…"]`.
    fn name_columns(&mut self, columns: &mut Vec<String>) {
        let mut at = 0;
        while at + 3 < self.tokens.len() {
            let own = at == 0 || !self.tokens[at - 1].is_op(".") && !self.tokens[at - 1].is_op("|");
            let [row, open, name, close] = &self.tokens[at..at + 4] else {
                return;
            };
            let is_column = own
                && row.is_word("row")
                && open.is_op("[")
                && name.kind == Kind::Text
                && close.is_op("]");
            if is_column {
                let (name, end) = (unquoted(&name.text), close.end);
                let known = columns.iter().position(|other| *other == name);
                let number = known.unwrap_or_else(|| {
                    columns.push(name);
                    columns.len() - 1
                });
                self.tokens[at].text = format!("{COLUMN}{number}");
                self.tokens[at].end = end;
                self.tokens.drain(at + 1..at + 4);
            }
            at += 1;
        }
    }

    fn statement(&self) -> Option<&str> {
        let first = self.tokens.first()?;
        (self.open.starts_with("{%") && first.kind == Kind::Word).then_some(first.text.as_str())
    }

    /// The variables that the tag assigns.
    fn assigned(&self) -> Vec<String> {
        let tokens = self.tokens.get(1..).unwrap_or_default();
        let words = |tokens: &[Token<'_>]| -> Vec<String> {
            let words = tokens.iter().filter(|token| token.kind == Kind::Word);
            words.map(|token| token.text.clone()).collect()
        };
        match self.statement() {
            Some("for") => {
                let end = tokens.iter().position(|token| token.is_word("in"));
                words(&tokens[..end.unwrap_or(0)])
            }
            Some("set") => {
                let end = tokens.iter().position(|token| token.is_op("="));
                words(&tokens[..end.unwrap_or(1.min(tokens.len()))])
            }
            Some("with") => {
                let pairs = tokens.windows(2).filter(|pair| pair[1].is_op("="));
                pairs.map(|pair| pair[0].text.clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Uses the text of a field as written in the record where a text is needed: the number of 1.10 would be 1.1.
    fn show_texts(&mut self, assigned: &HashSet<String>) {
        for at in 0..self.tokens.len() {
            let name = &self.tokens[at].text;
            let is_value =
                ["true", "false", "none", "True", "False", "None"].contains(&name.as_str());
            if self.wants_text(at) && !is_value && !assigned.contains(name) {
                self.tokens[at].text = format!("{WRITTEN}{name}");
            }
        }
    }

    /// Whether a word is a variable that is only shown, joined to a text, or passed to a filter for texts.
    fn wants_text(&self, at: usize) -> bool {
        const FACTORS: [&str; 6] = ["*", "/", "//", "%", "**", "-"];
        let token = |at: Option<usize>| at.and_then(|at| self.tokens.get(at));
        let (before, next) = (token(at.checked_sub(1)), token(Some(at + 1)));
        let is = |token: Option<&Token<'_>>, ops: &[&str]| {
            token.is_some_and(|token| ops.iter().any(|op| token.is_op(op)))
        };
        if self.tokens[at].kind != Kind::Word || is(before, &[".", "|"]) {
            return false;
        }
        let filter = token(Some(at + 2)).filter(|_| is(next, &["|"]));
        if let Some(filter) = filter {
            let is_negated =
                is(before, &["-"]) && !token(at.checked_sub(2)).is_some_and(Token::ends_value);
            return !is_negated && TEXT_FILTERS.iter().any(|name| filter.is_word(name));
        }
        let is_alone = self.open.starts_with("{{") && self.tokens.len() == 1;
        is_alone
            || is(next, &["~"]) && !is(before, &FACTORS)
            || is(before, &["~"]) && !is(next, &FACTORS) && !is(next, &[".", "[", "(", "|"])
    }
}

struct Writer<'t> {
    template: &'t str,
    operands: Vec<Vec<String>>,
}

/// An operand of a comparison: its rewritten text, and its position in the template.
#[derive(Default)]
struct Operand {
    text: String,
    start: Option<usize>,
    end: usize,
}

impl Operand {
    fn take(&mut self, token: &Token<'_>) {
        self.text.push_str(token.gap);
        self.text.push_str(&token.text);
        self.start.get_or_insert(token.start);
        self.end = token.end;
    }
}

impl Writer<'_> {
    fn tag(&mut self, tag: &Tag<'_>) -> String {
        let is_for = tag.statement() == Some("for");
        let target = tag.tokens.iter().position(|token| token.is_word("in"));
        // The `in` of a loop is not a comparison.
        let (before, rest) = match target.filter(|_| is_for) {
            Some(target) => tag.tokens.split_at(target + 1),
            None => tag.tokens.split_at(usize::from(tag.statement().is_some())),
        };
        let mut out: String = before
            .iter()
            .flat_map(|token| [token.gap, token.text.as_str()])
            .collect();
        let last = rest
            .last()
            .filter(|last| is_for && last.is_word("recursive"));
        out.push_str(&self.expression(&rest[..rest.len() - usize::from(last.is_some())]));
        if last.is_some() {
            out.push_str(" recursive");
        }
        out
    }

    /// Replaces each comparison in these tokens by a call. A comparison ends at an operator of lower precedence.
    fn expression(&mut self, tokens: &[Token<'_>]) -> String {
        let mut out = String::new();
        let mut operand = Operand::default();
        let mut chain: Vec<(Operand, &str)> = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let word = |i: Option<usize>, word| {
                i.and_then(|i| tokens.get(i))
                    .is_some_and(|t| t.is_word(word))
            };
            let before = at.checked_sub(1);
            let is_name = before.is_some_and(|i| tokens[i].is_op(".") || tokens[i].is_op("|"));
            let of_test =
                word(before, "is") || word(before, "not") && word(at.checked_sub(2), "is");
            let free = !is_name && !of_test;
            let op = match token.text.as_str() {
                op @ ("==" | "!=" | "<" | "<=" | ">" | ">=") if token.kind == Kind::Other => {
                    Some(op)
                }
                "in" if free && token.kind == Kind::Word => Some("in"),
                "not" if free && token.kind == Kind::Word && word(Some(at + 1), "in") => {
                    at += 1;
                    Some("not in")
                }
                _ => None,
            };
            let ends = ["and", "or", "not", "if", "else"]
                .iter()
                .any(|w| token.is_word(w))
                && free
                || [",", ":", "="].iter().any(|op| token.is_op(op));
            if let Some(op) = op {
                // Line ends are kept, so that errors name the right line.
                let mut left = std::mem::take(&mut operand);
                left.text.push_str(token.gap);
                chain.push((left, op));
            } else if token.opens() {
                let end = matching(tokens, at);
                operand.take(token);
                let inner = self.expression(&tokens[at + 1..end]);
                operand.text.push_str(&inner);
                if let Some(close) = tokens.get(end) {
                    operand.take(close);
                }
                at = end;
            } else if ends {
                self.flush(&mut out, &mut chain, std::mem::take(&mut operand));
                out.push_str(token.gap);
                out.push_str(&token.text);
            } else {
                operand.take(token);
            }
            at += 1;
        }
        self.flush(&mut out, &mut chain, operand);
        out
    }

    fn flush(&mut self, out: &mut String, chain: &mut Vec<(Operand, &str)>, last: Operand) {
        if chain.is_empty() {
            out.push_str(&last.text);
            return;
        }
        let template = self.template;
        let source = |operand: &Operand| {
            let start = operand.start.unwrap_or(operand.end);
            template[start..operand.end].to_owned()
        };
        let mut sources: Vec<String> = chain.iter().map(|(operand, _)| source(operand)).collect();
        sources.push(source(&last));
        out.push_str(&format!(" {COMPARE}({}", self.operands.len()));
        for (operand, op) in chain.drain(..) {
            out.push_str(&format!(", {}, '{op}'", operand.text));
        }
        out.push_str(&format!(", {})", last.text));
        self.operands.push(sources);
    }
}

/// The position of the bracket that closes the one at `open`.
fn matching(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.opens() {
            depth += 1;
        } else if token.closes() {
            depth -= 1;
            if depth == 0 {
                return at;
            }
        }
    }
    tokens.len()
}

#[cfg(test)]
#[path = "expression_rewrite_tests.rs"]
mod tests;
