//! The server and the resource of a URL.

use ureq::http::Uri;

use super::headers::basic;

/// The parts of a URL.
pub(super) struct Target {
    pub url: String,
    pub uri: Uri,
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Host and port as in the URL.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// The credentials in the URL as the value of `authorization`.
    pub basic: Option<String>,
}

impl Target {
    /// `None` unless the scheme is `http` or `https`.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?;
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            None => [80, 443][usize::from(tls)],
        };
        let authority = match uri.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Some(Self {
            url: url.to_owned(),
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority,
            path,
            basic: credentials(&uri),
            uri,
        })
    }

    /// Whether a connection to the server of one reaches that of the other.
    pub fn is_same_server(&self, other: &Self) -> bool {
        (self.tls, self.port, &self.host) == (other.tls, other.port, &other.host)
    }
}

/// The value of `authorization` for the user and the password of a URL.
fn credentials(uri: &Uri) -> Option<String> {
    let (user, _) = uri.authority()?.as_str().rsplit_once('@')?;
    let colon = if user.contains(':') { "" } else { ":" };
    Some(basic(&format!("{user}{colon}")))
}
