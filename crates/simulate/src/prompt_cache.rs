//! Caches of the beginnings of prompts, by time and prefix, as Anthropic and OpenAI document them.
//!
//! - Anthropic ("Prompt caching"): a request marks up to four points in its tools, system text and messages, in this
//!   order. The longest marked beginning that is in the cache is read; the rest up to the last mark is written, for 5
//!   minutes or an hour. Each use renews that time. An entry is there when the reply of the request that writes it begins.
//!   Beginnings below a minimum, which depends on the model, are not cached.
//! - OpenAI ("Prompt caching"): prompts of 1,024 tokens or more are cached in steps of 128 tokens, without a mark and for 5
//!   minutes after their last use. From GPT-5.6 on, a prompt is cached up to the end of its last message instead, for 30
//!   minutes, unless the request names the points itself; writing is billed and reported.
//!
//! Tokens are counted as elsewhere here: one for every four bytes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

use super::dialect::Dialect;
use super::prompt::CacheUse;
use super::{SimConfig, Vendor};

/// A point up to which a prompt can be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// The hash of everything before it, and of the model.
    hash: u64,
    tokens: u64,
    lifetime: Duration,
}

/// The points of a prompt, from the first to the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Points {
    list: Vec<Point>,
    /// Whether writing is billed and reported.
    is_billed: bool,
}

/// How long OpenAI keeps what Anthropic keeps for the shorter time.
const MINUTES: Duration = Duration::from_secs(300);
/// How long OpenAI keeps what models from GPT-5.6 on have written.
const HALF_HOUR: Duration = Duration::from_secs(1800);
const HOUR: Duration = Duration::from_secs(3600);
const STEP: u64 = 128;
/// Tokens of a byte.
const BYTES: u64 = 4;

/// The entries, with the time at which each is dropped. The time of caches may pass faster than that of the simulator.
#[derive(Debug, Default)]
pub(super) struct PromptCaches(Mutex<HashMap<u64, Entry>>);

#[derive(Debug)]
struct Entry {
    lifetime: Duration,
    since: Duration,
    until: Duration,
}

impl Entry {
    fn is_at(&self, now: Duration) -> bool {
        self.since <= now && now < self.until
    }
}

impl PromptCaches {
    /// The points of a request in this body, and what it does with the cache, if the simulator has one.
    pub(super) fn ask(
        &self,
        dialect: Dialect,
        body: &[u8],
        config: &SimConfig,
        now: Duration,
    ) -> Option<(Points, CacheUse)> {
        if !config.prompt_caches {
            return None;
        }
        let request = serde_json::from_slice(body).ok()?;
        let points = match dialect {
            Dialect::Anthropic => anthropic(&request),
            Dialect::OpenAi(None | Some(Vendor::OpenAi | Vendor::Azure)) => openai(&request),
            _ => return None,
        };
        let used = self.read(&points, now * config.cache_speed);
        Some((points, used))
    }

    /// The reply of such a request begins.
    pub(super) fn reply(&self, points: &Points, config: &SimConfig, now: Duration) {
        self.write(points, now * config.cache_speed);
    }

    /// A request arrives: reads, and tells what it will write.
    fn read(&self, points: &Points, now: Duration) -> CacheUse {
        let mut entries = self.0.lock();
        let mut longest = 0;
        for point in &points.list {
            if let Some(entry) = entries
                .get_mut(&point.hash)
                .filter(|entry| entry.is_at(now))
            {
                entry.until = now + entry.lifetime;
                longest = point.tokens;
            }
        }
        let mut used = CacheUse {
            read: longest,
            ..CacheUse::default()
        };
        for point in points.list.iter().filter(|_| points.is_billed) {
            let new = point.tokens.saturating_sub(longest);
            longest = longest.max(point.tokens);
            used.written += new;
            used.written_1h += if point.lifetime == HOUR { new } else { 0 };
        }
        used
    }

    /// The reply of the request begins: what it wrote can be read.
    fn write(&self, points: &Points, now: Duration) {
        let mut entries = self.0.lock();
        for point in &points.list {
            let lifetime = point.lifetime;
            let until = now + lifetime;
            let new = Entry {
                lifetime,
                since: now,
                until,
            };
            let entry = entries.entry(point.hash).or_insert(new);
            if entry.until <= now {
                (entry.lifetime, entry.since) = (lifetime, now);
            }
            entry.since = entry.since.min(now);
            entry.until = entry.until.max(now + entry.lifetime);
        }
    }
}

