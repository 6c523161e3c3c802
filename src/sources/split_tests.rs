use super::*;
use crate::base::cases::cases;

fn units<'t>(split: &str, name: &str, text: &'t str) -> Result<Vec<Unit<'t>>, SkipReason> {
    split.parse::<Split>().unwrap().units(name, text)
}

/// The ids without the path, with the lines.
fn ids(split: &str, name: &str, text: &str) -> Vec<String> {
    let shown = |unit: Unit<'_>| {
        assert_eq!(unit.path, name);
        let own = unit
            .id
            .strip_prefix(&format!("{name}::"))
            .unwrap_or("")
            .to_owned();
        format!("{own} {}-{}", unit.start_line, unit.end_line)
    };
    units(split, name, text)
        .unwrap()
        .into_iter()
        .map(shown)
        .collect()
}

const PYTHON: &str = include_str!("split_cases/python.txt");

#[test]
fn a_unit_of_python_has_its_decorators_and_its_place() {
    let found = units("function", "a/shop.py", PYTHON).unwrap();
    let setter = &found[2];
    let ids = [
        &*setter.id,
        &*setter.name,
        &*setter.qualified_name,
        setter.language,
    ];
    assert_eq!(
        ids,
        ["a/shop.py::Shop.price~2", "price", "Shop.price", "python"]
    );
    let content = "    @price.setter\n    def price(self, value): pass";
    assert_eq!(setter.content, content);
    assert_eq!((setter.kind, setter.lines()), (UnitKind::Function, 2));
    assert_eq!(
        found[1].content,
        "        def inner():\n            return 1"
    );
}

/// A case is the file in `split_cases`, the split, the name, and the ids with their lines.
#[test]
fn each_language_is_split_as_its_own_parser_sees_it() {
    let texts = [
        ("python", PYTHON),
        ("rust", include_str!("split_cases/rust.txt")),
        ("script", include_str!("split_cases/script.txt")),
        ("typed", include_str!("split_cases/typed.txt")),
        ("go", include_str!("split_cases/go.txt")),
    ];
    let texts = std::collections::HashMap::from(texts);
    for (case, expected) in cases(include_str!("split_cases/units.txt")) {
        let [text, split, name] = case.split(' ').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(ids(split, name, texts[text]).join(", "), expected, "{case}");
    }
    let app = "const App = () => <p>{x as any}</p>;\n";
    assert_eq!(ids("function", "a.tsx", app), ["App 1-1"]);
}

#[test]
fn any_text_is_split_by_lines_and_tokens() {
    let text = "1\n2\n\n\n5\n";
    assert_eq!(ids("lines:2", "a.md", text), ["lines.1 1-2", "lines.3 5-5"]);
    assert_eq!(
        ids("tokens:1", "a.md", text),
        ["tokens.1 1-2", "tokens.2 3-5"]
    );
    let whole = &units("file", "b/a.md", text).unwrap()[0];
    assert_eq!(
        (&*whole.id, &*whole.name, whole.language),
        ("b/a.md", "a.md", "text")
    );
    assert_eq!((whole.content, whole.lines()), (text, 5));
    let all: String = units("tokens:20", "a.py", PYTHON)
        .unwrap()
        .iter()
        .map(|u| u.content)
        .collect();
    assert_eq!(all, PYTHON);
}

#[test]
fn errors_of_a_split_name_the_reason() {
    let refused = |split: &str, name: &str, text: &str| units(split, name, text).unwrap_err();
    assert_eq!(refused("function", "a.md", "x"), SkipReason::NoParser);
    assert_eq!(refused("class", "a.py", "x = 1\n"), SkipReason::NoUnits);
    assert_eq!(refused("file", "a.py", " \n\t\x0c"), SkipReason::Empty);
    let broken = "def f():\n    pass\n\ndef g(:\n    pass\n";
    assert_eq!(
        refused("function", "a.py", broken),
        SkipReason::SyntaxError { line: 4 }
    );
    for (name, text) in [
        ("rs", "fn"),
        ("js", "let ="),
        ("ts", "let ="),
        ("tsx", "<a>"),
        ("go", "func"),
    ] {
        let reason = refused("function", &format!("a.{name}"), text);
        assert!(
            matches!(reason, SkipReason::SyntaxError { .. }),
            "{name}: {reason}"
        );
    }
    for text in [
        "functions",
        "lines",
        "lines:0",
        "lines:x",
        "tokens:-1",
        "words:3",
        "",
    ] {
        let error = text.parse::<Split>().unwrap_err();
        let expected = "file, function, class, lines:N or tokens:N";
        assert!(error.message().contains(expected), "{error}");
    }
    for text in ["file", "function", "class", "lines:40", "tokens:2000"] {
        assert_eq!(text.parse::<Split>().unwrap().to_string(), text);
    }
}

