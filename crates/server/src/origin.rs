//! Addresses that the operator sets: the origins of web pages that may call this server, and its own public URL.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use batchwright::{Error, ErrorKind};
use ureq::http::Uri;

/// Paths of the server. A public URL below one of them would be ambiguous: a proxy may keep its path or remove it.
pub(crate) const OWN_PATHS: [&str; 5] = ["/api/v1", "/v1", "/healthz", "/readyz", "/metrics"];

/// The origin of web pages: a scheme, a host and a port, as browsers send them in the header `Origin`.
///
/// It is parsed from a text such as `https://app.example.com`; a wildcard is not an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// The URL under which clients reach the server through a proxy, for example `https://example.com/batchwright`.
///
/// The server answers below its path also if the proxy does not remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    origin: Origin,
    host: String,
    /// Empty, or with a `/` at its start and none at its end.
    path: String,
}

impl Origin {
    /// Whether the value of a header `Origin` means this origin.
    pub(crate) fn is(&self, header: &str) -> bool {
        self.0.eq_ignore_ascii_case(header)
    }
}

impl FromStr for Origin {
    type Err = Error;

    /// # Errors
    /// If the text is not `http://` or `https://` with a host, or has a path.
    fn from_str(text: &str) -> Result<Self, Error> {
        let why = "write an origin without a path, for example https://app.example.com";
        let (origin, _, path) = parts(text).ok_or_else(|| invalid(text, why))?;
        match path.as_str() {
            "" if !text.ends_with('/') => Ok(origin),
            _ => Err(invalid(text, why)),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PublicUrl {
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its host in lower case, without the port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether only this machine can reach the server by this URL.
    pub(crate) fn is_of_this_machine(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The path below which the server is, without a `/` at the end; empty for the root.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The path of a request without the path of this URL, which a proxy may have kept. It is empty if the request is
    /// for the path itself without a `/` at the end.
    pub(crate) fn strip<'p>(&self, path: &'p str) -> &'p str {
        match path.strip_prefix(&self.path) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

impl FromStr for PublicUrl {
    type Err = Error;

    /// # Errors
    /// If the text is not a URL with a host and a plain path, or if the path is one of the server's own.
    fn from_str(text: &str) -> Result<Self, Error> {
        let why = "write a URL without a query, for example https://example.com/batchwright";
        let (origin, host, path) = parts(text).ok_or_else(|| invalid(text, why))?;
        let is_below = |one: &str, other: &str| {
            let rest = one.strip_prefix(other);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let own = OWN_PATHS.into_iter();
        let mut own = own.filter(|own| is_below(&path, own) || is_below(own, &path));
        if let Some(own) = own.next().filter(|_| !path.is_empty()) {
            let why = format!("{own} is a path of the server itself; use another path");
            return Err(invalid(text, why));
        }
        Ok(Self { origin, host, path })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

fn invalid(text: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("{text:?}: {why}"))
}

/// The origin of a URL, its host and its path without a `/` at the end; `None` if it has other parts or an odd path.
fn parts(text: &str) -> Option<(Origin, String, String)> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = uri.authority()?;
    let host = authority.host().to_ascii_lowercase();
    if host.is_empty() || host == "*" || authority.as_str().contains('@') || text.contains('#') {
        return None;
    }
    // What follows the host is a port, or the authority is not valid.
    let port: u16 = match authority.as_str().get(host.len()..)?.strip_prefix(':') {
        None => default_port,
        Some(port) => port.parse().ok()?,
    };
    let origin = match port {
        port if port == default_port => format!("{scheme}://{host}"),
        port => format!("{scheme}://{host}:{port}"),
    };
    let path = uri.path().trim_end_matches('/').to_owned();
    let is_plain = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
    };
    let has_plain_path = path.split('/').skip(1).all(is_plain);
    (uri.query().is_none() && has_plain_path).then_some((Origin(origin), host, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        let origin = |text: &str| text.parse::<Origin>().map(|origin| origin.to_string());
        for (text, sent) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com:443", "https://app.example.com"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(origin(text).unwrap(), sent, "{text}");
        }
        for text in [
            "*",
            "null",
            "https://*",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/page",
            "https://app.example.com?a",
            "https://app.example.com#a",
            "https://me@app.example.com",
            "https://app.example.com:99999",
            "file:///a",
            "",
        ] {
            let error = origin(text).unwrap_err().to_string();
            assert!(error.contains("https://app.example.com"), "{error}");
        }
    }

    #[test]
    fn a_public_url_has_a_path_that_no_route_has() {
        let url = |text: &str| text.parse::<PublicUrl>();
        for (text, shown, path) in [
            ("https://example.com", "https://example.com", ""),
            ("https://Example.com:443/", "https://example.com", ""),
            ("http://a:8080/x/y/", "http://a:8080/x/y", "/x/y"),
            ("https://a/api/llm", "https://a/api/llm", "/api/llm"),
            ("https://a/v1x", "https://a/v1x", "/v1x"),
        ] {
            let url = url(text).unwrap();
            assert_eq!((&*url.to_string(), url.path()), (shown, path), "{text}");
        }
        for text in [
            "https://a/api",
            "https://a/api/v1",
            "https://a/v1/x",
            "https://a/metrics",
            "https://a/x?y",
            "https://a/x//y",
            "https://a/x/../y",
            "https://a/%78",
            "/x",
            "a/x",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_of_this_machine_has_a_loopback_address() {
        for (url, expected) in [
            ("http://localhost:8080/queue", true),
            ("http://127.1.2.3", true),
            ("http://[::1]:8080", true),
            ("https://ai.example.com", false),
            ("http://localhost.example.com", false),
            ("http://192.168.0.1", false),
            ("http://[2001:db8::1]", false),
        ] {
            let public: PublicUrl = url.parse().unwrap();
            assert_eq!(public.is_of_this_machine(), expected, "{url}");
        }
    }

    #[test]
    fn a_proxy_may_keep_the_path_or_remove_it() {
        let url: PublicUrl = "https://example.com/queue".parse().unwrap();
        for (path, rest) in [
            ("/queue/api/v1/jobs", "/api/v1/jobs"),
            ("/api/v1/jobs", "/api/v1/jobs"),
            ("/queue/", "/"),
            ("/queue", ""),
            ("/queuex", "/queuex"),
            ("/", "/"),
        ] {
            assert_eq!(url.strip(path), rest, "{path}");
        }
        let root: PublicUrl = "https://example.com".parse().unwrap();
        assert_eq!(root.strip("/v1/models"), "/v1/models");
        assert_eq!(root.strip("/"), "/");
    }
}
