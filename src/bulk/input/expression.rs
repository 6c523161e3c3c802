//! Templates with conditions, loops or filters, in the language of Jinja.

use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::cells::Field;
use super::fault::Fault;
use super::jinja::{self, NULL, Nulls, Values};
use super::records::Bounded;

/// The name of the only template of an environment. Without an extension nothing is escaped.
const NAME: &str = "template";

/// The variable with the columns that are named in brackets.
const ROW: &str = "row";

/// Maximum number of template instructions per row: about a second in a debug build.
const FUEL: u64 = 2_000_000;

/// A template in the language of Jinja.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    environment: Environment<'static>,
    /// The columns, or the paths in them, that it names as variables.
    variables: Vec<String>,
    /// The columns that it names in brackets.
    in_brackets: Vec<String>,
    /// Whether it orders values.
    orders: bool,
}

impl Expression {
    /// Whether a text is one: it has a block `{%`, a comment `{#`, or a filter or `row[` within `{{ }}`.
    pub(super) fn is_one(text: &str) -> bool {
        let within = |rest: &str| {
            rest.split("}}")
                .next()
                .is_some_and(|inner| inner.contains('|') || inner.trim_start().starts_with("row["))
        };
        text.contains("{%") || text.contains("{#") || text.split("{{").skip(1).any(within)
    }

    /// Parses a template; the error names the line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // If the template ends with a line end, so do its prompts.
        environment.set_keep_trailing_newline(true);
        environment.set_fuel(Some(FUEL));
        jinja::expect_null(&mut environment);
        let (code, orders) = jinja::with_null(text)?;
        let added = environment.add_template_owned(NAME, code);
        added.map_err(|error| shown(&error))?;
        let template = environment
            .get_template(NAME)
            .map_err(|error| shown(&error))?;
        let globals: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
        let named = template.undeclared_variables(true).into_iter();
        let mut variables: Vec<String> = named
            .filter(|path| path != NULL && !globals.contains(&root(path)))
            .collect();
        variables.sort();
        let mut in_brackets = Vec::new();
        if variables.iter().any(|name| name == ROW) {
            in_brackets.extend(named_columns(text));
            in_brackets.sort();
            in_brackets.dedup();
        }
        if !in_brackets.is_empty() {
            variables.retain(|name| name != ROW);
        }
        if variables.is_empty() && in_brackets.is_empty() {
            return Err("the template names no field: write one as {{field}}".to_owned());
        }
        Ok(Self {
            environment,
            variables,
            in_brackets,
            orders,
        })
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        let all = self.variables.iter().chain(&self.in_brackets);
        all.map(String::as_str)
    }

    /// Whether a column is named only in brackets.
    pub(super) fn brackets(&self, name: &str) -> bool {
        !self.variables.iter().any(|bare| bare == name)
    }

    /// The rendered text for these values of fields.
    pub(super) fn render<'a>(
        &self,
        field: impl Fn(&str) -> Option<Field<'a>>,
        null: impl Fn(&str) -> Fault,
    ) -> Result<String, Fault> {
        let nulls = Nulls::of_row(self.orders);
        let values = Values(Arc::clone(&nulls));
        // A field that some lines of JSON lack is a null there.
        let of = |name: &String| {
            let field = field(name).unwrap_or(Field::Null);
            (name.clone(), values.of(name.clone(), &field))
        };
        let row: Value = self.in_brackets.iter().map(of).collect();
        let own = (!self.in_brackets.is_empty()).then(|| (ROW.to_owned(), row));
        let roots: BTreeSet<&str> = self.variables.iter().map(|path| root(path)).collect();
        let named = roots.into_iter().map(|name| {
            let value = values.at(name, None, &self.variables, &field);
            let value = value.unwrap_or_else(|| values.null(name.to_owned()));
            (name.to_owned(), value)
        });
        let constant = [(NULL.to_owned(), values.null(NULL.to_owned()))];
        let context: Value = named.chain(own).chain(constant).collect();
        let template = self.environment.get_template(NAME);
        let template = template.map_err(|error| refused(&error))?;
        let mut text = Vec::new();
        // A loop can make a prompt of any length.
        let mut prompt = Bounded(&mut text);
        let rendered = template.render_captured_to(context, &mut prompt).map(drop);
        if let Some(name) = nulls.misused(rendered.is_err()) {
            return Err(if name == NULL {
                none_used()
            } else {
                null(name)
            });
        }
        rendered.map_err(|error| refused(&error))?;
        String::from_utf8(text).map_err(|error| Fault::told(error.to_string()))
    }
}

/// The fault of the word `none` in a template that shows it, or orders values.
fn none_used() -> Fault {
    let expected = "a test, such as {% if note is none %}";
    Fault::new("\"none\" as a value in the template", expected)
}

/// The name with which a path begins.
fn root(path: &str) -> &str {
    path.split('.').next().unwrap_or_default()
}

fn refused(error: &minijinja::Error) -> Fault {
    Fault::told(shown(error))
}

/// All columns that `row["…"]` names within a text. A name with a quotation mark is between marks of the other kind.
fn named_columns(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("row").filter_map(|(at, word)| {
        let rest = text[at + word.len()..].trim_start().strip_prefix('[')?;
        let rest = rest.trim_start();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (name, _) = rest[1..].split_once(quote)?;
        Some(name.to_owned())
    })
}

