//! Local servers: which of the usual ones reply, which models they serve, and how many calls each processes at once.

use std::borrow::Cow;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, unbounded};
use serde::Serialize;
use serde_json::Value;

use crate::base::secret::{Address, redacted_url};
use crate::base::{Context, Error, ErrorKind};
use crate::llm::transport::{HttpReply, HttpRequest, HttpTransport, ReplyShare, Transport};

use super::config::MAX_REPLIES;
use super::local_reply::says_loading;
use super::remote::MAX_REPLY;

/// The usual addresses of local servers: llama.cpp (new and old port), Ollama, LM Studio, vLLM.
pub(super) const USUAL_ADDRESSES: [&str; 5] = [
    "http://127.0.0.1:9931/v1",
    "http://127.0.0.1:8080/v1",
    "http://127.0.0.1:11434/v1",
    "http://127.0.0.1:1234/v1",
    "http://127.0.0.1:8000/v1",
];
/// How long servers are waited for that nobody named.
pub(super) const BRIEF: Duration = Duration::from_millis(900);
/// How long a server that the user named is waited for: one that loads a model or is busy may reply late.
pub(super) const PATIENT: Duration = Duration::from_secs(5);
/// The maximum number of slots; a higher reported number is ignored.
const MOST_SLOTS: u64 = 256;

/// Whether a local server accepts prompts yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerState {
    /// It accepts prompts.
    Ready,
    /// It replies but still loads its model; a run waits for it.
    Loading,
}

/// A local server that was found.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LocalServer {
    /// Its address, without credentials.
    pub base_url: String,
    /// `llama.cpp`, `Ollama`, `LM Studio`, `vLLM`, or `OpenAI-compatible` for any other.
    pub server: &'static str,
    /// The models it lists, in its order.
    pub models: Vec<String>,
    /// The number of calls that it processes at once, if it reports it.
    pub slots: Option<usize>,
    /// Whether it accepts prompts yet.
    pub state: ServerState,
    #[serde(skip)]
    pub(super) address: Address,
}

impl LocalServer {
    /// A short description of the server and its state.
    pub fn description(&self) -> String {
        let who = match self.server {
            UNKNOWN => "an OpenAI-compatible server",
            name => name,
        };
        let does = match (self.state, &self.models[..]) {
            (ServerState::Loading, _) => "is loading its model".to_owned(),
            (_, []) => "answers, but lists no model".to_owned(),
            (_, models) if models.len() <= SHOWN => format!("serves {}", models.join(", ")),
            (_, models) => format!(
                "serves {} and {} more",
                models[..SHOWN].join(", "),
                models.len() - SHOWN
            ),
        };
        let slots = match self.slots {
            Some(1) => ", 1 slot".to_owned(),
            Some(n) => format!(", {n} slots"),
            None => String::new(),
        };
        format!("{who} {does}{slots}")
    }
}

/// The maximum number of model names in a description.
const SHOWN: usize = 3;
const UNKNOWN: &str = "OpenAI-compatible";

/// The requests that distinguish the servers; few servers reply to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// All servers.
    Models,
    /// llama.cpp.
    Props,
    /// Ollama.
    ApiVersion,
    /// LM Studio, newer and older.
    ApiV1Models,
    ApiV0Models,
    /// vLLM.
    Version,
}

const PROBES: [Probe; 6] = [
    Probe::Models,
    Probe::Props,
    Probe::ApiVersion,
    Probe::ApiV1Models,
    Probe::ApiV0Models,
    Probe::Version,
];

impl Probe {
    fn url(self, base: &str) -> String {
        let root = base.strip_suffix("/v1").unwrap_or(base);
        match self {
            Self::Models => format!("{base}/models"),
            Self::Props => format!("{root}/props"),
            Self::ApiVersion => format!("{root}/api/version"),
            Self::ApiV1Models => format!("{root}/api/v1/models"),
            Self::ApiV0Models => format!("{root}/api/v0/models"),
            Self::Version => format!("{root}/version"),
        }
    }
}

