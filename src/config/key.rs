//! Setting keys: what each accepts, and its default.

use serde_json::Value;

use crate::base::names::{closest, replacement};
use crate::base::{Error, ErrorKind};

use super::choices::{CACHE_PROMPTS, ON_UNKNOWN, PROVIDERS, STRATEGIES};
use super::credential;
use super::table::with_settings;
use super::value::Kind;

/// One setting.
#[derive(derive_more::Debug)]
#[debug("SettingKey({name:?})")]
pub struct SettingKey {
    name: &'static str,
    /// Checked in this order.
    variables: &'static [&'static str],
    is_local: bool,
    kind: Kind,
    default: Default,
    doc: &'static str,
}

/// The default of a setting.
enum Default {
    /// A value.
    Is(&'static str),
    /// A rule, in words.
    Rule(&'static str),
}

use Default::{Is, Rule};

/// Removed settings, each with what to use instead.
const REMOVED: &str = include_str!("removed.txt");

/// A route has at most 32 steps, and the first is the provider itself.
const MOST_FALLBACKS: usize = 31;
/// Maximum length, in characters, of a stored value that is a single text.
const LONGEST_TEXT: usize = 256;
const LONGEST: usize = 2_000;
/// Each call in flight has a thread. With more threads, a process may run out of memory mappings, and the system
/// then kills it without a message.
const MOST_CALLS: u64 = 10_000;

macro_rules! keys {
    ($($(#[$note:meta])* $vis:vis $getter:ident: $type:ty = $name:literal [$($variable:literal),*] $setter:ident
        $kind:expr, $default:ident($text:literal), $doc:literal;)*) => {
        static KEYS: &[SettingKey] = &[$(SettingKey {
            name: $name,
            variables: &[$($variable),*],
            is_local: !keys!($setter),
            kind: $kind,
            default: $default($text),
            doc: $doc,
        }),*];
    };
    (client) => { true };
    (owner) => { false };
}

with_settings!(keys);

impl SettingKey {
    /// Every setting, in the order of the documentation.
    pub fn all() -> &'static [SettingKey] {
        KEYS
    }

    /// The setting with this name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is no such setting. The message lists similar names, or all of them; for a
    /// credential, it names the environment variable to use.
    pub fn named(name: &str) -> Result<&'static SettingKey, Error> {
        Self::find(name).ok_or_else(|| Error::new(ErrorKind::Invalid, unknown(name)))
    }

    pub(super) fn find(name: &str) -> Option<&'static SettingKey> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Its name, such as `llm.model`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The environment variables that override the stored value; the first one that is set counts.
    pub fn variables(&self) -> &'static [&'static str] {
        self.variables
    }

    /// Its purpose, in one line.
    pub fn doc(&self) -> &'static str {
        self.doc
    }

    /// The default: a value, or a rule in words.
    pub fn default_text(&self) -> &'static str {
        match self.default {
            Is(text) | Rule(text) => text,
        }
    }

    /// The default, if it is a value.
    pub(super) fn default_value(&self) -> Option<&'static str> {
        match self.default {
            Is(value) => Some(value),
            Rule(_) => None,
        }
    }

    /// Whether only the owner of the machine may change it, and not a client of a server, because it names files or
    /// addresses that the program reads.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// The accepted values, for example `a whole number from 1 to 100`.
    pub fn accepts(&self) -> String {
        self.kind.accepts()
    }

    /// The value without surrounding blanks, if this setting accepts it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]; the message names what is accepted.
    pub fn check(&self, value: &str) -> Result<String, Error> {
        let parsed = self.parse(value);
        parsed.map_err(|why| Error::new(ErrorKind::Invalid, why))?;
        Ok(value.trim().to_owned())
    }

    /// As [`check`](Self::check), for a value to be stored: it must not be empty, look like an API key or contain
    /// control characters, and it has at most 256 characters (a list: 2000).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]; the message names what is accepted.
    pub fn check_stored(&self, value: &str) -> Result<String, Error> {
        let name = self.name;
        let bad = |why: String| Error::new(ErrorKind::Invalid, why);
        if let Some(variable) = credential::in_value(value) {
            return Err(bad(format!(
                "{name}: the value looks like an API key, which is never stored: set {variable} in \
                 the environment"
            )));
        }
        let password = match self.kind {
            Kind::Redis => Some("BATCHWRIGHT_REDIS_PASSWORD"),
            Kind::Store => Some("BATCHWRIGHT_STORE_PASSWORD"),
            _ => None,
        };
        if let Some(variable) = password
            && value.contains('@')
            && self.check(value).is_err()
        {
            return Err(bad(format!(
                "{name}: an address with a password is never stored: leave it out and set {variable} or {variable}_FILE \
                 in the environment; write {}",
                self.kind.accepts()
            )));
        }
        let is_odd = value.trim().chars().any(char::is_control);
        let most = match self.kind {
            Kind::Text => LONGEST_TEXT,
            _ => LONGEST,
        };
        if is_odd || value.chars().count() > most {
            return Err(bad(format!(
                "{name}: write at most {most} characters, without control characters"
            )));
        }
        if value.trim().is_empty() {
            return Err(bad(format!(
                "{name}: the value is empty; to restore the default, unset it"
            )));
        }
        let checked = self.check(value);
        checked.map_err(|error| error.context(format!("{name}={}", value.trim())))
    }

    pub(super) fn parse(&self, value: &str) -> Result<Value, String> {
        self.kind.parse(value)
    }
}

