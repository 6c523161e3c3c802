//! Templates with conditions, loops or filters. Numbers and booleans are typed values in them, and every comparison is
//! checked.

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::cells::Field;
use super::expression_compare as compare;
use super::expression_filters as filters;
use super::expression_rewrite::{Binding, Rewritten};
use super::rows::Bounded;

/// The name of the only template of an environment. Without an extension nothing is escaped.
const NAME: &str = "template";

/// Maximum number of template instructions per row: about a second in a debug build.
const FUEL: u64 = 2_000_000;

/// A template in the language of Jinja.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    environment: Environment<'static>,
    text: String,
    bindings: Vec<Binding>,
    /// The columns that it names, each once.
    columns: Vec<String>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Expression {
    /// Whether a text is one: it has a block `{%`, a comment `{#`, or a filter within `{{ }}`.
    pub(super) fn is_one(text: &str) -> bool {
        let within = |rest: &str| {
            rest.split("}}")
                .next()
                .is_some_and(|inner| inner.contains('|'))
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
        // Errors refer to the text as it was written.
        let written = environment.template_from_named_str(NAME, text);
        written.map(drop).map_err(|error| shown(&error))?;
        let rewritten = Rewritten::of(text);
        compare::add(&mut environment, rewritten.operands.clone());
        filters::add(&mut environment);
        let added = environment.add_template_owned(NAME, rewritten.text.clone());
        added.map_err(|error| shown(&error))?;
        let template = environment
            .get_template(NAME)
            .map_err(|error| shown(&error))?;
        let globals: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
        let named = template.undeclared_variables(false).into_iter();
        let bindings = named.filter(|name| !globals.contains(&name.as_str()));
        let bindings: Vec<Binding> = bindings.map(|name| rewritten.binding(name)).collect();
        let mut columns: Vec<String> = bindings.iter().map(|of| of.column.clone()).collect();
        columns.sort();
        columns.dedup();
        if columns.is_empty() {
            return Err("the template names no field: write one as {{field}}".to_owned());
        }
        Ok(Self {
            environment,
            text: text.to_owned(),
            bindings,
            columns,
        })
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    /// The rendered text for these values of fields.
    pub(super) fn render<'a>(
        &self,
        value: impl Fn(&str) -> Option<Field<'a>>,
    ) -> Result<String, String> {
        let values = self.bindings.iter().filter_map(|of| {
            let field = value(&of.column)?;
            let shown = if of.as_text {
                Value::from(field.into_text().into_owned())
            } else {
                typed(&field)
            };
            Some((of.variable.clone(), shown))
        });
        let values: Value = values.collect();
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| shown(&error))?;
        let mut text = Vec::new();
        // A loop can make a prompt of any length.
        let mut prompt = Bounded(&mut text);
        template
            .render_captured_to(values, &mut prompt)
            .map_err(|error| shown(&error))?;
        String::from_utf8(text).map_err(|error| error.to_string())
    }
}

/// The value of a field: a number or boolean if it is one, otherwise its text.
fn typed(field: &Field<'_>) -> Value {
    let text = match field {
        Field::Null => return Value::from(""),
        Field::Text(text) => return Value::from(text.as_ref()),
        Field::Json(json) => json.as_ref(),
    };
    match text {
        "true" => return Value::from(true),
        "false" => return Value::from(false),
        _ if text.starts_with(['{', '[']) => return Value::from(text),
        _ => {}
    }
    if let Ok(n) = text.parse::<i64>() {
        return Value::from(n);
    }
    match (text.parse::<i128>(), text.parse::<f64>()) {
        (Ok(n), _) => Value::from(n),
        (_, Ok(x)) => Value::from(x),
        _ => Value::from(text),
    }
}

