//! Names in messages: lists of them, and the one that was probably meant.

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

/// ` (did you mean "prompt"?)`, or nothing when no name is near.
pub(super) fn hint<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match closest(name, names) {
        Some(near) => format!(" (did you mean \"{near}\"?)"),
        None => String::new(),
    }
}

/// The name within two edits. Names of one or two characters are near everything, so for them
/// only a difference in case counts.
fn closest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = name.to_lowercase();
    names
        .into_iter()
        .filter(|other| *other != name)
        .map(|other| (distance(&folded, &other.to_lowercase()), other))
        .filter(|(edits, other)| {
            *edits == 0 || *edits <= 2 && name.chars().count().min(other.chars().count()) > 2
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, other)| other)
}

/// Edits between two names (Levenshtein); names too different in length are not compared.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above.min(row[j]) + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_within_two_edits_is_meant() {
        let names = ["prompt", "temperature", "id"];
        assert_eq!(closest("promt", names), Some("prompt"));
        assert_eq!(closest("temprature", names), Some("temperature"));
        assert_eq!(closest("Prompt", names), Some("prompt"));
        assert_eq!(closest("ID", names), Some("id"));
        assert_eq!(closest("ix", names), None);
        assert_eq!(closest("question", names), None);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..20).map(|i| i.to_string()).collect();
        let text = listed(names.iter().map(String::as_str));
        assert!(text.starts_with("\"0\", \"1\"") && text.ends_with("\"11\" and 8 more"));
        assert_eq!(listed([]), "none");
    }
}
