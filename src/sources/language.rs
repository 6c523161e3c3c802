//! The languages that can be split into functions and classes: one row each.

use std::path::Path;
use std::sync::OnceLock;

use tree_sitter::Node;
use tree_sitter_language::LanguageFn;

use super::unit::UnitKind;

/// A language: its files, its grammar, and which nodes of its syntax trees are what.
pub(super) struct Language {
    name: &'static str,
    extensions: &'static [&'static str],
    grammar: LanguageFn,
    /// What defines a name.
    pub(super) definitions: &'static [Definition],
    /// What a definition may be wrapped in, of which it is the point: decorators, an export.
    wrappers: &'static [&'static str],
    /// The same, if only one thing is in it.
    lone_wrappers: &'static [&'static str],
    /// What belongs to a definition when it stands right above it.
    leading: &'static [&'static str],
    /// What no definition is in, however deep. To leave these out saves most of the walk.
    leaves: &'static [&'static str],
    /// Makes a text of the same length that the grammar takes, of one that it does not take although it is right.
    pub(super) mended: Option<fn(&str) -> Vec<u8>>,
    roles: OnceLock<(tree_sitter::Language, Vec<Role>)>,
}

/// A kind of node that gives a name to something.
pub(super) struct Definition {
    node: &'static str,
    /// None for what is only a part of the names of what is in it, such as a module.
    pub(super) kind: Option<UnitKind>,
    /// Its name; none if this very node defines nothing.
    pub(super) name: fn(Node<'_>, &str) -> Option<String>,
}

/// What a kind of node means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Other,
    /// One of the definitions of the language.
    Definition(u8),
    Wrapper,
    LoneWrapper,
    Leading,
    Leaf,
}

const fn function(node: &'static str) -> Definition {
    Definition {
        node,
        kind: Some(UnitKind::Function),
        name: named,
    }
}

const fn class(node: &'static str) -> Definition {
    Definition {
        node,
        kind: Some(UnitKind::Class),
        name: named,
    }
}

const fn scope(node: &'static str) -> Definition {
    Definition {
        node,
        kind: None,
        name: named,
    }
}

static LANGUAGES: [Language; 6] = [
    Language {
        name: "python",
        extensions: &["py", "pyi", "pyw"],
        grammar: tree_sitter_python::LANGUAGE,
        definitions: &[function("function_definition"), class("class_definition")],
        wrappers: &["decorated_definition"],
        lone_wrappers: &[],
        leading: &[],
        leaves: &[
            "expression_statement",
            "return_statement",
            "assert_statement",
            "raise_statement",
            "delete_statement",
            "import_statement",
            "import_from_statement",
            "parameters",
            "argument_list",
            "decorator",
            "string",
        ],
        mended: Some(super::python::mended),
        roles: OnceLock::new(),
    },
    Language {
        name: "rust",
        extensions: &["rs"],
        grammar: tree_sitter_rust::LANGUAGE,
        definitions: &[
            function("function_item"),
            function("function_signature_item"),
            class("struct_item"),
            class("enum_item"),
            class("union_item"),
            class("trait_item"),
            Definition {
                node: "impl_item",
                kind: Some(UnitKind::Class),
                name: rust_impl,
            },
            scope("mod_item"),
        ],
        wrappers: &[],
        lone_wrappers: &[],
        leading: &["attribute_item", "line_comment", "block_comment"],
        leaves: &[
            "use_declaration",
            "parameters",
            "type_arguments",
            "token_tree",
        ],
        mended: None,
        roles: OnceLock::new(),
    },
    Language {
        name: "javascript",
        extensions: &["js", "mjs", "cjs", "jsx"],
        grammar: tree_sitter_javascript::LANGUAGE,
        definitions: &[
            function("function_declaration"),
            function("generator_function_declaration"),
            function("method_definition"),
            class("class_declaration"),
            VARIABLE_FUNCTION,
            Definition {
                node: "field_definition",
                kind: Some(UnitKind::Function),
                name: field_function,
            },
        ],
        wrappers: &["export_statement"],
        lone_wrappers: &["lexical_declaration", "variable_declaration"],
        leading: &["comment", "decorator"],
        leaves: &["import_statement", "string", "template_string", "regex"],
        mended: None,
        roles: OnceLock::new(),
    },
    typescript(
        "typescript",
        &["ts", "mts", "cts"],
        tree_sitter_typescript::LANGUAGE_TYPESCRIPT,
    ),
    typescript("typescript", &["tsx"], tree_sitter_typescript::LANGUAGE_TSX),
    Language {
        name: "go",
        extensions: &["go"],
        grammar: tree_sitter_go::LANGUAGE,
        definitions: &[
            function("function_declaration"),
            Definition {
                node: "method_declaration",
                kind: Some(UnitKind::Function),
                name: go_method,
            },
            Definition {
                node: "type_spec",
                kind: Some(UnitKind::Class),
                name: go_type,
            },
        ],
        wrappers: &[],
        lone_wrappers: &["type_declaration"],
        leading: &["comment"],
        leaves: &["import_declaration", "parameter_list"],
        mended: None,
        roles: OnceLock::new(),
    },
];