#[test]
fn valid_python_is_accepted_in_any_style() {
    for text in [
        "\x0cdef f():\r\n    pass\r\n",
        "def f(a, /, *, b: int = 1, **kw) -> 'x': \\\n    return f'{a!r:>{b}}'",
        "match x:\n    case {'a': [1, *_]}:\n        def f(): ...\n",
        "class A[T: int](B): type X = int\ndef f[T](x: T): print(x)\n",
    ] {
        let found = units("function", "a.py", text).unwrap_or_else(|why| panic!("{text:?}: {why}"));
        assert!(found.iter().any(|unit| unit.name == "f"), "{text:?}");
    }
}

#[test]
fn no_depth_overflows_the_stack() {
    let deep = 20_000;
    let blocks: String = (0..200)
        .map(|i| format!("{}if x:\n", " ".repeat(i)))
        .collect();
    let blocks = blocks + &" ".repeat(200) + "def f(): pass\n";
    assert_eq!(units("function", "a.py", &blocks).unwrap().len(), 1);
    let brackets = format!(
        "x = {}{}\ndef f(): pass\n",
        "(".repeat(deep),
        ")".repeat(deep)
    );
    assert_eq!(units("function", "a.py", &brackets).unwrap().len(), 1);
    let unclosed = "[".repeat(deep);
    assert!(units("function", "a.py", &unclosed).is_err());
    let nested = "fn f() { ".repeat(deep / 10) + "struct S;" + &"}".repeat(deep / 10);
    assert_eq!(units("class", "a.rs", &nested).unwrap().len(), 1);
}

#[test]
fn ids_are_valid() {
    let long = format!("{}.py", "é".repeat(400));
    let text = "def f(): pass\ndef f(): pass\n";
    let found = units("function", &long, text).unwrap();
    assert!(found.iter().all(|unit| unit.id.len() <= MAX_ID_BYTES));
    assert_ne!(found[0].id, found[1].id);
    let odd = &units("file", "a\nb\x1b.md", "x").unwrap()[0];
    assert_eq!((&*odd.id, &*odd.path), (r"a\nb\u{1b}.md", r"a\nb\u{1b}.md"));
}

#[test]
fn excessively_nested_files_are_skipped() {
    let nested = |depth: usize| "function f(){".repeat(depth) + &"}".repeat(depth);
    assert_eq!(ids("function", "a.js", &nested(20)).len(), 20);
    let text = nested(3000);
    let limit = 8 * text.len() as u64 + (1 << 20);
    assert_eq!(
        units("function", "a.js", &text),
        Err(SkipReason::TooNested { limit })
    );
    // Long names alone reach the limit as well.
    let long = |i: usize| format!("def {}{i}():\n{}", "n".repeat(2000), " ".repeat(i + 1));
    let text: String = (0..60).map(long).collect::<String>() + "pass\n";
    let reason = units("function", "a.py", &text).unwrap_err();
    assert_eq!(reason.kind(), "too_nested", "{reason}");
}

#[test]
fn comments_belong_to_the_definition_below_on_lines_of_any_length() {
    // Each comment is checked only once, however much precedes it on its line.
    let text = " ".repeat(1 << 20) + &"/**/ ".repeat(100_000) + "\n// f\nfunction f() {}";
    assert_eq!(ids("function", "a.js", &text), ["f 2-3"]);
}
