//! Errors, and their bodies and statuses, from the vendors' entries in `rules/problems.json`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::limits::Denial;
use super::rules::{self, Fault};
use super::template::{Facts, reason};
use super::{SimConfig, Trouble};

/// Each vendor's errors. A problem has several names, from the most general to its own. If a vendor has entries for
/// several of them, the most specific entry applies.
static TABLE: LazyLock<Table> =
    LazyLock::new(|| rules::table("problems", include_str!("../rules/problems.json")));

/// The vendors by name.
#[derive(Debug, Deserialize)]
struct Table(BTreeMap<String, Words>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// The vendor whose entries apply where this one has none.
    like: Option<String>,
    /// The body of problems whose entry has no body.
    body: Option<Value>,
    #[serde(default)]
    problems: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    status: Option<u16>,
    message: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<String>,
    body: Option<Value>,
}

impl Table {
    /// A vendor and the vendors it is like.
    fn chain<'t>(&'t self, name: &str) -> impl Iterator<Item = &'t Words> {
        let like = |vendor: &&Words| self.0.get(vendor.like.as_deref()?);
        std::iter::successors(self.0.get(name), like)
    }

    /// The entry of the first vendor in the chain that has one, for the most specific name.
    fn find<'t, T>(
        &'t self,
        name: &str,
        kinds: &[Cow<'static, str>],
        get: impl Fn(&'t Entry) -> Option<T>,
    ) -> Option<T> {
        self.chain(name).find_map(|vendor| {
            let kinds = kinds.iter().rev();
            kinds
                .filter_map(|kind| vendor.problems.get(&**kind))
                .find_map(&get)
        })
    }

    /// The status and the body of an error of the vendor with this name.
    fn reply(&self, problem: &Problem, name: &str, mut facts: Facts) -> (u16, Value) {
        let kinds = &problem.names;
        let status = self.find(name, kinds, |entry| entry.status);
        let status = status.unwrap_or(problem.status);
        facts.set("status", status);
        facts.set("reason", reason(status));
        let code = self.find(name, kinds, |entry| entry.code.as_ref());
        let kind = self.find(name, kinds, |entry| entry.kind.as_ref());
        let message = self.find(name, kinds, |entry| entry.message.as_ref());
        for (field, text) in [("code", code), ("type", kind), ("message", message)] {
            let text = text.map(|text| facts.text(text));
            facts.set(field, text);
        }
        let body = self.find(name, kinds, |entry| entry.body.as_ref());
        let body = body.or_else(|| self.chain(name).find_map(|vendor| vendor.body.as_ref()));
        (status, facts.fill(body.unwrap_or(&Value::Null)))
    }
}

/// The status and the body of an error.
pub(super) fn reply(problem: &Problem, vendor: &str, call: u64) -> (u16, Value) {
    let mut facts = problem.facts.clone();
    facts.set("call", call);
    facts.set("delay", problem.wait.map(delay));
    TABLE.reply(problem, vendor, facts)
}

/// Why a call gets an error: its names in `rules/problems.json`, from the most general on, and the facts for its words.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) names: [Cow<'static, str>; 3],
    pub(super) facts: Facts,
    /// The status, unless the table has another.
    pub(super) status: u16,
    /// No correct client sends such a request.
    pub(super) malformed: bool,
    /// The wait that the client is asked for.
    pub(super) wait: Option<Duration>,
}

impl Problem {
    pub(super) fn new(general: &'static str, own: &'static str) -> Problem {
        Problem {
            names: ["any", general, own].map(Cow::from),
            facts: Facts::default(),
            status: 400,
            malformed: false,
            wait: None,
        }
    }

    pub(super) fn no_model(model: &str) -> Problem {
        let mut problem = Problem::new("no_model", "no_model");
        problem.facts.set("model", model);
        problem
    }

    /// A limit of requests or of tokens, or a trouble that pretends so.
    pub(super) fn rate(own: &'static str, bucket: &'static str, wait: Option<Duration>) -> Problem {
        let mut problem = Problem::new("rate", own);
        problem.facts.set("bucket", bucket);
        problem.wait = wait;
        problem
    }

    /// One of the simulator's own limits.
    pub(super) fn limited(denial: &Denial, model: &str) -> Problem {
        let own = match denial.bucket {
            "tokens" => "limited_tokens",
            _ => "limited_requests",
        };
        let mut problem = Problem::rate(own, denial.bucket, denial.wait);
        problem.facts.set("message", denial.message(model));
        problem
    }

    /// Something a correct client does not send.
    pub(super) fn bad(status: u16, message: impl Into<String>) -> Problem {
        Problem {
            malformed: true,
            ..Problem::told(status, message)
        }
    }

    pub(super) fn missing(what: &str, id: &str) -> Problem {
        Problem::told(404, format!("No such {what}: '{id}'."))
    }

    /// There is no such address. Only a request that sends something counts as malformed.
    pub(super) fn nowhere(method: &str, path: &str) -> Problem {
        let message = format!("Invalid URL ({method} {path})");
        Problem {
            malformed: method == "POST",
            ..Problem::told(404, message)
        }
    }

    /// Something that can happen to anyone: an error that is not of a call.
    pub(super) fn told(status: u16, message: impl Into<String>) -> Problem {
        let mut problem = Problem::new("batch", "batch");
        problem.names[0] = "batch".into();
        problem.names[2] = format!("batch_{status}").into();
        problem.status = status;
        problem.facts.set("message", message.into());
        problem
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        let mut problem = Problem::new("fault", fault.kind);
        problem.malformed = true;
        let dotted = fault.at.replace('[', ".").replace(']', "");
        let param = Some(fault.at.as_str()).filter(|at| !at.is_empty());
        problem.facts.set("param", param);
        problem.facts.set("dotted", dotted);
        problem.facts.set("message", fault.message);
        problem.facts.set("at", fault.at);
        problem
    }
}

/// The error for `kind`; `None` for kinds that are not errors of the API. `at` is the field that a bad request names.
pub(super) fn of(
    kind: Trouble,
    config: &SimConfig,
    model: &str,
    at: &'static str,
) -> Option<Problem> {
    let wait = |seconds| Some(config.retry_after.unwrap_or(Duration::from_secs(seconds)));
    let mut problem = match kind {
        Trouble::UnknownModel => Problem::no_model(model),
        Trouble::Error500 => Problem::new("server_error", "server_error"),
        Trouble::Error503 => Problem {
            wait: wait(2),
            ..Problem::new("overload", "unavailable")
        },
        Trouble::Overloaded => Problem::new("overload", "overloaded"),
        Trouble::RateLimit => Problem::rate("rate_limit", "requests", wait(1)),
        Trouble::Quota => Problem::new("no_credit", "no_credit"),
        Trouble::Unauthorized => Problem::new("key", "wrong_key"),
        Trouble::BadRequest => Problem::new("bad_prompt", "bad_prompt"),
        _ => return None,
    };
    if kind == Trouble::BadRequest {
        problem.facts.set("param", at);
    }
    Some(problem)
}

/// Decimal seconds, as protocol buffers write a duration.
fn delay(wait: Duration) -> String {
    let text = format!("{}.{:09}", wait.as_secs(), wait.subsec_nanos());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}
