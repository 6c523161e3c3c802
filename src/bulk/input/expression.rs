//! Templates that do more than put fields in: conditions, loops, filters.

use std::borrow::Cow;

use minijinja::value::Value;
use minijinja::{Environment, UndefinedBehavior};

/// The name of the only template of an environment. Without an extension nothing is escaped.
const NAME: &str = "template";

/// A template in the language of Jinja.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    environment: Environment<'static>,
    text: String,
    variables: Vec<String>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Expression {
    /// Whether a text is one: a block `{%`, a comment `{#`, or a filter within `{{ }}`.
    pub(super) fn is_one(text: &str) -> bool {
        let within = |rest: &str| {
            rest.split("}}")
                .next()
                .is_some_and(|inner| inner.contains('|'))
        };
        text.contains("{%") || text.contains("{#") || text.split("{{").skip(1).any(within)
    }

    /// Reads one; the error names the line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // A text that ends in a line end is a prompt that does.
        environment.set_keep_trailing_newline(true);
        let added = environment.add_template_owned(NAME, text.to_owned());
        added.map_err(|error| shown(&error))?;
        let template = environment
            .get_template(NAME)
            .map_err(|error| shown(&error))?;
        let globals: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
        let named = template.undeclared_variables(false);
        let named = named
            .into_iter()
            .filter(|name| !globals.contains(&name.as_str()));
        let mut variables: Vec<String> = named.collect();
        variables.sort();
        if variables.is_empty() {
            return Err("the template names no field: write one as {{field}}".to_owned());
        }
        Ok(Self {
            environment,
            text: text.to_owned(),
            variables,
        })
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(String::as_str)
    }

    /// The text that comes of the values of fields, which are texts all.
    pub(super) fn render<'a>(
        &self,
        value: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Result<String, String> {
        let values = self
            .variables
            .iter()
            .filter_map(|name| Some((name.clone(), value(name)?)));
        let values: Value = values
            .map(|(name, value)| (name, Value::from(value.into_owned())))
            .collect();
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| shown(&error))?;
        template.render(values).map_err(|error| shown(&error))
    }
}

fn shown(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("the template's line {line}: {what}"),
        None => format!("the template: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, String> {
        Expression::parse(text)?.render(|name| match name {
            "content" => Some(Cow::Borrowed("a <b> & {{c}}")),
            "lines" => Some(Cow::Borrowed("41")),
            _ => None,
        })
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
    fn what_is_wrong_is_said_with_its_line() {
        let parsed = |text: &str| Expression::parse(text).unwrap_err();
        assert!(
            parsed("a\n{% if content %}").starts_with("the template's line 2: "),
            "{}",
            parsed("a\n{% if content %}")
        );
        assert!(parsed("{% raw %}{{a}}{% endraw %}").contains("names no field"));
        let missing =
            Expression::parse("{% set x = 1 %}{{ pth }}{{ x }}{{ range(2)|length }}").unwrap();
        assert_eq!(missing.variables().collect::<Vec<_>>(), ["pth"]);
        assert!(render("{{ content|nope }}").unwrap_err().contains("nope"));
        assert!(render("{{ pth|upper }}").is_err());
    }
}
