//! Errors of requests: problem details (RFC 9457), or an error in OpenAI's format.

use std::fmt;
use std::io;

use batchwright::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::http::Response;

/// `Retry-After`, in seconds, for requests whose data could not be stored: space must be freed first.
const STORAGE_RETRY: &str = "5";

/// Why a request failed.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub status: u16,
    /// The kind of problem, for programs: the last part of its `type`.
    code: &'static str,
    detail: String,
    /// The field or parameter that is to blame.
    param: Option<Box<str>>,
    /// The line of the body that is to blame, from 1.
    line: Option<u64>,
    headers: Vec<(&'static str, String)>,
    /// What only the log shows: it may name paths.
    cause: Option<Box<str>>,
}

impl Problem {
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            param: None,
            line: None,
            headers: Vec::new(),
            cause: None,
        }
    }

    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(400, "invalid_request", detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "not_found", detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "conflict", detail)
    }

    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(415, "unsupported_media_type", detail)
    }

    /// A body of more than this number of bytes.
    pub fn too_large(most: u64) -> Self {
        let detail = format!("the body is longer than {most} bytes, the limit of this server");
        Self::new(413, "too_large", detail)
    }

    /// The disk or a database of the server cannot be used. Only the log names the path.
    pub fn storage() -> Self {
        let why = "the server cannot read or write its data, for example because the disk is full; its log has the cause. \
                   Send the request again later";
        Self::new(503, "storage_unavailable", why).header("retry-after", STORAGE_RETRY)
    }

    /// With the field or parameter that is to blame.
    pub fn param(mut self, name: impl Into<String>) -> Self {
        self.param = Some(name.into().into());
        self
    }

    /// With this field, unless another one is named.
    pub fn param_or(mut self, name: &str) -> Self {
        self.param.get_or_insert_with(|| name.into());
        self
    }

    /// Replaces the description.
    pub fn says(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// With a cause for the log.
    fn because(self, cause: impl fmt::Display) -> Self {
        Self {
            cause: Some(cause.to_string().into()),
            ..self
        }
    }

    /// The text for the log: the cause if there is one, because the description only points to it.
    pub fn for_log(&self) -> &str {
        self.cause.as_deref().unwrap_or(&self.detail)
    }

    /// Writes the cause into the log.
    pub fn log(&self, request_id: &str) {
        if let Some(cause) = &self.cause {
            log::error!("request {request_id} failed: {cause}");
        }
    }

    /// With the line of the body that is to blame.
    pub fn line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }

    /// With one header more.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The response, in the format of the API at this path.
    pub fn response(self, path: &str) -> Response {
        let (kind, body) = if is_of_v1(path) {
            ("application/json", self.as_openai())
        } else {
            ("application/problem+json", self.as_details())
        };
        let body = serde_json::to_vec(&body).expect("a problem has a form in JSON");
        let mut response = Response::full(self.status, kind, body);
        response.headers.extend(self.headers);
        response
    }

    /// RFC 9457. A handler may add members.
    pub fn as_details(&self) -> Value {
        let mut details = json!({
            "type": format!("urn:batchwright:problem:{}", self.code),
            "title": self.code.replace('_', " "),
            "status": self.status,
            "detail": self.detail,
        });
        if let Some(param) = &self.param {
            details["param"] = json!(param);
        }
        if let Some(line) = self.line {
            details["line"] = json!(line);
        }
        details
    }

    fn as_openai(&self) -> Value {
        let kind = match self.status {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {
            "message": self.detail,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

/// Converts an error of the library to an HTTP status.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if error.is_storage() {
            return Self::storage().because(&error);
        }
        let message = error.message();
        match error.kind() {
            ErrorKind::Invalid if error.status() == Some(413) => {
                Self::new(413, "too_large", message)
            }
            ErrorKind::Invalid => Self::invalid(message),
            ErrorKind::NotFound => Self::not_found(message),
            ErrorKind::Changed => Self::conflict(message),
            ErrorKind::Transient => {
                Self::new(503, "unavailable", message).header("retry-after", "1")
            }
            _ => Self::new(500, "internal_error", message).because(&error),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref();
        if let Some(problem) = inner.and_then(|inner| inner.downcast_ref::<Self>()) {
            return problem.clone();
        }
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let why = "the server's disk is full: delete files that are no longer needed";
                Self::new(507, "insufficient_storage", why).header("x-should-retry", "false")
            }
            _ => Self::storage().because(&error),
        }
    }
}

/// A problem of a body, for its reader.
impl From<Problem> for io::Error {
    fn from(problem: Problem) -> Self {
        io::Error::other(problem)
    }
}

/// True for a path in OpenAI's shapes, also for one of a base URL without `/v1`.
pub(crate) fn is_of_v1(path: &str) -> bool {
    let known = "v1 chat completions responses embeddings models batches files";
    let first = path.split('/').nth(1).unwrap_or_default();
    known.split(' ').any(|known| known == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_cannot_keep_is_no_fault_of_the_client_and_names_no_place() {
        let place = "/srv/batchwright/llm_jobs.db";
        let failed =
            |kind| Problem::from(Error::new(kind, format!("{place} is damaged")).with_storage());
        let file = |kind| Problem::from(io::Error::new(kind, place));
        for problem in [
            failed(ErrorKind::Invalid),
            failed(ErrorKind::Transient),
            failed(ErrorKind::Malformed),
            file(io::ErrorKind::ReadOnlyFilesystem),
            file(io::ErrorKind::NotFound),
        ] {
            assert_eq!((problem.status, problem.code), (503, "storage_unavailable"));
            assert!(!problem.detail.contains("srv"), "{problem}");
            assert!(problem.for_log().contains("srv"), "{problem:?}");
            for path in ["/v1/files", "/api/v1/jobs"] {
                let response = problem.clone().response(path);
                assert!(response.has("retry-after"), "{response:?}");
            }
        }
        // A client that uploads files can delete others.
        let full = file(io::ErrorKind::StorageFull);
        assert!(full.status == 507 && !full.detail.contains("srv"), "{full}");
        let invalid = Problem::from(Error::new(ErrorKind::Invalid, "write a number"));
        assert_eq!((invalid.status, &*invalid.detail), (400, "write a number"));
        let large = Error::new(ErrorKind::Invalid, "too many bytes").with_status(413);
        let large = Problem::from(large);
        assert_eq!((large.status, large.code), (413, "too_large"));
        let inside = Problem::from(io::Error::from(Problem::too_large(1)));
        assert_eq!(inside.status, 413);
    }
}