const VARIABLE_FUNCTION: Definition = Definition {
    node: "variable_declarator",
    kind: Some(UnitKind::Function),
    name: field_function,
};

static TYPESCRIPT_DEFINITIONS: [Definition; 11] = [
    function("function_declaration"),
    function("generator_function_declaration"),
    function("method_definition"),
    class("class_declaration"),
    class("abstract_class_declaration"),
    class("interface_declaration"),
    class("enum_declaration"),
    VARIABLE_FUNCTION,
    Definition {
        node: "public_field_definition",
        kind: Some(UnitKind::Function),
        name: field_function,
    },
    scope("internal_module"),
    scope("module"),
];

const fn typescript(
    name: &'static str,
    extensions: &'static [&'static str],
    grammar: LanguageFn,
) -> Language {
    Language {
        name,
        extensions,
        grammar,
        definitions: &TYPESCRIPT_DEFINITIONS,
        wrappers: &["export_statement", "ambient_declaration"],
        lone_wrappers: &["lexical_declaration", "variable_declaration"],
        leading: &["comment", "decorator"],
        leaves: &[
            "import_statement",
            "string",
            "template_string",
            "regex",
            "type_annotation",
        ],
        mended: None,
        roles: OnceLock::new(),
    }
}

impl Language {
    /// The language of a file, by its extension.
    pub(super) fn of(path: &Path) -> Option<&'static Self> {
        let own = path.extension()?;
        let same = |extension: &&str| own.eq_ignore_ascii_case(extension);
        LANGUAGES
            .iter()
            .find(|language| language.extensions.iter().any(same))
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The grammar, and what each kind of node means in it, by its number.
    pub(super) fn grammar(&self) -> (&tree_sitter::Language, &[Role]) {
        let (grammar, roles) = self.roles.get_or_init(|| {
            let grammar = tree_sitter::Language::new(self.grammar);
            let kinds = 0..u16::try_from(grammar.node_kind_count()).unwrap_or(u16::MAX);
            let roles = kinds.map(|kind| self.role(&grammar, kind)).collect();
            (grammar, roles)
        });
        (grammar, roles)
    }

    fn role(&self, grammar: &tree_sitter::Language, kind: u16) -> Role {
        // Keywords are called as the nodes that they begin.
        let Some(name) = grammar
            .node_kind_for_id(kind)
            .filter(|_| grammar.node_kind_is_named(kind))
        else {
            return Role::Leaf;
        };
        let definition = self
            .definitions
            .iter()
            .position(|definition| definition.node == name);
        match definition.and_then(|i| u8::try_from(i).ok()) {
            Some(i) => Role::Definition(i),
            None if self.wrappers.contains(&name) => Role::Wrapper,
            None if self.lone_wrappers.contains(&name) => Role::LoneWrapper,
            None if self.leading.contains(&name) => Role::Leading,
            None if self.leaves.contains(&name) => Role::Leaf,
            None => Role::Other,
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

/// `impl Type` or `impl Trait for Type`; what is in it is called without the `impl`.
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

/// `Type.Method`, whatever the receiver is called and whether it is a pointer.
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
