//! Files and batches of all APIs that have them. One store contains them and their progress; `rules/batches.json`
//! describes the format of each API, and the modules here reject invalid requests.

mod config;
mod create;
mod files;
mod form;
mod intake;
mod life;
mod names;
mod pause;
mod results;
mod send;
mod serve;
mod show;
mod stats;
mod store;
mod uploads;
mod wire;

#[cfg(test)]
mod anthropic_tests;
#[cfg(test)]
mod gemini_tests;
#[cfg(test)]
mod openai_tests;
#[cfg(test)]
mod test_kit;
#[cfg(test)]
mod xai_tests;

use std::time::Duration;

use serde_json::Value;

pub use config::BatchConfig;
pub use pause::{BatchPoint, Pause};
pub use stats::{BatchSeen, BatchStats};
pub(super) use store::Store;

use intake::{Intake, Reading};
use life::Batch;
use results::{Results, Which};
use send::{Reply, Source};
use store::{Inner, Spoiled};
use wire::{TABLE, Wire};

use super::dialect::Dialect;
use super::http::{Address, Request, Target, Version, find};
use super::problems;
use super::prompt::{Fault, Problem};
use super::reply::Head;
use super::serve::{Connection, Next, Shared, is_in_its_place, name};
use super::template::Facts;
use super::{SimConfig, Vendor};

/// Maximum size of bodies that are read; the limits of the APIs are checked afterwards.
pub(super) fn body_limit(path: &str) -> usize {
    match path {
        "/v1/files" | "/v1/files/upload" => 513 << 20,
        "/v1/messages/batches" => 257 << 20,
        path if path.starts_with("/upload/") => (2 << 30) + (1 << 20),
        _ => 32 << 20,
    }
}

/// Whether a path is about files or batches, in whatever API.
pub(super) fn owns(path: &str) -> bool {
    let below = |start: &str| {
        let rest = path.strip_prefix(start);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let places = [
        "/v1/files",
        "/v1/batches",
        "/v1/batch/jobs",
        "/v1/messages/batches",
        "/v1beta/files",
        "/v1beta/batches",
        "/upload/v1beta/files",
        "/download/v1beta/files",
    ];
    places.into_iter().any(below)
        || path.starts_with("/v1beta/models/") && path.ends_with(":batchGenerateContent")
}

/// The APIs that have batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
enum Family {
    OpenAi,
    Groq,
    Xai,
    Anthropic,
    Gemini,
}

impl Family {
    fn of(path: &str, groq: bool, vendor: Option<Vendor>) -> Option<Family> {
        if path.starts_with("/v1/messages/") {
            return Some(Family::Anthropic);
        }
        if !path.starts_with("/v1/") {
            return Some(Family::Gemini);
        }
        match (groq, vendor) {
            (_, Some(Vendor::Azure)) => Some(Family::OpenAi),
            (true, _) | (_, Some(Vendor::Groq)) => Some(Family::Groq),
            (_, None | Some(Vendor::OpenAi | Vendor::DeepInfra)) => Some(Family::OpenAi),
            (_, Some(Vendor::Xai)) => Some(Family::Xai),
            (_, Some(_)) => None,
        }
    }

    fn dialect(self, config: &SimConfig) -> Dialect {
        match self {
            Family::OpenAi => Dialect::OpenAi(config.vendor),
            Family::Groq => Dialect::OpenAi(Some(Vendor::Groq)),
            Family::Xai => Dialect::OpenAi(Some(Vendor::Xai)),
            Family::Anthropic => Dialect::Anthropic,
            Family::Gemini => Dialect::Gemini,
        }
    }

    /// Its name in the tables.
    fn name(self) -> &'static str {
        self.into()
    }

    fn wire(self) -> &'static Wire {
        &TABLE[self.name()]
    }

    fn max_requests(self, config: &BatchConfig) -> u64 {
        let usual = self.wire().max_requests;
        config.max_requests.or(usual).unwrap_or(u64::MAX)
    }

    fn max_bytes(self, config: &BatchConfig) -> u64 {
        let usual = self.wire().max_bytes;
        config.max_bytes.unwrap_or(usual)
    }
}

/// Why a request fails.
#[derive(Debug)]
enum Refusal {
    Problem(Problem<'static>),
    Told {
        status: u16,
        message: String,
        /// Whether no correct client sends such a request.
        malformed: bool,
    },
    /// There is no such call.
    Nowhere,
}

impl Refusal {
    /// Something a correct client does not send.
    fn bad(status: u16, message: impl Into<String>) -> Refusal {
        Refusal::Told {
            status,
            message: message.into(),
            malformed: true,
        }
    }