/// The headers of the requests.
pub(super) type Headers = Vec<(Cow<'static, str>, String)>;

/// The servers at these addresses, in their order, or why an address has none. All are asked at once. Until one of them
/// lists models, each has this time to reply. `quiet`: a longer wait is not reported.
pub(super) fn find(
    addresses: &[String],
    headers: &Headers,
    patience: Duration,
    quiet: bool,
) -> Vec<Result<LocalServer, Error>> {
    let found = ask(addresses, &PROBES, headers, patience, quiet);
    let pairs = addresses.iter().zip(found);
    pairs
        .map(|(address, replies)| server(address, &replies))
        .collect()
}

/// Sorts the servers: first those that are ready and serve the requested model.
pub(super) fn best_first(servers: &mut [LocalServer], model: Option<&str>) {
    servers.sort_by_key(|server| {
        let serves = |model: &str| server.models.iter().any(|own| own == model);
        let ready = server.state == ServerState::Ready;
        (!ready, !model.is_none_or(serves))
    });
}

/// The slots and the state of a server whose address and model are known, if it reports them within a second. It may
/// have no list of models.
pub(super) fn slots(address: &str, headers: &Headers) -> Option<LocalServer> {
    let replies = ask(&[address.to_owned()], &[Probe::Props], headers, BRIEF, true).pop()?;
    let slots = replies.slots();
    let state = replies.state(Probe::Props);
    let tells = slots.is_some() || state == ServerState::Loading;
    tells.then(|| LocalServer {
        base_url: redacted_url(address),
        server: replies.server(&[]),
        models: Vec::new(),
        slots,
        state,
        address: Address(address.to_owned()),
    })
}

fn server(address: &str, replies: &Replies) -> Result<LocalServer, Error> {
    let late = || Error::new(ErrorKind::Transient, "no reply in time").with_timed_out();
    let reply = match replies.of(Probe::Models) {
        Some(Ok(reply)) => reply,
        Some(Err(error)) => return Err(error.clone()),
        None => return Err(late()),
    };
    let (models, owners) = models(reply)?;
    Ok(LocalServer {
        base_url: redacted_url(address),
        server: replies.server(&owners),
        models,
        slots: replies.slots(),
        state: replies.state(Probe::Models),
        address: Address(address.to_owned()),
    })
}

/// The replies from one address.
#[derive(Default)]
struct Replies(Vec<(Probe, Result<HttpReply, Error>)>);

impl Replies {
    fn of(&self, probe: Probe) -> Option<&Result<HttpReply, Error>> {
        let mut found = self.0.iter().filter(|(asked, _)| *asked == probe);
        found.next().map(|(_, reply)| reply)
    }

    fn has_models(&self) -> bool {
        matches!(self.of(Probe::Models), Some(Ok(_)))
    }

    fn json(&self, probe: Probe) -> Option<Value> {
        let reply = self.of(probe)?.as_ref().ok()?;
        let success = (200..300).contains(&reply.status);
        serde_json::from_slice(&reply.body).ok().filter(|_| success)
    }

    fn has(&self, probe: Probe, field: &str, is: fn(&Value) -> bool) -> bool {
        let value = self.json(probe);
        value.is_some_and(|value| value.get(field).is_some_and(is))
    }

    /// LM Studio replies with status 200 and an error to unknown requests, so a reply must also have a certain field.
    fn server(&self, owners: &[String]) -> &'static str {
        let signs = |reply: &HttpReply| reply.headers.get("server") == Some("llama.cpp");
        let signed = self.0.iter().flat_map(|(_, reply)| reply).any(signs);
        let owned = |by: &str| owners.iter().any(|owner| owner == by);
        let version = |probe| self.has(probe, "version", Value::is_string);
        let listed = |probe, field| self.has(probe, field, Value::is_array);
        if signed || owned("llamacpp") || self.slots().is_some() {
            "llama.cpp"
        } else if owned("organization_owner")
            || listed(Probe::ApiV1Models, "models")
            || listed(Probe::ApiV0Models, "data")
        {
            "LM Studio"
        } else if owned("library") || version(Probe::ApiVersion) {
            "Ollama"
        } else if owned("vllm") || version(Probe::Version) {
            "vLLM"
        } else {
            UNKNOWN
        }
    }

    fn slots(&self) -> Option<usize> {
        let slots = self.json(Probe::Props)?.get("total_slots")?.as_u64()?;
        (1..=MOST_SLOTS).contains(&slots).then_some(slots as usize)
    }

    fn state(&self, probe: Probe) -> ServerState {
        match self.of(probe) {
            Some(Ok(reply)) if is_loading(reply) => ServerState::Loading,
            _ => ServerState::Ready,
        }
    }
}

