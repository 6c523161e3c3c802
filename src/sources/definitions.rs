//! The definitions of a file, found in its syntax tree. The walk is not recursive, because a file may be nested
//! deeper than any stack allows.

use std::ops::Range;

use tree_sitter::{Node, Parser, Tree};

use super::info::SkipReason;
use super::language::{Language, Role, UnitKind};
use super::text::Lines;

/// A definition.
pub(super) struct Found {
    pub(super) name: String,
    /// The name, preceded by the names of the enclosing definitions.
    pub(super) qualified: String,
    /// The lines of the definition, from the first decorator, attribute or comment that belongs to it.
    pub(super) range: Range<usize>,
}

/// All definitions of one kind, in the order of the file.
pub(super) fn definitions(
    language: &Language,
    text: &str,
    kind: UnitKind,
    lines: &Lines,
) -> Result<Vec<Found>, SkipReason> {
    let error_at = |at| SkipReason::SyntaxError {
        line: lines.line_of(at),
    };
    let parsed = |text: &[u8]| {
        let mut parser = Parser::new();
        let known = parser.set_language(language.grammar().0);
        // This package fixes the versions of grammars and parser, and a test parses with each grammar, so this cannot
        // fail.
        known.ok().and_then(|()| parser.parse(text, None))
    };
    let tree = parsed(text.as_bytes()).ok_or_else(|| error_at(0))?;
    if !tree.root_node().has_error() {
        return walk(language, &tree, text, kind);
    }
    let mended = language.mended.and_then(|mended| parsed(&mended(text)));
    match mended.filter(|tree| !tree.root_node().has_error()) {
        Some(tree) => walk(language, &tree, text, kind),
        None => Err(error_at(first_error(&tree))),
    }
}

fn first_error(tree: &Tree) -> usize {
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        if node.is_error() || node.is_missing() {
            return node.start_byte();
        }
        if node.has_error() && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return 0;
            }
        }
    }
}

/// State that sibling nodes share.
#[derive(Default)]
struct Level {
    /// Length of the part of the qualified name that comes from the enclosing definitions.
    prefix: usize,
    /// Range of the comments and attributes directly above the next node, which belong to it.
    leading: Option<Range<usize>>,
    /// Range of the wrapper around them, for example of decorators.
    wrapped: Option<Range<usize>>,
}

/// The maximum size of all definitions and names together. A nested definition is also part of the contents of the
/// outer one, and so are names. Without a limit, a file of nested functions would need memory proportional to the
/// square of its size.
fn limit(text: &str) -> usize {
    text.len().saturating_mul(8).saturating_add(1 << 20)
}

fn walk(
    language: &Language,
    tree: &Tree,
    text: &str,
    kind: UnitKind,
) -> Result<Vec<Found>, SkipReason> {
    let (_, roles) = language.grammar();
    let mut found = Vec::new();
    let mut qualified = String::new();
    let (limit, mut bytes) = (limit(text), 0);
    let mut levels = vec![Level::default()];
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        let role = roles
            .get(usize::from(node.kind_id()))
            .copied()
            .unwrap_or(Role::Other);
        let Some(level) = levels.last_mut() else {
            return Ok(found);
        };
        let leading = level.leading.take();
        let leading = leading.filter(|above| is_adjacent(text, above.end, node.start_byte()));
        let start = leading.map_or(node.start_byte(), |above| above.start);
        let mut inner = Level {
            prefix: level.prefix,
            ..Level::default()
        };
        let whole = || level.wrapped.clone().unwrap_or(start..node.end_byte());
        let mut descends = true;
        match role {
            Role::Leaf => descends = false,
            Role::Leading => {
                descends = false;
                level.leading = leads(text, node).then(|| start..end_of(text, node));
            }
            Role::Wrapper => inner.wrapped = Some(whole()),
            Role::LoneWrapper if node.named_child_count() == 1 => inner.wrapped = Some(whole()),
            Role::LoneWrapper | Role::Other => {}
            Role::Definition(defined, rule) => {
                if let Some(name) = rule.name(node, text) {
                    qualified.truncate(level.prefix);
                    let outer = qualified.len();
                    if outer > 0 {
                        qualified.push('.');
                    }
                    let own = qualified.len();
                    qualified.push_str(&name);
                    if defined == Some(kind) {
                        let range = whole();
                        bytes += range.len() + qualified.len();
                        if bytes > limit {
                            let limit = limit as u64;
                            return Err(SkipReason::TooNested { limit });
                        }
                        found.push(Found {
                            qualified: qualified.clone(),
                            range,
                            name: name.clone(),
                        });
                    }
                    if let Some(scope) = name.strip_prefix("impl ") {
                        qualified.truncate(own);
                        qualified.push_str(scope);
                    }
                    inner.prefix = qualified.len();
                }
            }
        }
        if descends && cursor.goto_first_child() {
            levels.push(inner);
            continue;
        }
        while !cursor.goto_next_sibling() {
            levels.pop();
            if !cursor.goto_parent() {
                return Ok(found);
            }
        }
    }
}

/// The end of a node, without the line end that some grammars include in a comment.
fn end_of(text: &str, node: Node<'_>) -> usize {
    let own = text.get(node.byte_range()).unwrap_or_default();
    node.start_byte() + own.trim_end().len()
}

/// Whether the node is the first on its line, and is not a comment about the enclosing definition.
fn leads(text: &str, node: Node<'_>) -> bool {
    let (before, own) = text.split_at(node.start_byte());
    // The search stops at the last character that is not blank, because a line may be as long as the file.
    let before = before.trim_end_matches(|c: char| c.is_whitespace() && c != '\n');
    (before.is_empty() || before.ends_with('\n')) && !own.starts_with("//!")
}

/// Whether only blanks and at most one line end are between the two positions.
fn is_adjacent(text: &str, end: usize, start: usize) -> bool {
    let between = text.get(end..start).unwrap_or("x");
    between.trim().is_empty() && between.matches('\n').count() <= 1
}