    /// Something that can happen to anyone.
    fn told(status: u16, message: impl Into<String>) -> Refusal {
        Refusal::Told {
            status,
            message: message.into(),
            malformed: false,
        }
    }

    fn missing(what: &str, id: &str) -> Refusal {
        Refusal::told(404, format!("No such {what}: '{id}'."))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::Problem(Problem::Fault(fault))
    }
}

type Outcome = Result<Reply, Refusal>;

/// One request, and the simulator that serves it.
struct Desk<'a> {
    shared: &'a Shared,
    family: Family,
    dialect: Dialect,
    version: Version,
    method: &'a str,
    address: &'a Address,
    headers: &'a [(String, String)],
}

impl Desk<'_> {
    fn config(&self) -> &SimConfig {
        &self.shared.config
    }

    fn batches(&self) -> &BatchConfig {
        &self.shared.config.batches
    }

    /// A header; empty if it is missing.
    fn header(&self, name: &str) -> &str {
        find(self.headers, name).unwrap_or_default()
    }

    /// Whether it is Azure's idea of OpenAI's batches.
    fn is_azure(&self) -> bool {
        self.config().vendor == Some(Vendor::Azure)
    }

    fn pass(&self, point: BatchPoint) {
        let Shared { batches, gate, .. } = self.shared;
        batches.pauses.pass(point, gate);
    }

    fn with<R>(&self, work: impl FnOnce(&mut Inner, Duration) -> R) -> R {
        self.shared.batches.with(self.shared, work)
    }

    /// How this API shows batches.
    fn wire(&self) -> &'static Wire {
        match self.family {
            Family::OpenAi if self.is_azure() => &TABLE["azure"],
            family => family.wire(),
        }
    }

    /// Milliseconds since the epoch.
    fn millis(&self, time: Duration) -> u64 {
        self.shared.epoch * 1_000 + time.as_millis() as u64
    }

    /// Seconds since the epoch.
    fn unix(&self, time: Duration) -> u64 {
        self.shared.epoch + time.as_secs()
    }

    /// Reads a body of JSON.
    fn json(&self, body: &[u8]) -> Result<Value, Refusal> {
        serde_json::from_slice(body).map_err(|_| Fault::NotJson.into())
    }

    /// How requests that go to this endpoint are read.
    fn reading<'r>(&'r self, endpoint: &'r str, model: &'r str) -> Reading<'r> {
        Reading {
            family: self.family,
            dialect: self.dialect,
            endpoint,
            version: self.version,
            model,
            config: self.config(),
        }
    }

    fn no_file(&self, id: &str) -> Refusal {
        Refusal::missing(&self.wire().file_word, id)
    }

    /// The answer once something has been deleted.
    fn deleted(&self, template: &Value, id: &str) -> Reply {
        let mut facts = Facts::default();
        facts.set("id", id);
        Reply::Json(facts.fill(template))
    }

    /// Counts a rejected request, appends its body and returns its status.
    fn refuse(&self, out: &mut Vec<u8>, refusal: &Refusal) -> u16 {
        let ledger = &self.shared.ledger;
        match refusal {
            Refusal::Problem(problem) => {
                if let Problem::Fault(_) = problem {
                    ledger.malformed();
                }
                self.dialect.problem(out, problem, 0)
            }
            Refusal::Told {
                status,
                message,
                malformed,
            } => {
                if *malformed {
                    ledger.malformed();
                }
                problems::write_batch(out, self.dialect.vendor_name(), *status, message);
                *status
            }
            Refusal::Nowhere => 404,
        }
    }

    /// Checks the requests of a batch against the rules for whole batches.
    fn accept(&self, mut intake: Intake) -> Intake {
        let most = self.family.max_requests(self.batches());
        if intake.items.len() as u64 > most {
            intake.malformed = true;
            let message = format!("The batch has more than {most} requests.");
            intake.fail(None, "too_many_requests", message);
        }
        if intake.malformed {
            self.shared.ledger.malformed();
        }
        intake
    }

    /// Creates a batch and returns it, unless the reply is lost on purpose or the queue is full.
    fn create(&self, plan: life::Plan, tell: impl FnOnce(&Batch, Duration) -> Value) -> Outcome {
        let told = self.with(|inner, now| {
            if matches!(self.family, Family::Anthropic | Family::Gemini)
                && let Some(model) = inner.too_many_tokens(&plan, now, self.batches())
            {
                let message = format!("Too many tokens of batches are enqueued for {model}.");
                return Err(Refusal::told(429, message));
            }
            let place = inner.create(plan, now, self.config());
            Ok(place.map(|place| tell(&inner.batches[place], now)))
        })?;
        self.pass(BatchPoint::CreateDone);
        Ok(told.map_or(Reply::Nothing, Reply::Json))
    }

    /// Returns the description of one batch.
    fn status(&self, id: &str, tell: impl FnOnce(&Batch, Duration) -> Value) -> Outcome {
        self.pass(BatchPoint::StatusArrived);
        self.with(|inner, now| {
            inner.counts.statuses += 1;
            let place = inner.batch(self.family, id)?;
            Ok(Reply::Json(tell(&inner.batches[place], now)))
        })
    }

    /// Cancels a batch that is not over.
    fn cancel(&self, id: &str, tell: impl FnOnce(&Batch, Duration) -> Value) -> Outcome {
        self.pass(BatchPoint::CancelArrived);
        let told = self.with(|inner, now| {
            inner.counts.cancels += 1;
            let place = inner.batch(self.family, id)?;
            let batch = &mut inner.batches[place];
            let phase = batch.phase(now, self.batches());
            if phase.is_over() {
                let message = format!("Cannot cancel a batch with status '{}'.", phase.name());
                return Err(Refusal::told(400, message));
            }
            batch.cancelled.get_or_insert(now);
            Ok(tell(batch, now))
        })?;
        self.pass(BatchPoint::CancelDone);
        Ok(Reply::Json(told))
    }

    /// Whether the results of a batch that ended then are still there.
    fn is_kept(&self, ended: Duration, now: Duration) -> bool {
        let retention = self.batches().retention;
        retention.is_none_or(|retention| now < ended + retention)
    }

    /// The results of a batch as a download.
    fn results(&self, inner: &mut Inner, place: usize, which: Which) -> Reply {
        let spoiled = inner.next_download();
        let batch = &inner.batches[place];
        let created = self.unix(batch.created);
        let mut results = Results::new(batch, self.config(), which, created);
        if spoiled == Spoiled::Short {
            results.shorten();
        }
        Reply::Download(Source::Lines(results), spoiled)
    }
}

