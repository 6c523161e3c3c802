//! Local servers: which of the usual ones reply, and which models they serve.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::base::secret::{Address, redacted_url};
use crate::base::{Context, Error, ErrorKind};
use crate::llm::transport::{HttpReply, HttpRequest, HttpTransport, ReplyShare, Transport};

use super::access::says_loading;
use super::config::MAX_REPLIES;
use super::remote::MAX_REPLY;

/// The usual addresses of local servers: llama.cpp, Ollama, LM Studio.
pub(super) const USUAL_ADDRESSES: [&str; 3] = [
    "http://127.0.0.1:8080/v1",
    "http://127.0.0.1:11434/v1",
    "http://127.0.0.1:1234/v1",
];
/// How long servers are waited for that nobody named.
pub(super) const BRIEF: Duration = Duration::from_millis(900);
/// How long a server that the user named is waited for: one that is busy may reply late.
pub(super) const PATIENT: Duration = Duration::from_secs(5);
/// A local server that was found.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LocalServer {
    /// Its address, without credentials.
    pub base_url: String,
    /// The models it lists, in its order.
    pub models: Vec<String>,
    /// The number of calls that it answers at once, if it reports that (llama.cpp).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    #[serde(skip)]
    pub(super) address: Address,
}

impl LocalServer {
    /// A short description of the server.
    pub fn description(&self) -> String {
        let does = match &self.models[..] {
            [] => "answers, but lists no model".to_owned(),
            [one] => format!("serves {one}"),
            [first, others @ ..] => format!("serves {first} and {} more", others.len()),
        };
        match self.slots {
            Some(1) => format!("{does}, 1 slot"),
            Some(slots) => format!("{does}, {slots} slots"),
            None => does,
        }
    }
}

/// The headers of the requests.
pub(super) type Headers = Vec<(Cow<'static, str>, String)>;

/// The server at this address, with the models that it lists.
pub(super) fn server(
    address: &str,
    headers: &Headers,
    timeout: Duration,
) -> Result<LocalServer, Error> {
    let reply = get(address, "/models", headers, timeout)?;
    let models = listed(&reply)?;
    Ok(LocalServer {
        base_url: redacted_url(address),
        models,
        slots: slots(address, headers),
        address: Address(address.to_owned()),
    })
}

/// The maximum number of slots; a higher reported number is ignored.
const MOST_SLOTS: u64 = 1024;

/// The number of calls that a server answers at once. llama.cpp reports it; others do not know the address.
pub(super) fn slots(address: &str, headers: &Headers) -> Option<usize> {
    let root = address.strip_suffix("/v1").unwrap_or(address);
    let reply = get(root, "/props", headers, BRIEF).ok()?;
    let props: Value = serde_json::from_slice(&reply.body).ok()?;
    let slots = props.get("total_slots")?.as_u64()?;
    let is_usable = reply.status == 200 && (1..=MOST_SLOTS).contains(&slots);
    is_usable.then_some(usize::try_from(slots).ok()?)
}

fn get(
    address: &str,
    path: &str,
    headers: &Headers,
    timeout: Duration,
) -> Result<HttpReply, Error> {
    let request = HttpRequest {
        url: &format!("{address}{path}"),
        headers,
        body: None,
        timeout,
        reply_limit: MAX_REPLY,
        memory: &ReplyShare::of_process(MAX_REPLIES),
    };
    let transport = HttpTransport::new(address, 1, timeout);
    transport.send(&request, &Context::new())
}

/// The names in a list of models.
fn listed(reply: &HttpReply) -> Result<Vec<String>, Error> {
    let status = reply.status;
    if status == 503 && says_loading(&String::from_utf8_lossy(&reply.body)) {
        let why = "it is still loading its model; try again, or name the model";
        return Err(Error::new(ErrorKind::Transient, why).with_status(status));
    }
    let no_list = || {
        let hint = match status {
            401 | 403 => "; check LOCAL_LLM_API_KEY",
            _ => "",
        };
        let why = format!("GET /models answered {status}, which is not a list of models{hint}");
        Error::new(ErrorKind::Malformed, why).with_status(status)
    };
    let value: Value = serde_json::from_slice(&reply.body).map_err(|_| no_list())?;
    let list = value.get("data").and_then(Value::as_array);
    let ids = list.ok_or_else(no_list)?.iter();
    let ids = ids.filter_map(|model| model.get("id")?.as_str());
    Ok(ids.map(str::to_owned).collect())
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
