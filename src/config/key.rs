//! The table of settings.

use std::fmt;

use crate::base::error::{Error, ErrorKind};
use crate::base::names::closest;

use super::choices::{
    DEDUPES, ERROR_POLICIES, ON_UNKNOWN, PROVIDERS, SANDBOX_MODES, SCALE_SCOPES, STRATEGIES,
};
use super::credential;
use super::value::{Kind, Value};

/// One setting that there is.
pub struct SettingKey {
    name: &'static str,
    /// Looked at in this order.
    variables: &'static [&'static str],
    kind: Kind,
    default: Default,
    doc: &'static str,
}

/// What holds where nothing is set.
enum Default {
    /// A value.
    Is(&'static str),
    /// A rule, in words.
    Rule(&'static str),
}

use Default::{Is, Rule};

/// A route has 32 steps, and the first is taken.
const MOST_FALLBACKS: usize = 31;
/// Longest value that is stored, in characters; the first of one that is a name.
const LONGEST_TEXT: usize = 256;
const LONGEST: usize = 2_000;
/// Each call in flight has a thread, and beyond this a process may run out of mappings, which ends
/// it without a word.
const MOST_CALLS: u64 = 10_000;
/// The most commands at once, unless a setting says otherwise.
const COMMANDS_AT_ONCE: &str = "10";

const fn key(
    name: &'static str,
    variables: &'static [&'static str],
    kind: Kind,
    default: Default,
    doc: &'static str,
) -> SettingKey {
    SettingKey {
        name,
        variables,
        kind,
        default,
        doc,
    }
}

static KEYS: &[SettingKey] = &[
    key(
        "llm.provider",
        &["BATCHWRIGHT_PROVIDER"],
        Kind::Choice(&PROVIDERS),
        Rule("the first usable one"),
        "Provider to use first",
    ),
    key(
        "llm.model",
        &["BATCHWRIGHT_MODEL"],
        Kind::Text,
        Rule("none; a local server's first"),
        "Model for prompts that name none; changing it runs nothing again",
    ),
    key(
        "llm.bulk_strategy",
        &["BATCHWRIGHT_BULK_STRATEGY"],
        Kind::Choice(&STRATEGIES),
        Is("sync"),
        "How to send queued prompts: as individual calls, or through the provider's Batch API",
    ),
    key(
        "llm.dedupe",
        &["BATCHWRIGHT_DEDUPE"],
        Kind::Choice(&DEDUPES),
        Is("auto"),
        "Which identical requests of a run are sent once: those with temperature 0 and embeddings (auto), all, or none",
    ),
    key(
        "llm.sync_concurrency",
        &["BATCHWRIGHT_SYNC_CONCURRENCY"],
        Kind::WholeOrAuto(1, MOST_CALLS),
        Rule(
            "auto for run: from 5 up to 256; local its slots or 1; work 5 or a larger queue.max_workers",
        ),
        "Maximum calls in flight at a provider; auto adapts it to throughput and rejected calls",
    ),
    key(
        "llm.max_concurrent_requests",
        &["AI_MAX_CONCURRENT_REQUESTS"],
        Kind::Whole(1, MOST_CALLS),
        Is("10"),
        "Maximum calls in flight of a queue worker, for all its providers together; a larger queue.max_workers raises the default",
    ),
    key(
        "llm.fallback",
        &["BATCHWRIGHT_FALLBACK"],
        Kind::Route(&PROVIDERS, MOST_FALLBACKS),
        Rule("none for prompts; groq,anthropic,extract for other job types"),
        "Providers to try when the first one fails an item permanently",
    ),
    key(
        "llm.fallback_enabled",
        &["AI_FALLBACK_ENABLED"],
        Kind::Switch,
        Is("true"),
        "Whether llm.fallback is used; --fallback always is",
    ),
    key(
        "llm.request_timeout",
        &["AI_REQUEST_TIMEOUT"],
        Kind::Time,
        Rule("600s for prompts"),
        "Time limit of one call",
    ),
    key(
        "llm.max_reply_mib",
        &[],
        Kind::Whole(1, 4_096),
        Rule("16; 64 for vectors"),
        "Maximum size of the reply to one call, in MiB",
    ),
    key(
        "llm.max_replies_mib",
        &[],
        Kind::Whole(1, 1_048_576),
        Is("256"),
        "Memory limit for the large replies of all calls in flight together, in MiB; above it they spill to temporary files",
    ),
    key(
        "llm.requests_per_minute",
        &["RATE_LIMIT_REQUESTS_PER_MINUTE"],
        Kind::Positive,
        Rule("learned from the provider's replies"),
        "Requests per minute at the first provider",
    ),
    key(
        "llm.tokens_per_minute",
        &["RATE_LIMIT_TOKENS_PER_MINUTE"],
        Kind::Positive,
        Rule("learned from the provider's replies"),
        "Tokens per minute at the first provider",
    ),
    key(
        "llm.burst_size",
        &["RATE_LIMIT_BURST_SIZE"],
        Kind::Whole(1, 1_000_000),
        Is("10"),
        "Calls that may start at once under a rate limit, and before a provider's first reply",
    ),
    key(
        "llm.max_rate_limit_wait",
        &[],
        Kind::Time,
        Is("60m"),
        "Longest Retry-After of a rate limit (429) that is obeyed; if a provider requests a longer wait and answers no other call, it is not called again in this run",
    ),
    key(
        "llm.max_retry_after",
        &[],
        Kind::Time,
        Is("10m"),
        "Longest Retry-After of other failures that is obeyed; if a provider requests a longer wait, the next one is called, or this one after this time",
    ),
    key(
        "queue.redis",
        &[],
        Kind::Redis,
        Rule("none"),
        "Redis or Valkey of a queue on a database server, without a password, which comes from BATCHWRIGHT_REDIS_PASSWORD or a file; --redis and BATCHWRIGHT_REDIS override it; running commands keep theirs",
    ),
    key(
        "queue.store",
        &[],
        Kind::Store,
        Rule("the file llm_jobs.db in the data folder"),
        "Database server of the queue, without a password, which comes from BATCHWRIGHT_STORE_PASSWORD or a file; stored in the data folder and read when a command starts; --store and BATCHWRIGHT_STORE override it",
    ),
    key(
        "queue.worker_count",
        &["JOB_QUEUE_WORKER_COUNT"],
        Kind::Whole(1, MOST_CALLS),
        Is("5"),
        "Slots of a queue worker at its start; a value above queue.max_workers raises that",
    ),
    key(
        "queue.min_workers",
        &[],
        Kind::Whole(1, MOST_CALLS),
        Is("1"),
        "Minimum slots of a queue worker, on a busy machine",
    ),
    key(
        "queue.max_workers",
        &[],
        Kind::Whole(1, MOST_CALLS),
        Is("10"),
        "Maximum slots of a queue worker",
    ),
    key(
        "queue.max_cpu_percent",
        &[],
        Kind::Whole(1, 100),
        Is("70"),
        "Processor use above which a queue worker reduces its slots",
    ),
    key(
        "queue.max_memory_percent",
        &[],
        Kind::Whole(1, 100),
        Is("80"),
        "Memory use above which a queue worker reduces its slots",
    ),
    key(
        "scale.scope",
        &["BATCHWRIGHT_SCALE_SCOPE"],
        Kind::Choice(&SCALE_SCOPES),
        Is("machine"),
        "Which load reduces the slots of a queue worker: that of the whole machine, or only load of which this OS process causes a tenth or more",
    ),
    key(
        "queue.max_retries",
        &["JOB_QUEUE_MAX_RETRIES"],
        Kind::Whole(0, 255),
        Is("3"),
        "Retries of a job at each provider, unless the job sets its own number",
    ),
    key(
        "queue.batch_size",
        &["JOB_QUEUE_BATCH_SIZE"],
        Kind::Whole(1, 10_000),
        Is("10"),
        "Jobs claimed with one access to the store",
    ),
    key(
        "queue.poll_interval",
        &["JOB_QUEUE_POLL_INTERVAL"],
        Kind::Time,
        Is("5s"),
        "How often an idle queue worker checks for jobs if nothing wakes it",
    ),
    key(
        "jobs.models",
        &["BATCHWRIGHT_JOB_MODELS"],
        Kind::Models(&PROVIDERS),
        Rule("none"),
        "Models for job types such as summarize, by provider; used if llm.model and llm.fallback name none",
    ),
    key(
        "jobs.articles",
        &["BATCHWRIGHT_ARTICLES"],
        Kind::Articles,
        Rule("none: a payload brings the text as content"),
        "Source of the text of an article_id for summarize and generate_podcast: a folder, a SQLite query or a URL",
    ),
    key(
        "jobs.articles_private",
        &["BATCHWRIGHT_ARTICLES_PRIVATE"],
        Kind::Switch,
        Is("false"),
        "Whether the URL of jobs.articles may use private addresses and http://",
    ),
    key(
        "batch.poll_interval",
        &["BATCHWRIGHT_BATCH_POLL_INTERVAL"],
        Kind::Time,
        Rule("10s for a new batch to 5m for an old one"),
        "How often the status of a batch is polled",
    ),
    key(
        "batch.reconcile_wait",
        &["BATCHWRIGHT_BATCH_RECONCILE_WAIT"],
        Kind::Time,
        Is("300s"),
        "How long to look for a batch at the provider if its creation got no reply",
    ),
    key(
        "batch.results_wait",
        &["BATCHWRIGHT_BATCH_RESULTS_WAIT"],
        Kind::Time,
        Is("600s"),
        "How long --until-empty and run wait for missing results of an ended batch",
    ),
    key(
        "batch.on_unknown",
        &["BATCHWRIGHT_BATCH_ON_UNKNOWN"],
        Kind::Choice(&ON_UNKNOWN),
        Rule("resubmit where the input can be deleted first, else hold"),
        "What to do with a batch that was not found within batch.reconcile_wait",
    ),
    key(
        "batch.transfer_idle_timeout",
        &[],
        Kind::Time,
        Is("60s"),
        "How long an upload or download may make no progress; its total time is not limited",
    ),
    key(
        "reuse.max_mib",
        &[],
        Kind::Whole(1, 1_048_576),
        Is("1024"),
        "Size limit of the answer cache of run --reuse, in MiB; the answers that were unused for longest are removed first",
    ),
    key(
        "exec.concurrency",
        &["BATCHWRIGHT_EXEC_CONCURRENCY"],
        Kind::WholeUpTo("exec.max_concurrency", COMMANDS_AT_ONCE),
        Is("5"),
        "Number of commands at once, up to exec.max_concurrency",
    ),
    key(
        "exec.max_concurrency",
        &[],
        Kind::Whole(1, MOST_CALLS),
        Is(COMMANDS_AT_ONCE),
        "Upper limit for exec.concurrency",
    ),
    key(
        "exec.rate",
        &[],
        Kind::Rate,
        Rule("as fast as slots come free"),
        "Maximum start rate of commands; starts are evenly spaced",
    ),
    key(
        "exec.on_error",
        &[],
        Kind::Choice(&ERROR_POLICIES),
        Is("continue"),
        "What to do when a command fails",
    ),
    key(
        "exec.sandbox",
        &["BATCHWRIGHT_EXEC_SANDBOX"],
        Kind::Choice(&SANDBOX_MODES),
        Is("on"),
        "How strictly the kernel must enforce the sandbox of commands",
    ),
];

impl SettingKey {
    /// Every setting, in the order of the documentation.
    pub fn all() -> &'static [SettingKey] {
        KEYS
    }