impl Connection<'_> {
    /// Answers a request for files or batches.
    pub(super) fn batch(&mut self, mut request: Request<'_>) -> Next {
        let Target::Batch(address) = &request.target else {
            return Next::Close;
        };
        let address = address.clone();
        let shared = self.shared;
        if !is_in_its_place(&request, &shared.config) {
            return self.nowhere(&request, &address.path);
        }
        let Some(family) = Family::of(&address.path, request.groq, shared.config.vendor) else {
            return self.nowhere(&request, &address.path);
        };
        let body = std::mem::take(&mut request.upload);
        let desk = Desk {
            shared,
            family,
            dialect: family.dialect(&shared.config),
            version: request.version,
            method: name(&request.method),
            address: &address,
            headers: &request.headers,
        };
        let outcome = if shared.is_loading(shared.now()) {
            Err(Refusal::Problem(Problem::Loading))
        } else {
            let admitted = desk.dialect.admit(&request, &shared.config);
            admitted
                .map_err(Refusal::Problem)
                .and_then(|()| serve::serve(&desk, body))
        };
        let close = request.close;
        let (status, extra) = match outcome {
            Ok(Reply::Nothing) => return Next::Close,
            Ok(Reply::Download(source, spoiled)) => {
                let sent = send::download(shared, self.stream, family, &source, spoiled, close);
                return if sent.is_err() || close {
                    Next::Close
                } else {
                    Next::Keep
                };
            }
            Err(Refusal::Nowhere) => return self.nowhere(&request, &address.path),
            Ok(Reply::Json(value)) => {
                let _ = serde_json::to_writer(&mut self.body, &value);
                (200, None)
            }
            Ok(Reply::Headed(header, value)) => {
                if let Some(value) = value {
                    let _ = serde_json::to_writer(&mut self.body, &value);
                }
                (200, Some(header))
            }
            Err(refusal) => (desk.refuse(&mut self.body, &refusal), None),
        };
        let head = Head {
            dialect: desk.dialect,
            close,
            extra,
            of_batches: true,
            ..Head::status(status)
        };
        head.write(&mut self.out, &self.body);
        if self.send().is_err() || close {
            return Next::Close;
        }
        Next::Keep
    }
}