/// Reads the points of a prompt.
struct Beginning {
    hasher: DefaultHasher,
    bytes: u64,
}

impl Beginning {
    fn of(model: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        Self { hasher, bytes: 0 }
    }

    fn add(&mut self, text: &str) {
        text.hash(&mut self.hasher);
        self.bytes += text.len() as u64;
    }

    fn point(&self, lifetime: Duration) -> Point {
        Point {
            hash: self.hasher.clone().finish(),
            tokens: self.bytes / BYTES,
            lifetime,
        }
    }
}

/// The points that a request for Anthropic marks.
fn anthropic(request: &Value) -> Points {
    let model = request["model"].as_str().unwrap_or_default();
    let mut beginning = Beginning::of(model);
    let mut list = Vec::new();
    let mut blocks = |content: &Value| {
        if let Some(text) = content.as_str() {
            return beginning.add(text);
        }
        for block in content.as_array().into_iter().flatten() {
            match block["text"].as_str() {
                Some(text) => beginning.add(text),
                None => beginning.add(&block.to_string()),
            }
            let mark = &block["cache_control"];
            if mark.is_object() {
                let lifetime = if mark["ttl"] == "1h" { HOUR } else { MINUTES };
                list.push(beginning.point(lifetime));
            }
        }
    };
    blocks(&request["tools"]);
    blocks(&request["system"]);
    for message in request["messages"].as_array().into_iter().flatten() {
        blocks(&message["content"]);
    }
    let least = least_at_anthropic(model);
    list.retain(|point| point.tokens >= least);
    Points {
        list,
        is_billed: true,
    }
}

/// The shortest beginning that a model of Anthropic caches, in tokens.
fn least_at_anthropic(model: &str) -> u64 {
    let is = |names: &[&str]| names.iter().any(|name| model.contains(name));
    if is(&["haiku-4-5", "opus-4-5", "opus-4-6"]) {
        4096
    } else if is(&["opus-4-7", "3-5-haiku", "3-haiku"]) {
        2048
    } else if is(&["opus-5", "fable-5"]) {
        512
    } else {
        1024
    }
}

/// The points of a chat request for OpenAI.
fn openai(request: &Value) -> Points {
    let model = request["model"].as_str().unwrap_or_default();
    let mut beginning = Beginning::of(model);
    let tools = request.get("tools").map(Value::to_string);
    let mut texts: Vec<(String, bool)> = tools.into_iter().map(|tools| (tools, false)).collect();
    for message in request["messages"].as_array().into_iter().flatten() {
        match &message["content"] {
            Value::String(text) => texts.push((text.clone(), false)),
            parts => {
                for part in parts.as_array().into_iter().flatten() {
                    let text = part["text"]
                        .as_str()
                        .map_or_else(|| part.to_string(), str::to_owned);
                    texts.push((text, part["prompt_cache_breakpoint"].is_object()));
                }
            }
        }
    }
    let mut list = Vec::new();
    if has_breakpoints(model) {
        let is_implicit = request["prompt_cache_options"]["mode"] != "explicit";
        for (at, (text, is_marked)) in texts.iter().enumerate() {
            beginning.add(text);
            if *is_marked || is_implicit && at + 1 == texts.len() {
                list.push(beginning.point(HALF_HOUR));
            }
        }
        list.retain(|point| point.tokens >= 1024);
        return Points {
            list,
            is_billed: true,
        };
    }
    let whole: Vec<u8> = texts
        .into_iter()
        .flat_map(|(text, _)| text.into_bytes())
        .collect();
    for step in whole.chunks_exact((STEP * BYTES) as usize) {
        step.hash(&mut beginning.hasher);
        beginning.bytes += step.len() as u64;
        let point = beginning.point(MINUTES);
        if point.tokens >= 1024 {
            list.push(point);
        }
    }
    Points {
        list,
        is_billed: false,
    }
}

