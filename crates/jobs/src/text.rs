//! Compares a summary with its source without a model: what it copied, and what the source does not contain.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};

use whatlang::{Lang, Script, detect, detect_script};

/// A word, or a character in a script without blanks between words.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Word<'t> {
    text: &'t str,
    at: usize,
    /// Whether it begins a sentence.
    first: bool,
}

/// The longest sequence of words that two texts share.
#[derive(Debug, PartialEq)]
pub(crate) struct Copied {
    /// Number of words, or of characters in scripts without blanks between words.
    pub words: usize,
    /// The words as they are in the summary.
    pub text: String,
}

/// The longest sequence of words of `summary` that also occurs in `source`, ignoring case and punctuation.
pub(crate) fn longest_copied(summary: &str, source: &str) -> Copied {
    let words = words(summary);
    let mut numbers = HashMap::new();
    let mut numbered = |text: &str| {
        let next = numbers.len() as u64;
        *numbers.entry(text.to_lowercase()).or_insert(next)
    };
    let a: Vec<u64> = words.iter().map(|word| numbered(word.text)).collect();
    let b: Vec<u64> = self::words(source)
        .iter()
        .map(|word| numbered(word.text))
        .collect();
    // If both share a sequence of n words, they also share one of n - 1, so the length is found by bisection.
    let base = RandomState::new().build_hasher().finish();
    let (mut known, mut none) = ((0, 0), a.len().min(b.len()) + 1);
    while known.0 + 1 < none {
        let length = known.0 + (none - known.0) / 2;
        match shared_run(&a, &b, length, base) {
            Some(at) => known = (length, at),
            None => none = length,
        }
    }
    let (length, at) = known;
    let text = match length {
        0 => String::new(),
        _ => {
            let last = words[at + length - 1];
            summary[words[at].at..last.at + last.text.len()].to_owned()
        }
    };
    Copied {
        words: length,
        text,
    }
}

/// The start in `a` of a sequence of this length that also occurs in `b`. Each sequence is identified by a rolling
/// hash, computed from the previous one, so the time does not depend on the length.
fn shared_run(a: &[u64], b: &[u64], length: usize, base: u64) -> Option<usize> {
    let mut runs = HashMap::new();
    for (at, hash) in rolled(a, length, base).enumerate() {
        runs.entry(hash).or_insert(at);
    }
    rolled(b, length, base)
        .enumerate()
        .find_map(|(there, hash)| {
            let here = *runs.get(&hash)?;
            (a[here..here + length] == b[there..there + length]).then_some(here)
        })
}

/// A hash of each sequence of this length: its value as a number in base `base`, modulo a prime.
fn rolled(all: &[u64], length: usize, base: u64) -> impl Iterator<Item = u64> {
    const PRIME: u64 = (1 << 61) - 1;
    let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64;
    let base = base % (PRIME - 256) + 256;
    // The weight of the first word when the sequence moves on by one.
    let weight = (0..length).fold(1, |weight, _| times(weight, base));
    let mut hash = 0;
    all.iter().enumerate().filter_map(move |(i, one)| {
        hash = (times(hash, base) + one + 1) % PRIME;
        if let Some(left) = i.checked_sub(length) {
            hash = (hash + PRIME - times(all[left] + 1, weight)) % PRIME;
        }
        (i + 1 >= length).then_some(hash)
    })
}

/// Numbers of the summary that the source does not contain, each once. `1,200` and `1200` are equal, and so are
/// digits of different scripts.
pub(crate) fn foreign_numbers(summary: &str, source: &str) -> Vec<String> {
    let known: HashSet<String> = numbers(source).into_iter().collect();
    once(numbers(summary), |number| !known.contains(number))
}

/// Words of the summary that are capitalised within a sentence and do not occur in the source, each once. Empty for
/// German, where every noun is capitalised, and for scripts without capitals.
pub(crate) fn foreign_names(summary: &str, source: &str) -> Vec<String> {
    if detect(summary).is_some_and(|found| found.lang() == Lang::Deu) {
        return Vec::new();
    }
    let known: HashSet<String> = words(source)
        .iter()
        .map(|word| word.text.to_lowercase())
        .collect();
    let words = words(summary);
    let capital = |word: &&Word<'_>| {
        let mut letters = word.text.chars();
        letters.next().is_some_and(char::is_uppercase) && word.text.chars().count() > 1
    };
    let names = words.iter().filter(|word| !word.first).filter(capital);
    once(names.map(|word| word.text.to_owned()), |name| {
        !known.contains(&name.to_lowercase())
    })
}

