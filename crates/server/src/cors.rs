//! Cross-origin resource sharing: which pages of other origins may call this server from a browser, and read its replies.

use crate::http::{Head, Response};
use crate::origin::Origin;
use batchwright::unstable::Optional;

/// How long a browser may reuse the reply to a preflight, in seconds.
const PREFLIGHT_SECONDS: &str = "600";

/// The allowed origins. Credentials that browsers send by themselves are not allowed: clients send their token in the
/// header `Authorization`.
#[derive(Debug)]
pub(crate) struct Cors(Vec<Origin>);

impl Cors {
    pub fn new(origins: Vec<Origin>) -> Self {
        Self(origins)
    }

    /// Whether a request comes from a page of an allowed origin.
    pub fn allows(&self, head: &Head) -> bool {
        self.origin(head).is_some()
    }

    fn origin<'h>(&self, head: &'h Head) -> Option<&'h str> {
        let origin = head.header("origin")?;
        self.0.iter().any(|one| one.is(origin)).then_some(origin)
    }

    /// The headers of every response to this request.
    pub fn headers(&self, head: &Head) -> Vec<(&'static str, String)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        // A cache must not give the response for one origin to another one.
        let mut headers = vec![("vary", "Origin".to_owned())];
        if let Some(origin) = self.origin(head) {
            headers.push(("access-control-allow-origin", origin.to_owned()));
            headers.push(("access-control-expose-headers", "*".to_owned()));
        }
        headers
    }

    /// The reply to a preflight: the browser asks whether a page may send a request. It has no token, so it is answered
    /// before the token is checked.
    pub fn preflight(&self, head: &Head) -> Option<Response> {
        let is_preflight =
            head.method == "OPTIONS" && head.header("access-control-request-method").is_some();
        if !is_preflight || !self.allows(head) {
            return None;
        }
        let methods = "GET, HEAD, POST, PUT, DELETE";
        // OpenAI's clients send headers of their own, and a wildcard would not include `Authorization`.
        let names = head.header("access-control-request-headers");
        let names = names.filter(|names| names.is_ascii());
        Some(
            Response::empty(204)
                .header("access-control-allow-methods", methods)
                .header("access-control-max-age", PREFLIGHT_SECONDS)
                .set(names, |response, names| {
                    response.header("access-control-allow-headers", names)
                }),
        )
    }
}