/// Whether this is GPT-5.6 or a later model.
fn has_breakpoints(model: &str) -> bool {
    let version = model.strip_prefix("gpt-").unwrap_or_default();
    let number = version.split('-').next().unwrap_or_default();
    let mut parts = number.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 6),
        (Some(Ok(major)), None) => major > 5,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn marked(user: &str, ttl: &str) -> Points {
        let system = "x".repeat(8000);
        let mark = json!({"type": "ephemeral", "ttl": ttl});
        anthropic(&json!({"model": "claude-sonnet-5",
            "system": [{"type": "text", "text": system, "cache_control": mark}],
            "messages": [{"role": "user", "content": user}]}))
    }

    #[test]
    fn a_marked_beginning_is_written_once_and_then_read_until_it_is_not_used() {
        let caches = PromptCaches::default();
        let (first, second) = (marked("a", "5m"), marked("b", "5m"));
        let used = caches.read(&first, at(0));
        assert_eq!((used.read, used.written, used.written_1h), (0, 2000, 0));
        assert_eq!(caches.read(&second, at(1)).read, 0, "no reply has begun");
        caches.write(&first, at(2));
        for now in [3, 290, 580] {
            let used = caches.read(&second, at(now));
            assert_eq!((used.read, used.written), (2000, 0), "{now}");
        }
        assert_eq!(caches.read(&second, at(881)).read, 0);
    }

    #[test]
    fn an_hour_lasts_an_hour_and_short_beginnings_are_not_cached() {
        let caches = PromptCaches::default();
        let hour = marked("a", "1h");
        assert_eq!(caches.read(&hour, at(0)).written_1h, 2000);
        caches.write(&hour, at(0));
        assert_eq!(caches.read(&marked("b", "1h"), at(3599)).read, 2000);
        let short = anthropic(
            &json!({"model": "claude-haiku-4-5", "system": [{"type": "text",
            "text": "x".repeat(8000), "cache_control": {"type": "ephemeral"}}]}),
        );
        assert_eq!(short.list, []);
        let unmarked = anthropic(&json!({"model": "m", "system": "x".repeat(8000)}));
        assert_eq!(caches.read(&unmarked, at(0)), CacheUse::default());
    }

    #[test]
    fn openai_caches_in_steps_without_a_mark() {
        let caches = PromptCaches::default();
        let ask = |user: &str, bytes: usize| {
            openai(&json!({"model": "gpt-5", "messages": [
                {"role": "system", "content": "x".repeat(bytes)},
                {"role": "user", "content": user}]}))
        };
        let first = ask("a", 12_000);
        assert_eq!(caches.read(&first, at(0)), CacheUse::default());
        caches.write(&first, at(0));
        let used = caches.read(&ask("b", 12_000), at(1));
        assert_eq!((used.read, used.written), (2944, 0), "23 steps of 128");
        assert_eq!(ask("a", 4000).list, []);
    }

    #[test]
    fn explicit_breakpoints_limit_what_is_written() {
        let caches = PromptCaches::default();
        let ask = |user: &str| {
            openai(
                &json!({"model": "gpt-5.6", "prompt_cache_options": {"mode": "explicit"},
                "messages": [{"role": "system", "content": [{"type": "text",
                "text": "x".repeat(12_000), "prompt_cache_breakpoint": {"mode": "explicit"}}]},
                {"role": "user", "content": user}]}),
            )
        };
        assert_eq!(caches.read(&ask("a"), at(0)).written, 3000);
        caches.write(&ask("a"), at(0));
        assert_eq!(caches.read(&ask("b"), at(1)).read, 3000);
    }

    #[test]
    fn newer_models_write_every_long_prompt_that_names_no_point() {
        let caches = PromptCaches::default();
        let ask = |model: &str, user: &str| {
            openai(&json!({"model": model, "messages": [
                {"role": "system", "content": "x".repeat(12_000)},
                {"role": "user", "content": user}]}))
        };
        for model in ["gpt-5.6", "gpt-5.6-luna", "gpt-6"] {
            let first = ask(model, "abcd");
            assert_eq!(caches.read(&first, at(0)).written, 3001, "{model}");
            caches.write(&first, at(0));
            let other = caches.read(&ask(model, "efgh"), at(1));
            assert_eq!((other.read, other.written), (0, 3001), "{model}");
            assert_eq!(caches.read(&first, at(1799)).read, 3001, "{model}");
        }
        for model in ["gpt-5", "gpt-5.5", "gpt-4o", "gpt-oss-120b", "o3"] {
            assert!(!ask(model, "abcd").is_billed, "{model}");
        }
    }
}