/// The language of a text, if the text is long and clear enough: its ISO 639-1 code, or if it has none, its ISO
/// 639-3 code.
pub(crate) fn language_of(text: &str) -> Option<&'static str> {
    let found = detect(text).filter(whatlang::Info::is_reliable)?;
    Some(code(found.lang()))
}

/// Whether two texts are recognisably in different languages. A text that is too short for its language to be
/// detected still has a script; Chinese characters alone occur in several languages.
pub(crate) fn two_languages(a: &str, b: &str) -> bool {
    let script = |text| detect_script(text).map(kin);
    match (script(a), script(b)) {
        (Some(a), Some(b)) if a != b => true,
        (Some(Script::Mandarin), _) => false,
        _ => match (language_of(a), language_of(b)) {
            (Some(a), Some(b)) => a != b,
            _ => false,
        },
    }
}

fn kin(script: Script) -> Script {
    match script {
        Script::Hiragana | Script::Katakana => Script::Mandarin,
        other => other,
    }
}

/// Whether both tags denote the same language, by their first parts. Norwegian has two codes.
pub(crate) fn same_language(found: &str, tag: &str) -> bool {
    let first = tag.split('-').next().unwrap_or_default();
    let first = first.to_ascii_lowercase();
    let first = match &*first {
        "nb" | "nn" => "no",
        "fil" => "tl",
        other => other,
    };
    found == first
}

/// Whether this language can be detected.
pub(crate) fn is_known_language(tag: &str) -> bool {
    Lang::all()
        .iter()
        .any(|lang| same_language(code(*lang), tag))
}

fn code(lang: Lang) -> &'static str {
    let long = lang.code();
    let mut lines = LANGUAGES.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(code, _)| *code == long)
        .map_or(long, |(_, short)| short)
}

/// One language per line: its ISO 639-3 code and its ISO 639-1 code. The other languages have only the former.
const LANGUAGES: &str = include_str!("languages.txt");

fn once(all: impl IntoIterator<Item = String>, keep: impl Fn(&String) -> bool) -> Vec<String> {
    let mut seen = HashSet::new();
    let all = all.into_iter().filter(keep);
    all.filter(|one| seen.insert(one.clone())).collect()
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut first = true;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let at = text.len() - rest.len();
        let inside = |c: char| c.is_alphanumeric() && !is_unspaced(c);
        let length = if is_unspaced(letter) {
            letter.len_utf8()
        } else {
            rest.find(|c| !inside(c)).unwrap_or(rest.len())
        };
        if length == 0 {
            first |= ENDS.contains(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(length);
        words.push(Word {
            text: word,
            at,
            first,
        });
        (first, rest) = (false, after);
    }
    words
}

/// After one of these characters, a word may be capitalised for that reason alone.
const ENDS: &str = ".!?:\n。！？\"“„«‘-–—•*";

/// Scripts that are written without blanks between words.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' // Thai, Lao
        | '\u{1000}'..='\u{109f}' // Burmese
        | '\u{1780}'..='\u{17ff}' // Khmer
        | '\u{3040}'..='\u{30ff}' // kana
        | '\u{3400}'..='\u{9fff}' // Han
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}'
    ) && c.is_alphanumeric()
}

