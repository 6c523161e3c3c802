//! Names in messages: lists of them, and corrections of misspelled ones.

use crate::base::names::closest;

/// `"a", "b", "c"`, cut after a dozen.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 12;
    let mut names = names.into_iter();
    let mut out = String::new();
    for name in names.by_ref().take(SHOWN) {
        if !out.is_empty() {
            out.push_str(", ");
        }
        out.push_str(&format!("\"{}\"", super::fault::excerpt(name)));
    }
    match names.count() {
        0 if out.is_empty() => "none".to_owned(),
        0 => out,
        more => format!("{out} and {more} more"),
    }
}

/// ` (did you mean "prompt"?)`, or an empty text if no name is similar.
pub(super) fn hint<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match closest(name, names) {
        Some(near) => format!(" (did you mean \"{near}\"?)"),
        None => String::new(),
    }
}