fn shown(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let line = error
        .line()
        .map_or_else(String::new, |line| format!("'s line {line}"));
    match (error.kind(), what.split_once("; expected ")) {
        (ErrorKind::OutOfFuel, _) => format!(
            "found more than {FUEL} steps of the template{line} for one row; expected a loop that ends sooner"
        ),
        (ErrorKind::WriteFailure, _) => {
            format!(
                "found a prompt of more than 64 MiB (the template{line}); expected at most 64 MiB"
            )
        }
        (_, Some((found, expected))) => {
            format!("found {found} (the template{line}); expected {expected}")
        }
        (ErrorKind::SyntaxError, _) => format!(
            "the template{line}: {what}; a column whose name has blanks, hyphens or letters beyond a-z is \
             written row[\"Review Text\"]"
        ),
        _ => format!("the template{line}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, String> {
        Expression::parse(text)?.render(|name| match name {
            "content" => Some(Field::Text("a <b> & {{c}}".into())),
            "lines" => Some(Field::Text("41".into())),
            "stars" => Some(Field::Json("4".into())),
            "price" => Some(Field::Json("1.10".into())),
            "large" => Some(Field::Json("12345678901234567890123".into())),
            "good" => Some(Field::Json("false".into())),
            "day" => Some(Field::Text("2024-05-01".into())),
            "Review Text" => Some(Field::Text("fine".into())),
            _ => None,
        })
    }

    #[test]
    fn numbers_and_booleans_are_values_and_keep_their_spelling() {
        for (template, text) in [
            ("{% if stars > 3 %}good{% else %}bad{% endif %}", "good"),
            (
                "{% if 5 > stars >= 4 and stars != 5 %}four{% endif %}",
                "four",
            ),
            (
                "{% if stars in [4, 5] %}yes{% endif %}{% if stars not in [1] %}!{% endif %}",
                "yes!",
            ),
            ("{% if good %}good{% else %}bad{% endif %}", "bad"),
            ("{% if day > '2024-04-30' %}later{% endif %}", "later"),
            (
                "{% if price < 1.2 %}{{ price }} {{ large }}{% endif %}",
                "1.10 12345678901234567890123",
            ),
            (
                "{% if large > 12345678901234567890122 %}more{% endif %}",
                "more",
            ),
            (
                "{{ price|replace('.', ',') }} {{ 'EUR ' ~ price }} {{ large|length }}",
                "1,10 EUR 1.10 23",
            ),
            ("{{ stars + 1 }}{% set x = stars * 2 %} {{ x|abs }}", "5 8"),
            ("{% set price = 2 %}{{ price }} {{ stars|int }}", "2 4"),
            (
                "{{ row['Review Text']|upper }} {{ row[\"Review Text\"] }}",
                "FINE fine",
            ),
            (
                "{% if row['Review Text'] == 'fine' %}ok{% endif %}{{ lines }}",
                "ok41",
            ),
            ("{{ [1, stars, 9]|select('gt', 3)|join(',') }}", "4,9"),
        ] {
            let template = format!("{{# #}}{template}");
            assert_eq!(render(&template).unwrap(), text, "{template}");
        }
    }

    #[test]
    fn a_text_and_a_number_do_not_compare() {
        for (template, message) in [
            (
                "{% if lines > 3 %}x{% endif %}",
                "found the text \"41\" compared with the number 3 in lines > 3 (the template's line 1); \
                 expected numbers on both sides: lines|int > 3",
            ),
            (
                "{% if\n 3 < lines %}x{% endif %}",
                "(the template's line 2); expected numbers on both sides: 3 < lines|int",
            ),
            ("{% if lines == 41 %}x{% endif %}", "in lines == 41 (the"),
            (
                "{% if lines in [41, 42] %}x{% endif %}",
                "(the template's line 1); expected numbers on both sides: lines|int in [41, 42]",
            ),
            (
                "{% if stars == '4' %}x{% endif %}",
                "numbers on both sides: stars == 4",
            ),
            (
                "{% if lines > '5' %}x{% endif %}",
                "numbers on both sides: lines|int > 5",
            ),
            (
                "{% if good == 'false' %}x{% endif %}",
                "only a boolean: {% if flag %}",
            ),
            ("{% set n = lines %}{% if n > 3 %}x{% endif %}", "n|int > 3"),
            (
                "{% for n in lines|split(',') %}{% if n > 3 %}x{% endif %}{% endfor %}",
                "n|int > 3",
            ),
            (
                "{{ [lines]|select('gt', 3)|join }}",
                "the text \"41\" compared with the number 3 (the",
            ),
            (
                "{% if lines is gt(3) %}x{% endif %}",
                "the text \"41\" compared with the number 3 (the",
            ),
        ] {
            let error = render(template).unwrap_err();
            assert!(error.contains(message), "{template}: {error}");
        }
        assert_eq!(
            render("{% if lines in ['41', 1] %}x{% endif %}").unwrap(),
            "x"
        );
        assert_eq!(
            render("{% if lines == none %}x{% else %}y{% endif %}").unwrap(),
            "y"
        );
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
    fn a_filter_with_a_too_large_result_is_rejected() {
        assert_eq!(
            render("{{ content|indent(stars, true) }}").unwrap(),
            "    a <b> & {{c}}"
        );
        assert_eq!(
            render("{{ content|replace('a', stars)|indent(width=2) }}").unwrap(),
            "4 <b> & {{c}}"
        );
        assert_eq!(
            render("{{ '%05.1f of 123456789'|format(price) }}{# {{lines}} #}").unwrap(),
            "001.1 of 123456789"
        );
        assert_eq!(
            render("{{ [1, stars, 9]|batch(2)|list|length }}").unwrap(),
            "2"
        );
        for template in [
            "{{ content|indent(large|int) }}",
            "{{ content|indent(width=99999999999) }}",
            "{{ content|split|batch(99999999999)|list }}",
            "{{ content|split|slice(99999999999)|list }}",
            "{{ '%99999999999d'|format(stars) }}",
            "{{ ('a' * 9000000)|replace('a', content)|length }}",
        ] {
            let error = render(template).unwrap_err();
            let said =
                "with a result that is too large (the template's line 1); expected a smaller one";
            assert!(error.contains(said), "{template}: {error}");
        }
    }

    #[test]
    fn blocks_and_filters_are_told_from_plain_fields() {
        for text in ["{{ a | upper }}", "{% if a %}", "{# no #}{{a}}"] {
            assert!(Expression::is_one(text), "{text}");
        }
        for text in ["{{a}} | {{b}}", "{ % a }", "a | b", "{{a}}|"] {
            assert!(!Expression::is_one(text), "{text}");
        }
    }

    #[test]
    fn values_are_put_in_as_they_are() {
        assert_eq!(render("{# x #}{{content}}\n").unwrap(), "a <b> & {{c}}\n");
        let long = "{% if lines|int > 40 %}long{% else %}short{% endif %} {{ content|upper }}";
        assert_eq!(render(long).unwrap(), "long A <B> & {{C}}");
        let first = "{% for word in content|split %}{{ word }}{% if not loop.last %},{% endif %}{% endfor %}";
        assert_eq!(render(first).unwrap(), "a,<b>,&,{{c}}");
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
