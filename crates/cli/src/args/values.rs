//! Parses values of command-line arguments, and the files of text that they name.

use std::io;
use std::path::Path;
use std::time::Duration;

use batchwright::Usd;
use batchwright::config::SettingKey;
use batchwright::files::ColumnRole;
use batchwright::sources::Split;
use batchwright::unstable::named_file;
use clap::builder::{PossibleValuesParser, TypedValueParser};

/// One of these words; the value is what it stands for.
pub fn one_of<T: Copy + Send + Sync + 'static>(
    words: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let names = words.iter().map(|(word, _)| *word);
    PossibleValuesParser::new(names).try_map(|word| {
        let known = words
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(&word));
        known.map(|(_, value)| *value).ok_or("an unknown word")
    })
}

/// A time; a bare number is in milliseconds.
pub fn millis(text: &str) -> Result<Duration, String> {
    duration(text, "ms")
}

/// A time; a bare number is in seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    duration(text, "s")
}

/// The same, above 0.
pub fn some_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("write a time above 0, for example 30s".to_owned()),
        time => Ok(time),
    }
}

fn duration(text: &str, bare: &str) -> Result<Duration, String> {
    let bad = || format!("write a time, for example 50ms, 2s or 1m (a bare number is in {bare})");
    let (digits, unit) = match text.find(|letter: char| letter.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, bare),
    };
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(bad()),
    };
    let count: f64 = digits.trim().parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(count * scale).map_err(|_| bad())
}

/// A positive whole number.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|number| *number >= 1);
    number.ok_or_else(|| "write a whole number of at least 1".to_owned())
}

/// A positive amount of US dollars.
pub fn dollars(text: &str) -> Result<Usd, String> {
    let text = text.trim();
    let number = text.strip_prefix('$').unwrap_or(text).parse().ok();
    let amount = number.and_then(Usd::from_dollars);
    let most = Usd::from_picos(u64::MAX);
    let amount = amount.filter(|amount| *amount > Usd::ZERO && *amount < most);
    let why = "write a positive number of US dollars, for example 12.50, of at most 18 million";
    amount.ok_or_else(|| why.to_owned())
}

/// A number of bytes, as 500K, 10M or 1G; units are powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bad = || "write a size, for example 500K, 10M or 1G (a bare number is in bytes)".to_owned();
    let text = text
        .trim()
        .trim_end_matches(['b', 'B'])
        .trim_end_matches('i');
    let (digits, unit) = match text.find(|letter: char| letter.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let scale: u64 = match unit.to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(bad()),
    };
    let count: u64 = digits.trim().parse().map_err(|_| bad())?;
    count.checked_mul(scale).ok_or_else(bad)
}

/// The memory of a process: in less, no program starts.
pub fn memory(text: &str) -> Result<u64, String> {
    let enough = bytes(text)?;
    if enough < 1 << 20 {
        return Err("no program starts in so little: write at least 1M".to_owned());
    }
    Ok(enough)
}

/// A name, which must not be empty.
pub fn name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the name is empty; give a name, or omit the flag".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// A role and the column that has it.
pub fn column(text: &str) -> Result<(ColumnRole, String), String> {
    let (role, column) = text.split_once('=').unwrap_or((text, ""));
    let role = match role.trim() {
        "id" => ColumnRole::Id,
        "model" => ColumnRole::Model,
        "system" => ColumnRole::System,
        "messages" => ColumnRole::Messages,
        _ => return Err("write id=NAME, model=NAME, system=NAME or messages=NAME".to_owned()),
    };
    Ok((role, name(column)?))
}

/// How files are split.
pub fn split(text: &str) -> Result<Split, String> {
    text.parse()
        .map_err(|error: batchwright::Error| error.message().to_owned())
}

/// A rate per second; units are seconds, minutes and hours.
pub fn rate(text: &str) -> Result<f64, String> {
    let bad = || {
        "write a rate, for example 5/s, 0.5/s or 30/m, above 0 (a bare number is per second)"
            .to_owned()
    };
    let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match unit.trim() {
        "s" | "sec" | "second" => 1.0,
        "m" | "min" | "minute" => 60.0,
        "h" | "hour" => 3600.0,
        _ => return Err(bad()),
    };
    let number: f64 = number.trim().parse().map_err(|_| bad())?;
    let rate = number / seconds;
    if rate > 0.0 && rate.is_finite() {
        Ok(rate)
    } else {
        Err(bad())
    }
}

/// A temperature.
pub fn temperature(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if (0.0..=2.0).contains(&value) => Ok(value),
        _ => Err("write a number from 0 to 2".to_owned()),
    }
}

/// A text, or the content of a file when it is written as `@path`.
pub fn text_or_file(text: &str) -> Result<String, String> {
    match text.strip_prefix('@') {
        Some(path) => read_text(path)
            .map(|content| content.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| format!("cannot read {path}: {error}")),
        None => Ok(text.to_owned()),
    }
}

/// The separator of a table's columns.
pub fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [by] if by.is_ascii() && !matches!(by, b'"' | b'\n' | b'\r' | 0) => Ok(*by),
        _ => Err("expected one ASCII character, for example ';', or tab".to_owned()),
    }
}

/// Accepts the values of a setting for a flag.
pub fn words_for(key: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |words| {
        SettingKey::named(key)
            .and_then(|key| key.check(words))
            .map_err(|error| error.message().to_owned())
    }
}

/// The text of a file for a flag, of at most 16 MiB, without the byte order mark that some editors write.
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    named_file::read_text(path.as_ref(), 16 << 20)
}

/// The text without a leading byte order mark.
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_limit_nothing_or_everything_are_refused() {
        for text in ["inf", "1e400", "1e300", "nan", "-1", "0", "x"] {
            assert!(dollars(text).unwrap_err().contains("positive"), "{text}");
        }
        assert_eq!(dollars("$18000000").ok(), Usd::from_dollars(18e6));
        for text in ["1000", "1023K", "0"] {
            assert!(memory(text).unwrap_err().contains("at least 1M"), "{text}");
        }
        assert_eq!(memory("1M"), Ok(1 << 20));
    }

    #[test]
    fn rates_have_units_and_are_above_0() {
        for (text, per_second) in [
            ("20", 20.0),
            ("0.5/s", 0.5),
            ("30/m", 0.5),
            ("1800 / h", 0.5),
        ] {
            assert_eq!(rate(text), Ok(per_second), "{text}");
        }
        for text in ["0/s", "5/week", "x", "inf"] {
            assert!(
                rate(text).unwrap_err().contains("for example 5/s"),
                "{text}"
            );
        }
    }
}
