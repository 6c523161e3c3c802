//! Local servers: which of the usual ones reply, and which models they serve.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

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

/// The headers of the requests.
pub(super) type Headers = Vec<(Cow<'static, str>, String)>;

/// The models that the server at this address lists, in its order.
///
/// # Errors
/// If there is no server, or it lists none.
pub(super) fn models(
    address: &str,
    headers: &Headers,
    timeout: Duration,
) -> Result<Vec<String>, Error> {
    let request = HttpRequest {
        url: &format!("{address}/models"),
        headers,
        body: None,
        timeout,
        reply_limit: MAX_REPLY,
        memory: &ReplyShare::of_process(MAX_REPLIES),
    };
    let transport = HttpTransport::new(address, 1, timeout);
    listed(&transport.send(&request, &Context::new())?)
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
