//! Access checks: the tokens, and protection from requests that other sites send through a browser.

use std::net::{IpAddr, SocketAddr};

use crate::http::Head;
use crate::problem::Problem;
use crate::tokens::{Role, Tokens};

/// Checks requests before anything else.
pub(crate) struct Guard {
    pub tokens: Tokens,
    /// Host names of this server, in lower case and without port. If a page of another site reaches this server through
    /// its own name (DNS rebinding), that name is not among them.
    hosts: Vec<String>,
}

/// Headers that decide about access: with two of the same name, one would be ignored.
const ONCE: [&str; 4] = [
    "authorization",
    "idempotency-key",
    "origin",
    "sec-fetch-site",
];

impl Guard {
    /// The guard of a server at this address. `hosts` are names for it beyond the address itself.
    pub fn new(address: SocketAddr, tokens: Tokens, hosts: &[String]) -> Self {
        let mut names: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        names.push(in_url(address.ip()));
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            names.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        Self {
            tokens,
            hosts: names,
        }
    }

    /// # Errors
    /// 421 for a name that is not ours, 403 for a page of another site.
    pub fn check(&self, head: &Head, reached: SocketAddr) -> Result<(), Problem> {
        if !head.has_path {
            let why = "this server is not a proxy: request a path";
            return Err(Problem::new(421, "unknown_host", why));
        }
        if let Some(name) = ONCE.into_iter().find(|name| head.count(name) > 1) {
            return Err(Problem::invalid(format!("{name} occurs more than once")));
        }
        self.check_host(head, reached.ip())?;
        check_origin(head)
    }

    /// # Errors
    /// 401 without a valid token.
    pub fn role(&self, head: &Head) -> Result<Role, Problem> {
        self.tokens.role(head.header("authorization"))
    }

    /// `reached` is the address at which the connection came in: where all of them are listened on, each is a name.
    fn check_host(&self, head: &Head, reached: IpAddr) -> Result<(), Problem> {
        let host = head.header("host").unwrap_or_default().to_ascii_lowercase();
        let name = without_port(&host);
        if name == in_url(reached) || self.hosts.iter().any(|known| known == name) {
            return Ok(());
        }
        let why = match name {
            "" => "the header `host` is missing".to_owned(),
            _ => format!(
                "{name:?} is not a host name of this server; to allow it, start the server with --allow-host {name}"
            ),
        };
        Err(Problem::new(421, "unknown_host", why))
    }
}

/// Rejects requests that a page of another site sends through a browser. Other programs send neither header.
fn check_origin(head: &Head) -> Result<(), Problem> {
    let refused = |why: String| Err(Problem::new(403, "cross_site", why));
    if let Some(origin) = head.header("origin") {
        let host = head.header("host").unwrap_or_default();
        let same = origin.split_once("://").is_some_and(|(scheme, theirs)| {
            // Behind a proxy the page may be served over https.
            ["http", "https"].contains(&scheme) && theirs.eq_ignore_ascii_case(host)
        });
        if !same {
            return refused(format!("requests from pages of {origin} are not allowed"));
        }
    }
    // Links to the dashboard from other pages are allowed; other requests from them are not.
    let site = head.header("sec-fetch-site").unwrap_or("none");
    let other = !["same-origin", "none"].contains(&site.to_ascii_lowercase().as_str());
    if other && !["/", ""].contains(&head.path.as_str()) {
        refused("requests from pages of other sites are not allowed".to_owned())
    } else {
        Ok(())
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// An address in the form of a URL.
fn in_url(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