impl PartialEq for SettingKey {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for SettingKey {}

fn unknown(name: &str) -> String {
    if let Some(variable) = credential::in_name(name) {
        return format!("`{name}`: API keys are never stored: set {variable} in the environment");
    }
    let shown = credential::shown(name);
    if let Some(instead) = replacement(REMOVED, name) {
        return format!("the setting `{shown}` was removed; {instead}");
    }
    let near = near(name);
    let meant = if near.is_empty() {
        String::new()
    } else {
        format!("did you mean {}? ", near.join(" or "))
    };
    let all: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    format!(
        "unknown setting `{shown}`; {meant}expected one of: {}",
        all.join(", ")
    )
}

/// Settings that the name may be meant for: with this variable, within a typing error, or with its last part in their
/// name.
fn near(name: &str) -> Vec<&'static str> {
    let name = name.trim();
    let by_variable =
        |key: &&SettingKey| key.variables.iter().any(|v| v.eq_ignore_ascii_case(name));
    if let Some(key) = KEYS.iter().find(by_variable) {
        return vec![key.name];
    }
    if let Some(name) = closest(name, KEYS.iter().map(|key| key.name)) {
        return vec![name];
    }
    let own = name.rsplit('.').next().unwrap_or_default();
    let has_part = |name: &&'static str| own.len() > 2 && name.contains(own);
    let names = KEYS.iter().map(|key| key.name);
    names.filter(has_part).take(3).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::base::cases::{cases, unescaped};

    #[test]
    fn the_table_is_sound() {
        let mut names = HashSet::new();
        for key in SettingKey::all() {
            assert!(names.insert(key.name), "{} stands twice", key.name);
            assert_eq!(credential::in_name(key.name), None, "{}", key.name);
            for variable in key.variables {
                assert!(names.insert(variable), "{variable} stands twice");
            }
            if let Some(value) = key.default_value() {
                assert_eq!(key.check(value).unwrap(), value, "{}", key.name);
            }
            assert!(!key.doc.ends_with('.') && !key.default_text().is_empty());
        }
        for line in REMOVED.lines() {
            let (name, sentence) = line.split_once(" | ").unwrap();
            assert!(!sentence.is_empty() && names.insert(name), "{line}");
            let error = SettingKey::named(name).unwrap_err();
            assert!(error.message().ends_with(sentence), "{error}");
        }
    }

    #[test]
    fn unknown_names_suggest_known_ones() {
        for (name, meant) in cases(include_str!("key_cases.txt")) {
            let error = SettingKey::named(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(meant), "{error}");
        }
    }

    #[test]
    fn stored_values_are_valid_and_not_credentials() {
        let model = SettingKey::named("llm.model").unwrap();
        assert_eq!(model.check_stored(" gpt-x ").unwrap(), "gpt-x");
        let long = "m".repeat(257);
        let many = "groq,".repeat(401);
        let others = [
            ("llm.model", " ".to_owned(), "unset it"),
            ("llm.model", long, "at most 256 characters"),
            ("llm.fallback", many, "at most 2000 characters"),
        ];
        let stored = cases(include_str!("stored_cases.txt")).into_iter();
        let stored = stored.map(|(setting, expected)| {
            let (name, value) = setting.split_once('=').unwrap();
            (name, unescaped(value), expected)
        });
        for (name, value, expected) in stored.chain(others) {
            let error = SettingKey::named(name)
                .unwrap()
                .check_stored(&value)
                .unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            let hidden = !error.message().contains("abcdef") && !error.message().contains("gsk_");
            assert!(hidden, "{error}");
        }
    }
}