fn shown(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let line = error
        .line()
        .map_or_else(String::new, |line| format!("'s line {line}"));
    match error.kind() {
        ErrorKind::OutOfFuel => format!(
            "found more than {FUEL} steps of the template{line} for one row; expected a loop that ends sooner"
        ),
        ErrorKind::WriteFailure => {
            format!(
                "found a prompt of more than 64 MiB (the template{line}); expected at most 64 MiB"
            )
        }
        ErrorKind::SyntaxError => format!(
            "the template{line}: {what}; a column whose name has blanks, hyphens or letters beyond a-z is \
             written row[\"Review Text\"]"
        ),
        ErrorKind::UndefinedError => format!(
            "found no value for a field or a part of one that the template{line} uses; expected one, or |default('') \
             behind a part that some rows lack; --bad-rows skip leaves such rows out"
        ),
        _ => format!("the template{line}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cases::cases;

    fn render(text: &str) -> Result<String, String> {
        let field = |name: &str| match name {
            "turns" => Some(Field::Json(r#"[{"role":"user","n":1.10},"b",null]"#.into())),
            "meta" => Some(Field::Json(
                r#"{"author":{"name":"Ada"},"year":null}"#.into(),
            )),
            "meta.author.name" | "flat.name" => Some(Field::Text("flat".into())),
            "nil" => Some(Field::Null),
            "content" => Some(Field::Text("a <b> & {{c}}".into())),
            "lines" => Some(Field::Text("41".into())),
            "stars" => Some(Field::Json("4".into())),
            "large" => Some(Field::Json("12345678901234567890123".into())),
            "good" => Some(Field::Json("false".into())),
            "day" => Some(Field::Text("2024-05-01".into())),
            "Review Text" => Some(Field::Text("fine".into())),
            _ => None,
        };
        let rendered = Expression::parse(text)?.render(field, Fault::null);
        rendered.map_err(|fault| fault.to_string())
    }

    #[test]
    fn null_is_taken_only_where_it_is_expected() {
        for use_of_null in [
            "{# #}{{ nil }}",
            "{{ nil|upper }}",
            "{{ nil|length }}",
            "{{ nil|string }}",
            "{{ [nil, 'a']|join }}",
            "{% set x = nil ~ 'a' %}{{ x }}{{ nil|tojson }}",
            "{% if nil > 3 %}a{% endif %}{{ nil|tojson }}",
            "{% if 3 < nil %}a{% endif %}",
            "{% if nil == 3 or lines > 3 %}a{% endif %}",
            "{{ [nil, 3]|sort|length }}{{ [nil, 3]|max }}",
            "{{ turns|select('gt', 3)|list|length }}",
            "{% if 'a' in nil %}a{% endif %}",
            "{{ nil|int }}",
            "{{ nil|pprint }}",
            "{{ nil[0] }}{# #}",
            "{% if nil.a %}a{% endif %}",
            "{% for x in nil %}{% endfor %}",
            "{{ nil + 1 }}{# #}",
            "{{ meta.year|upper }}",
            "{% for t in turns %}{{ t }}{% endfor %}",
            "{{ turns|join }}",
        ] {
            let why = render(use_of_null).unwrap_err();
            assert!(why.starts_with("found null in \""), "{use_of_null}: {why}");
            assert!(
                why.contains("|default('')}}") && why.contains("--bad-rows skip"),
                "{why}"
            );
        }
    }

    #[test]
    fn none_is_a_value_only_where_it_is_compared_as_equal() {
        for template in [
            "{{ none }}{{ lines }}",
            "{% if none == nil or lines > '3' %}{% endif %}",
        ] {
            let why = render(template).unwrap_err();
            assert!(why.contains("{% if note is none %}"), "{template}: {why}");
        }
    }

    #[test]
    fn numbers_and_booleans_are_values_and_cells_are_texts() {
        for (template, text) in cases(include_str!("expression_cases.txt")) {
            assert_eq!(render(template).unwrap(), text, "{template}");
        }
    }

    #[test]
    fn endless_loops_and_huge_prompts_are_rejected() {
        let error = render(
            "{{ content }}{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        );
        let error = error.unwrap_err();
        assert!(
            error.contains("2000000 steps") && error.contains("; expected a loop that ends sooner"),
            "{error}"
        );
        let error =
            render("{{ content|upper }}{% for a in range(9) %}{{ 'x' * 9000000 }}{% endfor %}");
        let error = error.unwrap_err();
        assert!(
            error.contains("found a prompt of more than 64 MiB"),
            "{error}"
        );
    }

    #[test]
    fn blocks_and_filters_are_told_from_plain_fields() {
        for text in [
            "{{ a | upper }}",
            "{% if a %}",
            "{# no #}{{a}}",
            "{{row[\"a b\"]}}",
        ] {
            assert!(Expression::is_one(text), "{text}");
        }
        for text in ["{{a}} | {{b}}", "{ % a }", "a | b", "{{a}}|"] {
            assert!(!Expression::is_one(text), "{text}");
        }
    }

    #[test]
    fn values_are_put_in_as_they_are() {
        assert_eq!(render("{# x #}{{content}}\n").unwrap(), "a <b> & {{c}}\n");
    }

    #[test]
    fn errors_of_templates_name_the_line() {
        let parsed = |text: &str| Expression::parse(text).unwrap_err();
        assert!(
            parsed("a\n{% if content %}").starts_with("the template's line 2: "),
            "{}",
            parsed("a\n{% if content %}")
        );
        assert!(parsed("{% if Review Text %}").contains("row[\"Review Text\"]"));
        assert!(parsed("{% raw %}{{a}}{% endraw %}").contains("names no field"));
        let missing =
            Expression::parse("{% set x = 1 %}{{ pth }}{{ x }}{{ range(2)|length }}").unwrap();
        assert_eq!(missing.variables().collect::<Vec<_>>(), ["pth"]);
        assert!(render("{{ content|nope }}").unwrap_err().contains("nope"));
        assert!(render("{{ pth|upper }}").is_err());
    }
}
