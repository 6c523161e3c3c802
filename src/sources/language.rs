//! The languages that can be split into functions and classes: one row of `languages.json` each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use serde::{Deserialize, Serialize};
use tree_sitter::Node;
use tree_sitter_language::LanguageFn;

/// The meaning of node kinds in the syntax trees of a language.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    /// The file extensions of each grammar.
    grammars: BTreeMap<String, Vec<String>>,
    /// Kinds of nodes that define a function, and how the function's name is found.
    functions: BTreeMap<String, NameRule>,
    classes: BTreeMap<String, NameRule>,
    /// Kinds of nodes that only add to the names of nested definitions, such as a module.
    #[serde(default)]
    scopes: BTreeMap<String, NameRule>,
    /// The roles of other kinds of nodes.
    others: Vec<(Role, Vec<String>)>,
}

/// How the name of a definition is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NameRule {
    Own,
    RustImpl,
    /// A variable or field, which defines a function only if its value is one.
    HoldsFunction,
    GoMethod,
    GoType,
}

/// The meaning of a kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    Other,
    /// It names something. Without a kind of unit, it only adds to the names of nested definitions.
    #[serde(skip)]
    Definition(Option<UnitKind>, NameRule),
    /// It wraps a definition, such as decorators or an export.
    Wrapper,
    /// The same, if it contains exactly one node.
    LoneWrapper,
    /// It belongs to a definition directly below it.
    Leading,
    /// It contains no definition at any depth. Skipping it saves most of the walk.
    Leaf,
}

/// A language with one of its grammars.
pub(super) struct Language {
    row: &'static Row,
    extensions: &'static [String],
    grammar: LanguageFn,
    /// Rewrites a text that is valid but that the grammar rejects into one of the same length that it accepts.
    pub(super) mended: Option<fn(&str) -> Vec<u8>>,
    roles: OnceLock<(tree_sitter::Language, Vec<Role>)>,
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("languages.json")).expect("a test reads the table")
});

static LANGUAGES: LazyLock<Vec<Language>> = LazyLock::new(|| {
    let grammars = |row: &'static Row| row.grammars.iter().map(move |grammar| (row, grammar));
    let language =
        |(row, (name, extensions)): (&'static Row, (&String, &'static Vec<String>))| Language {
            row,
            extensions,
            grammar: grammar(name),
            mended: (name == "python").then_some(super::python::mended),
            roles: OnceLock::new(),
        };
    ROWS.iter().flat_map(grammars).map(language).collect()
});

fn grammar(name: &str) -> LanguageFn {
    match name {
        "python" => tree_sitter_python::LANGUAGE,
        "rust" => tree_sitter_rust::LANGUAGE,
        "javascript" => tree_sitter_javascript::LANGUAGE,
        "typescript" => tree_sitter_typescript::LANGUAGE_TYPESCRIPT,
        "tsx" => tree_sitter_typescript::LANGUAGE_TSX,
        "go" => tree_sitter_go::LANGUAGE,
        other => unreachable!("no grammar is called {other}"),
    }
}

impl Language {
    /// The language of a file, by its extension.
    pub(super) fn of(path: &Path) -> Option<&'static Self> {
        let own = path.extension()?;
        let same = |extension: &String| own.eq_ignore_ascii_case(extension);
        let mut languages = LANGUAGES.iter();
        languages.find(|language| language.extensions.iter().any(same))
    }

    pub(super) fn name(&self) -> &'static str {
        &self.row.name
    }

    /// The grammar, and the role of each kind of node by its number.
    pub(super) fn grammar(&self) -> (&tree_sitter::Language, &[Role]) {
        let (grammar, roles) = self.roles.get_or_init(|| {
            let grammar = tree_sitter::Language::new(self.grammar);
            let kinds = 0..u16::try_from(grammar.node_kind_count()).unwrap_or(u16::MAX);
            let role = |kind| match grammar.node_kind_for_id(kind) {
                Some(name) if grammar.node_kind_is_named(kind) => self.row.role(name),
                // A keyword has the same name as the node that it begins.
                _ => Role::Leaf,
            };
            let roles = kinds.map(role).collect();
            (grammar, roles)
        });
        (grammar, roles)
    }
}

impl Row {
    fn role(&self, node: &str) -> Role {
        let definition = |rules: &BTreeMap<String, NameRule>, kind| {
            let rule = rules.get(node)?;
            Some(Role::Definition(kind, *rule))
        };
        let other = || {
            let mut others = self.others.iter();
            let found = others.find(|(_, nodes)| nodes.iter().any(|name| name == node));
            found.map(|(role, _)| *role)
        };
        definition(&self.functions, Some(UnitKind::Function))
            .or_else(|| definition(&self.classes, Some(UnitKind::Class)))
            .or_else(|| definition(&self.scopes, None))
            .or_else(other)
            .unwrap_or(Role::Other)
    }
}

impl NameRule {
    /// The name of a node; `None` if this node defines nothing.
    pub(super) fn name(self, node: Node<'_>, text: &str) -> Option<String> {
        match self {
            Self::Own => named(node, text),
            Self::RustImpl => rust_impl(node, text),
            Self::HoldsFunction => field_function(node, text),
            Self::GoMethod => go_method(node, text),
            Self::GoType => go_type(node, text),
        }
    }
}

/// A node's text on one line.
fn text_of(node: Node<'_>, text: &str) -> String {
    let own = text.get(node.byte_range()).unwrap_or_default();
    own.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn named(node: Node<'_>, text: &str) -> Option<String> {
    Some(text_of(node.child_by_field_name("name")?, text))
}

/// `impl Type` or `impl Trait for Type`; nested definitions are qualified without the `impl`.
fn rust_impl(node: Node<'_>, text: &str) -> Option<String> {
    let of = text_of(node.child_by_field_name("type")?, text);
    Some(match node.child_by_field_name("trait") {
        None => format!("impl {of}"),
        Some(named) => format!("impl {} for {of}", text_of(named, text)),
    })
}

/// A variable or field that holds a function.
fn field_function(node: Node<'_>, text: &str) -> Option<String> {
    let name = node
        .child_by_field_name("name")
        .or(node.child_by_field_name("property"))?;
    let kind = node.child_by_field_name("value")?.kind();
    let is_function = [
        "arrow_function",
        "function_expression",
        "generator_function",
    ]
    .contains(&kind);
    is_function.then(|| text_of(name, text))
}

/// `Type.Method`, whatever the name of the receiver, and whether or not it is a pointer.
fn go_method(node: Node<'_>, text: &str) -> Option<String> {
    let name = named(node, text)?;
    let receiver = text_of(node.child_by_field_name("receiver")?, text);
    let receiver = receiver.trim_matches(|c| matches!(c, '(' | ')' | ' '));
    let of = receiver.split(' ').next_back().unwrap_or_default();
    let of = of
        .trim_start_matches('*')
        .split('[')
        .next()
        .unwrap_or_default();
    Some(format!("{of}.{name}"))
}

fn go_type(node: Node<'_>, text: &str) -> Option<String> {
    let kind = node.child_by_field_name("type")?.kind();
    ["struct_type", "interface_type"]
        .contains(&kind)
        .then(|| named(node, text))?
}

/// The kind of a [`Unit`](super::Unit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitKind {
    /// A complete file.
    File,
    /// A function or method.
    Function,
    /// A class, or the closest equivalent.
    Class,
    /// Some lines.
    Lines,
    /// Lines with about this number of tokens.
    Tokens,
}
