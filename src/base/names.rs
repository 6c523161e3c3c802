//! Names in messages: suggestions for mistyped ones, what replaces a removed one, and words for a shell.

use std::ffi::OsStr;

/// The closest name within two edits. Names of one or two characters are close to everything, so for them only a
/// difference in case counts.
pub(crate) fn closest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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

/// Number of edits between two names (Levenshtein); names of too different lengths are not compared.
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

/// A word quoted for a shell, for a command that is printed to be pasted.
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The sentence for `key` in a table of removed names: one name per line, as `KEY | sentence`.
pub fn replacement(table: &'static str, key: &str) -> Option<&'static str> {
    let mut rows = table.lines().filter_map(|line| line.split_once(" | "));
    let (_, sentence) = rows.find(|(name, _)| *name == key)?;
    Some(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_within_two_edits_is_suggested() {
        let names = ["prompt", "temperature", "id"];
        assert_eq!(closest("promt", names), Some("prompt"));
        assert_eq!(closest("temprature", names), Some("temperature"));
        assert_eq!(closest("Prompt", names), Some("prompt"));
        assert_eq!(closest("ID", names), Some("id"));
        assert_eq!(closest("ix", names), None);
        assert_eq!(closest("question", names), None);
    }
}