    /// The setting of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there is none, with those that were perhaps meant and the list;
    /// for a credential, with the environment variable that takes it.
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

    /// The environment variables that override what is stored; the first that is set counts.
    pub fn variables(&self) -> &'static [&'static str] {
        self.variables
    }

    /// What it is for, in a line.
    pub fn doc(&self) -> &'static str {
        self.doc
    }

    /// What holds where nothing is set: a value, or a rule in words.
    pub fn default_text(&self) -> &'static str {
        match self.default {
            Is(text) | Rule(text) => text,
        }
    }

    /// The default where it is a value.
    pub(super) fn default_value(&self) -> Option<&'static str> {
        match self.default {
            Is(value) => Some(value),
            Rule(_) => None,
        }
    }

    /// Whether only the owner of the machine may change it, and no client of a server: it names files and addresses
    /// that the program reads.
    pub fn is_local(&self) -> bool {
        self.name.starts_with("jobs.articles")
            || ["queue.redis", "queue.store"].contains(&self.name)
    }

    /// What it takes, such as `a whole number from 1 to 100`.
    pub fn accepts(&self) -> String {
        self.kind.accepts()
    }

    /// The value without blanks around it, if it is one that this setting takes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with what is accepted.
    pub fn check(&self, value: &str) -> Result<String, Error> {
        let parsed = self.parse(value);
        parsed.map_err(|why| Error::new(ErrorKind::Invalid, why))?;
        Ok(value.trim().to_owned())
    }

    /// As [`check`](Self::check), for what is to be stored: neither nothing nor what looks like an
    /// API key, without control characters, and no longer than 256 characters (a list: 2000).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with what is accepted.
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

