//! Compares a summary with its source without a model: the scripts that they are written in, and the numbers that the
//! source does not contain.

use std::collections::{BTreeMap, HashSet};

/// Numbers of the summary that the source does not contain, each once. `1,200` and `1200` are equal, and so are
/// digits of different scripts.
pub(crate) fn foreign_numbers(summary: &str, source: &str) -> Vec<String> {
    let mut known: HashSet<String> = numbers(source).into_iter().collect();
    let found = numbers(summary).into_iter();
    found
        .filter(|number| known.insert(number.clone()))
        .collect()
}

/// The script of a letter; all others count as Latin.
fn script_of(letter: char) -> &'static str {
    match letter {
        '\u{370}'..='\u{3ff}' => "Greek",
        '\u{400}'..='\u{52f}' => "Cyrillic",
        '\u{590}'..='\u{5ff}' => "Hebrew",
        '\u{600}'..='\u{77f}' => "Arabic",
        '\u{900}'..='\u{97f}' => "Devanagari",
        '\u{980}'..='\u{9ff}' => "Bengali",
        '\u{e00}'..='\u{e7f}' => "Thai",
        '\u{1100}'..='\u{11ff}' | '\u{ac00}'..='\u{d7a3}' => "Hangul",
        '\u{3040}'..='\u{30ff}' => "Japanese",
        '\u{3400}'..='\u{9fff}' => "Han",
        _ => "Latin",
    }
}

/// The script of a language with this tag.
pub(crate) fn script_of_language(tag: &str) -> &'static str {
    let first = tag.split('-').next().unwrap_or_default();
    match &*first.to_ascii_lowercase() {
        "el" => "Greek",
        "ru" | "uk" | "bg" | "sr" | "mk" | "be" | "kk" | "ky" | "mn" | "tg" => "Cyrillic",
        "he" | "yi" => "Hebrew",
        "ar" | "fa" | "ur" | "ps" => "Arabic",
        "hi" | "mr" | "ne" => "Devanagari",
        "bn" | "as" => "Bengali",
        "th" => "Thai",
        "ko" => "Hangul",
        "ja" => "Japanese",
        "zh" | "yue" => "Han",
        _ => "Latin",
    }
}

/// The script of most letters of a text; `None` if it has no letters. Chinese characters among kana are Japanese.
pub(crate) fn script(text: &str) -> Option<&'static str> {
    let mut counts = BTreeMap::new();
    for letter in text.chars().filter(|c| c.is_alphabetic()) {
        *counts.entry(script_of(letter)).or_default() += 1;
    }
    let count = |script| counts.get(script).copied().unwrap_or(0_usize);
    let (kana, han) = (count("Japanese"), count("Han"));
    let most = counts.iter().max_by_key(|(_, count)| **count);
    if 2 * (kana + han) > counts.values().sum() && 10 * kana > han {
        return Some("Japanese");
    }
    most.map(|(script, _)| *script)
}

/// The numbers in a text in ASCII digits, without the separators that group thousands: one of these, and three digits.
fn numbers(text: &str) -> Vec<String> {
    let plain: Vec<char> = text.chars().map(|c| decimal(c).unwrap_or(c)).collect();
    let mut found: Vec<String> = Vec::new();
    let mut between: &[char] = &[];
    for run in plain.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
        let digits: String = run.iter().collect();
        match (found.last_mut(), between) {
            _ if !run[0].is_ascii_digit() => {}
            (Some(number), [one]) if run.len() == 3 && ".,'’，\u{a0}\u{202f}".contains(*one) => {
                number.push_str(&digits);
            }
            (Some(number), ['.' | ',']) => *number = format!("{number}.{digits}"),
            _ => found.push(digits),
        }
        between = run;
    }
    found
}

/// The ASCII equivalent of a decimal digit in any script.
fn decimal(c: char) -> Option<char> {
    let zeros = ['0', '０', '٠', '۰', '०', '০', '๐'];
    let value = zeros.into_iter().find_map(|zero| {
        let value = u32::from(c).checked_sub(u32::from(zero))?;
        (value < 10).then_some(value)
    })?;
    char::from_digit(value, 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_the_source_does_not_have_are_found() {
        let source = "It rose by 1,200 mm, and 40 cellars were flooded.";
        for (summary, numbers) in [
            (
                "It rose by 1200 mm, by 1’200, by １２００ and 1.200; 40.",
                "",
            ),
            ("It rose by 12 mm, 12 in all, by 3.5 and 41.", "12 3.5 41"),
        ] {
            assert_eq!(foreign_numbers(summary, source).join(" "), numbers);
        }
        for (text, wanted) in [
            ("2008，2012和2016年", "2008 2012 2016"),
            ("12.\u{a0}5.\u{a0}2024", "12 5 2024"),
            ("2024,\u{a0}300", "2024 300"),
            ("12\u{a0}34", "12 34"),
            ("12\u{a0}345, 67\u{202f}890", "12345 67890"),
            ("6'2, '12','13'", "6 2 12 13"),
            ("1...5, 3.14, 1.2.3, 1,200.50.", "1 5 3.14 1.2.3 1200.50"),
        ] {
            assert_eq!(numbers(text).join(" "), wanted);
        }
    }

    #[test]
    fn texts_and_languages_have_scripts() {
        let japanese = "今日は一日中雨が降り、川の水位が上がりました。";
        for (text, tag, wanted) in [
            ("It rained all day, sagte das Amt.", "de-CH", Some("Latin")),
            (japanese, "ja", Some("Japanese")),
            ("今天下了一整天的雨，河水上涨了。", "zh-Hant", Some("Han")),
            ("Весь день шёл дождь, said.", "ru", Some("Cyrillic")),
            ("비가 왔다.", "ko", Some("Hangul")),
            ("42!", "", None),
        ] {
            assert_eq!(script(text), wanted);
            let of_language = wanted.is_none_or(|wanted| script_of_language(tag) == wanted);
            assert!(of_language, "{tag}");
        }
    }
}
