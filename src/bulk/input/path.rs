//! Values within a field, by their path: `turns[0].content`, `meta["first name"]`.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::cells::Field;
use super::fault::Fault;
use crate::base::json_read::JsonObject;

/// A step from a list or object to a value in it.
enum Step<'n> {
    Name(&'n str),
    /// From the end if it is negative.
    Index(i64),
}

/// The steps of a path, each with the length of the path before it; none if the name is no path.
fn steps(path: &str) -> Vec<(usize, Step<'_>)> {
    let mut steps = Vec::new();
    let mut at = path.find(['.', '[']).unwrap_or(path.len());
    while at > 0 && at < path.len() {
        let rest = &path[at + 1..];
        let (step, len) = if path[at..].starts_with('.') {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            (Some(Step::Name(&rest[..end])).filter(|_| end > 0), end)
        } else {
            let end = rest.find(']').unwrap_or(rest.len());
            let inside = rest[..end].trim();
            let mark = inside.chars().next().filter(|c| matches!(c, '"' | '\''));
            let name = mark.and_then(|mark| inside[1..].strip_suffix(mark));
            let index = || inside.parse().ok().map(Step::Index);
            (name.map(Step::Name).or_else(index), end + 1)
        };
        let Some(step) = step.filter(|_| len <= rest.len()) else {
            return Vec::new();
        };
        steps.push((at, step));
        at += 1 + len;
    }
    steps
}

/// The names of which one must be that of a field: that of the path as a whole, and its beginnings, the longest first.
pub(super) fn beginnings(path: &str) -> impl Iterator<Item = &str> {
    let ends = steps(path).into_iter().rev().map(|(end, _)| &path[..end]);
    [path].into_iter().chain(ends)
}

/// The value of the field of exactly that name, or of the path within another one; `None` if there is no such field.
///
/// # Errors
/// If the field has no such value.
pub(super) fn value<'a>(
    path: &str,
    field: impl Fn(&str) -> Option<Field<'a>>,
) -> Result<Option<Field<'a>>, Fault> {
    if let Some(found) = field(path) {
        return Ok(Some(found));
    }
    let steps = steps(path);
    let beginning = |i: &usize| field(&path[..steps[*i].0]);
    let Some((first, mut value)) = (0..steps.len())
        .rev()
        .find_map(|i| Some((i, beginning(&i)?)))
    else {
        return Ok(None);
    };
    for (end, step) in &steps[first..] {
        let before = &path[..*end];
        value = match &value {
            Field::Null => return Err(Fault::null(before)),
            Field::Text(_) => None,
            Field::Json(json) => within(json, step),
        }
        .ok_or_else(|| {
            let found = format!(
                "no {{{{{path}}}}} in \"{before}\" ({})",
                super::fault::excerpt(value.as_text())
            );
            Fault::new(found, "a value there").with_flags("--bad-rows skip leaves such rows out")
        })?;
    }
    Ok(Some(value))
}

/// The value at that step.
fn within<'a>(json: &str, step: &Step<'_>) -> Option<Field<'a>> {
    let found = match step {
        Step::Name(name) => JsonObject::parse(json)?.get(name, 0)?,
        Step::Index(index) => {
            let list: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            let from_end = i64::try_from(list.len()).ok()?;
            let index = if *index < 0 { index + from_end } else { *index };
            *list.get(usize::try_from(index).ok()?)?
        }
    };
    Some(match Field::of(found) {
        Field::Null => Field::Null,
        Field::Text(text) => Field::Text(Cow::Owned(text.into_owned())),
        Field::Json(json) => Field::Json(Cow::Owned(json.into_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str) -> Option<Field<'static>> {
        Some(match name {
            "turns" => Field::Json(r#"["a \"b\"", {"n": 1.10, "x y": [null]}]"#.into()),
            "meta.author" => Field::Text("flat".into()),
            "meta" => Field::Json(r#"{"author":"deep","year":2001}"#.into()),
            "text" => Field::Text("[1]".into()),
            "none" => Field::Null,
            _ => return None,
        })
    }

    #[test]
    fn a_path_leads_to_the_value_as_it_is_written() {
        for (path, text) in [
            ("turns", r#"["a \"b\"", {"n": 1.10, "x y": [null]}]"#),
            ("turns[0]", "a \"b\""),
            ("turns[-1].n", "1.10"),
            ("turns[ 1 ][\"x y\"]", "[null]"),
            ("turns[1]['n']", "1.10"),
            // A column of exactly that name comes first.
            ("meta.author", "flat"),
            ("meta.year", "2001"),
        ] {
            let found = value(path, field).unwrap().unwrap();
            assert_eq!(found.as_text(), text, "{path}");
        }
        for unknown in [
            "turn[0]",
            "turns[x]",
            "turns[0",
            "turns.",
            ".turns",
            "turns[0]x",
        ] {
            assert_eq!(value(unknown, field), Ok(None), "{unknown}");
        }
    }

    #[test]
    fn a_path_without_a_value_is_refused() {
        for (path, found) in [
            ("turns[2]", "found no {{turns[2]}} in \"turns\" ([\"a"),
            (
                "meta.month",
                "found no {{meta.month}} in \"meta\" ({\"author",
            ),
            (
                "text[0]",
                "found no {{text[0]}} in \"text\" ([1]); expected a value there",
            ),
            (
                "turns[1]['x y'][0].z",
                "found null in \"turns[1]['x y'][0]\"",
            ),
            ("none.x", "found null in \"none\"; expected a value; "),
        ] {
            let fault = value(path, field).unwrap_err().to_string();
            assert!(fault.starts_with(found), "{path}: {fault}");
        }
    }

    #[test]
    fn every_beginning_may_be_a_field() {
        let all: Vec<&str> = beginnings("a.b[0].c").collect();
        assert_eq!(all, ["a.b[0].c", "a.b[0]", "a.b", "a"]);
        assert_eq!(Vec::from_iter(beginnings("How many?")), ["How many?"]);
    }
}