impl fmt::Debug for SettingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SettingKey").field(&self.name).finish()
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

/// The settings that were perhaps meant: by their variable, a slip, or a part of the name.
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
    let last = |key: &SettingKey| key.name.rsplit('.').next().unwrap_or_default();
    let slip = if KEYS.iter().any(|key| last(key) == own) {
        Some(own)
    } else {
        closest(own, KEYS.iter().map(last))
    };
    let part = |key: &&SettingKey| match slip {
        Some(meant) => last(key) == meant,
        None => own.len() > 2 && last(key).contains(own),
    };
    KEYS.iter()
        .filter(part)
        .map(|key| key.name)
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

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
    }

    #[test]
    fn unknown_names_lead_to_known_ones() {
        for (name, meant) in [
            (
                "llm.modle",
                "did you mean llm.model? expected one of: llm.provider, llm.model,",
            ),
            ("LLM.Model", "did you mean llm.model?"),
            ("BATCHWRIGHT_MODEL", "did you mean llm.model?"),
            ("model", "did you mean llm.model?"),
            ("queue.modle", "did you mean llm.model?"),
            ("llm.request-timeout", "did you mean llm.request_timeout?"),
            (
                "timeout",
                "did you mean llm.request_timeout or batch.transfer_idle_timeout?",
            ),
            (
                "workers",
                "did you mean queue.min_workers or queue.max_workers?",
            ),
            (
                "colour",
                "unknown setting `colour`; expected one of: llm.provider",
            ),
            ("groq.api_key", "never stored: set GROQ_API_KEY"),
        ] {
            let error = SettingKey::named(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(meant), "{error}");
        }
    }

    #[test]
    fn what_is_stored_is_sound_and_no_credential() {
        let model = SettingKey::named("llm.model").unwrap();
        assert_eq!(model.check_stored(" gpt-x ").unwrap(), "gpt-x");
        for (name, value, expected) in [
            ("llm.model", "sk-abcdefghijkl", "set OPENAI_API_KEY"),
            ("llm.sync_concurrency", "gsk_0123456789", "set GROQ_API_KEY"),
            (
                "queue.redis",
                "redis://:abcdef@cache",
                "set BATCHWRIGHT_REDIS_PASSWORD",
            ),
            (
                "queue.store",
                "mysql://me:abcdef@db/jobs",
                "set BATCHWRIGHT_STORE_PASSWORD",
            ),
            ("llm.model", " ", "unset it"),
            ("llm.model", "a\0b", "control character"),
            ("llm.model", &"m".repeat(257), "at most 256 characters"),
            (
                "llm.fallback",
                &"groq,".repeat(401),
                "at most 2000 characters",
            ),
            ("llm.fallback", "", "unset it"),
            (
                "queue.max_cpu_percent",
                "101",
                "queue.max_cpu_percent=101: write a whole number from 1 to 100",
            ),
        ] {
            let error = SettingKey::named(name)
                .unwrap()
                .check_stored(value)
                .unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            let hidden = !error.message().contains("abcdef") && !error.message().contains("gsk_");
            assert!(hidden, "{error}");
        }
    }
}
