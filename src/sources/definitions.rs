//! The definitions of a file, found in its syntax tree. The tree is walked without recursion: a file may be nested
//! deeper than any stack.

use std::ops::Range;

use tree_sitter::{Node, Parser, Tree};

use super::info::SkipReason;
use super::language::{Language, Role};
use super::lines::Lines;
use super::unit::UnitKind;

/// A definition.
pub(super) struct Found {
    pub(super) name: String,
    /// The same behind the names of what it is in.
    pub(super) qualified: String,
    /// From the first of what belongs to it.
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
        // The versions of grammars and parser are fixed by this package: a test parses with each.
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

/// What siblings have in common.
#[derive(Default)]
struct Level {
    /// How much of the qualified name is that of what they are in.
    prefix: usize,
    /// What stands right above the next one and belongs to it.
    leading: Option<Range<usize>>,
    /// What they are wrapped in.
    wrapped: Option<Range<usize>>,
}

/// What is within others is in their contents too, and so are names: without a bound, of a file that is nothing but
/// nested functions the square of its size.
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

/// The end of a node without the line end that some grammars count among a comment.
fn end_of(text: &str, node: Node<'_>) -> usize {
    let own = text.get(node.byte_range()).unwrap_or_default();
    node.start_byte() + own.trim_end().len()
}

/// Whether nothing stands in front of it on its line, and it is no comment about what it is in.
fn leads(text: &str, node: Node<'_>) -> bool {
    let (before, own) = text.split_at(node.start_byte());
    // No farther back than the last that is no blank: a line may be as long as the file.
    let before = before.trim_end_matches(|c: char| c.is_whitespace() && c != '\n');
    (before.is_empty() || before.ends_with('\n')) && !own.starts_with("//!")
}

/// Whether nothing but blanks and at most one line end is between.
fn is_adjacent(text: &str, end: usize, start: usize) -> bool {
    let between = text.get(end..start).unwrap_or("x");
    between.trim().is_empty() && between.matches('\n').count() <= 1
}