/// The numbers in a text: digits, without the separators that group thousands.
fn numbers(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let digit = |at: usize| letters.get(at).and_then(|c: &char| decimal(*c));
    let mut found = Vec::new();
    let mut at = 0;
    while at < letters.len() {
        if digit(at).is_none() {
            at += 1;
            continue;
        }
        let mut number = String::new();
        while let Some(d) = digit(at) {
            number.push(d);
            at += 1;
            let between = letters.get(at).copied().unwrap_or(' ');
            let group = (1..=3).all(|i| digit(at + i).is_some()) && digit(at + 4).is_none();
            match between {
                ',' | '.' | '\'' | '’' | '\u{a0}' | '\u{202f}' | '，' if group => at += 1,
                '.' | ',' if digit(at + 1).is_some() => {
                    number.push('.');
                    at += 1;
                }
                _ => {}
            }
        }
        found.push(number);
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
    use proptest::prelude::*;

    use super::*;

    const SOURCE: &str = "The river Aare rose by 1,200 millimetres in Bern on 3 May, said the Federal Office. \
                          Nobody was hurt, and 40 cellars were pumped out.";

    #[test]
    fn copied_words_are_found_ignoring_case_and_punctuation() {
        let copied = longest_copied("Well: nobody was hurt and 40 cellars, they say.", SOURCE);
        assert_eq!(copied.words, 6);
        assert_eq!(copied.text, "nobody was hurt and 40 cellars");
        assert_eq!(longest_copied("", SOURCE).words, 0);
        assert_eq!(longest_copied("Entirely different text", "").words, 0);
        let japanese = longest_copied("川は半メートル上がった。", "ベルンの川は半メートル上昇した");
        assert_eq!(japanese.text, "川は半メートル上");
    }

    #[test]
    fn the_time_for_long_texts_does_not_depend_on_shared_parts() {
        let own = |i: u64| format!("{} ", i.wrapping_mul(2_654_435_761) % 90_001);
        let long: String = (0..50_000).map(own).collect();
        let other = format!("{long} and an end of its own");
        assert_eq!(longest_copied(&long, &other).words, 50_000);
        // All sequences are equal, except the longest ones.
        let (same, more) = ("a ".repeat(30_000), "a ".repeat(40_000));
        assert_eq!(longest_copied(&same, &more).words, 30_000);
        let copied = longest_copied(&format!("{same} b"), &format!("b {more}"));
        assert_eq!(copied.words, 30_000);
    }

    #[test]
    fn texts_in_two_languages_are_detected() {
        let english =
            "It rained all day in the town, and the river rose by half a metre, said the office.";
        let german =
            "Am Nachmittag stieg der Fluss in der Stadt, und die Feuerwehr pumpte die Keller aus.";
        assert!(two_languages(english, german));
        assert!(two_languages(english, "雨が降った。"));
        assert!(two_languages("Rain.", "雨が降った。"));
        assert!(!two_languages("東京", "東京は雨が降った。"));
        assert!(!two_languages("Rain.", english) && !two_languages(english, english));
        assert!(!two_languages("42", english) && !two_languages("", ""));
    }

    #[test]
    fn numbers_that_the_source_does_not_have_are_found() {
        let foreign = |summary| foreign_numbers(summary, SOURCE);
        assert_eq!(
            foreign("It rose by 1200 mm, by 1’200, by １２００ and 1.200; 40."),
            [""; 0]
        );
        assert_eq!(
            foreign("It rose by 12 mm, 12 in all, by 3.5 and 41."),
            ["12", "3.5", "41"]
        );
    }

    #[test]
    fn names_that_the_source_does_not_have_are_found() {
        let foreign = |summary| foreign_names(summary, SOURCE);
        assert_eq!(
            foreign("Yesterday the Aare rose in Bern. Cellars were flooded."),
            [""; 0]
        );
        let made_up = foreign("In the town the Rhine rose, Peter Muster said, and Muster knows.");
        assert_eq!(made_up, ["Rhine", "Peter", "Muster"]);
        let german = "Am Nachmittag stieg der Fluss in der Stadt, und die Feuerwehr pumpte die Keller aus, sagte das Amt.";
        assert_eq!(foreign(german), [""; 0]);
    }

    #[test]
    fn languages_are_detected() {
        let text =
            "It rained all day in the town, and the river rose by half a metre, said the office.";
        assert_eq!(language_of(text), Some("en"));
        assert_eq!(
            language_of("今日は一日中雨が降り、川の水位が上がりました。"),
            Some("ja")
        );
        assert!(same_language("en", "en-GB") && same_language("no", "nb"));
        assert!(!same_language("en", "de"));
        assert!(is_known_language("ja") && !is_known_language("rm"));
    }

    proptest! {
        #[test]
        fn an_inserted_sequence_is_found(
            before in "[a-f ]{0,20}", run in "[g-l]{1,3}( [g-l]{1,3}){2,9}", after in "[a-f ]{0,20}",
            other in "[m-r ]{0,40}",
        ) {
            let summary = format!("{before} {run} {after}");
            let copied = longest_copied(&summary, &format!("{other} {run} {other}"));
            prop_assert_eq!(copied.words, run.split(' ').count());
            prop_assert_eq!(copied.text, run);
        }

        #[test]
        fn any_text_compares_equal_to_itself_without_a_panic(a in ".{0,80}", b in ".{0,80}") {
            longest_copied(&a, &b);
            foreign_names(&a, &b);
            prop_assert!(foreign_numbers(&a, &a).is_empty());
            prop_assert!(foreign_names(&a, &a).is_empty());
            prop_assert_eq!(longest_copied(&a, &a).words, words(&a).len());
        }
    }
}