fn is_loading(reply: &HttpReply) -> bool {
    reply.status == 503 && says_loading(&String::from_utf8_lossy(&reply.body))
}

/// Asks all at once. A thread that hangs, for example while it resolves a host, is not waited for.
fn ask(
    addresses: &[String],
    probes: &[Probe],
    headers: &Headers,
    patience: Duration,
    quiet: bool,
) -> Vec<Replies> {
    let (tx, rx) = unbounded();
    for (i, address) in addresses.iter().enumerate() {
        for &probe in probes {
            let (tx, address) = (tx.clone(), address.clone());
            let headers = headers.clone();
            let get = move || {
                let _ = tx.send((i, probe, get(&address, probe, &headers, patience)));
            };
            // Without a thread it counts as not answered.
            let _ = thread::Builder::new().spawn(get);
        }
    }
    drop(tx);
    let mut found: Vec<Replies> = addresses.iter().map(|_| Replies::default()).collect();
    // The threads report a late reply in more words.
    let mut deadline = Instant::now() + patience + Duration::from_millis(100);
    let mut notice = (patience > BRIEF && !quiet).then(|| Instant::now() + BRIEF);
    loop {
        match rx.recv_deadline(notice.unwrap_or(deadline)) {
            Ok((i, probe, reply)) => {
                found[i].0.push((probe, reply));
                if found.iter().any(Replies::has_models) {
                    // The other replies only add details.
                    (deadline, notice) = (deadline.min(Instant::now() + BRIEF), None);
                }
            }
            Err(RecvTimeoutError::Timeout) if notice.take().is_some() => {
                let seconds = patience.as_secs();
                log::warn!("the local server does not reply yet; waiting up to {seconds} s");
            }
            Err(_) => return found,
        }
    }
}

fn get(
    address: &str,
    probe: Probe,
    headers: &Headers,
    timeout: Duration,
) -> Result<HttpReply, Error> {
    if !address.starts_with("http://") && !address.starts_with("https://") {
        let why = "the address must start with http:// or https://";
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    HttpTransport::new(address, 1, timeout).send(
        &HttpRequest {
            url: &probe.url(address),
            headers,
            body: None,
            timeout,
            reply_limit: MAX_REPLY,
            memory: &ReplyShare::of_process(MAX_REPLIES),
        },
        &Context::new(),
    )
}

/// The names and the owners in a list of models.
fn models(reply: &HttpReply) -> Result<(Vec<String>, Vec<String>), Error> {
    if is_loading(reply) {
        return Ok((Vec::new(), Vec::new()));
    }
    let no_list = || {
        let hint = match reply.status {
            401 | 403 => "; check LOCAL_LLM_API_KEY",
            _ => "",
        };
        let status = reply.status;
        Error::new(
            ErrorKind::Malformed,
            format!("GET /models answered {status}, which is not a list of models{hint}"),
        )
        .with_status(status)
    };
    let value: Value = serde_json::from_slice(&reply.body).map_err(|_| no_list())?;
    let list = value.get("data").and_then(Value::as_array);
    let list = list.ok_or_else(no_list)?;
    let texts = |field: &str| {
        let texts = list.iter().filter_map(|model| model.get(field)?.as_str());
        texts.map(str::to_owned).collect()
    };
    Ok((texts("id"), texts("owned_by")))
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
