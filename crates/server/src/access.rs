//! Who may ask: the tokens, and protection from requests that other sites send through a browser.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::unstable::{named_file, quoted};
use batchwright::{Error, ErrorKind, Secret};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::http::Head;
use crate::problem::Problem;

/// What a token may do at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads everything.
    Read,
    /// Does everything.
    Operate,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 2] = [Self::Read, Self::Operate];

    /// The name in a token file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }

    /// Whether it may use routes of this kind.
    pub(crate) fn may(self, access: Access) -> bool {
        self == Self::Operate || access != Access::Operate
    }

    /// # Errors
    /// 403 if it may not use such a route.
    pub(crate) fn check(self, access: Access, method: &str, path: &str) -> Result<(), Problem> {
        if self.may(access) {
            return Ok(());
        }
        let (role, needed) = (self.as_str(), Self::Operate.as_str());
        let why = format!(
            "{method} {path} is not allowed for a token with the role {role}; it needs the role {needed}"
        );
        Err(Problem::new(403, "forbidden", why))
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        let why = "unknown role; the roles are read and operate";
        found.ok_or_else(|| Error::new(ErrorKind::Invalid, why))
    }
}

/// What a route gives access to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing about jobs: it needs no token.
    Open,
    /// Reads.
    Read,
    /// Creates, changes or deletes.
    Operate,
}

/// The hashes of the tokens of a server, in hex: their length does not depend on the received token.
#[derive(Debug)]
pub(crate) struct Tokens(Vec<(String, Role)>);

/// Shorter tokens can be guessed.
const SHORTEST: usize = 16;
/// Maximum size of a token file in bytes.
const MOST_BYTES: u64 = 1 << 20;
const HASH_PREFIX: &str = "sha256:";

fn hash(token: &str) -> String {
    let hash = Sha256::digest(token);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Tokens {
    /// The token that the host set, and those of a file.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn new(single: Option<&Secret>, file: Option<&Path>) -> Result<Self, Error> {
        let mut all = match file {
            Some(path) => read(path).map_err(|why| Error::new(ErrorKind::Invalid, why))?,
            None => Vec::new(),
        };
        all.extend(single.map(|token| (hash(token.expose()), Role::Operate)));
        Ok(Self(all))
    }

    /// The role of who sent this header `authorization`.
    ///
    /// # Errors
    /// 401 without a valid token.
    pub fn role(&self, authorization: Option<&str>) -> Result<Role, Problem> {
        if self.0.is_empty() {
            return Ok(Role::Operate);
        }
        let given = authorization.and_then(|text| text.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, given)) = given else {
            return Err(refused("send a token: Authorization: Bearer TOKEN"));
        };
        let given = hash(given.trim());
        let mut found = None;
        // Every token is compared, so that the time does not tell which one is similar.
        for (hash, role) in &self.0 {
            if hash.as_bytes().ct_eq(given.as_bytes()).into() {
                found = Some(*role);
            }
        }
        found.ok_or_else(|| refused("this token is not valid at this server"))
    }
}

fn refused(why: &str) -> Problem {
    Problem::new(401, "unauthorized", why)
        .header("www-authenticate", "Bearer realm=\"batchwright\"")
}

/// The tokens in a file that other users of the machine cannot access. Errors quote nothing of it: it may contain tokens.
fn read(path: &Path) -> Result<Vec<(String, Role)>, String> {
    let shown = path.display();
    let failed = |error| format!("the token file {shown} cannot be read: {error}");
    let found = fs::metadata(path).map_err(failed)?;
    if found.permissions().mode() & 0o077 != 0 {
        return Err(format!(
            "other users can access the token file {shown}; to prevent it: chmod 600 {}",
            quoted(path)
        ));
    }
    let text = named_file::read_text(path, MOST_BYTES).map_err(failed)?;
    parse(&text).map_err(|why| format!("the token file {shown} cannot be used: {why}"))
}

/// A file with one word is the only token, with the role `operate`. Otherwise each line is a token.
fn parse(text: &str) -> Result<Vec<(String, Role)>, String> {
    let lines = text.lines().zip(1..).map(|(line, no)| (no, line.trim()));
    let lines: Vec<(u64, &str)> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    match lines[..] {
        [] => Err("it contains no token".to_owned()),
        [(_, token)] if !token.contains(char::is_whitespace) => {
            if token.chars().count() < SHORTEST {
                return Err(format!(
                    "the token has fewer than {SHORTEST} characters and could be guessed; make one: openssl rand -hex 32"
                ));
            }
            Ok(vec![(hash(token), Role::Operate)])
        }
        _ => {
            let token = |(no, line)| {
                token_of(line).ok_or_else(|| {
                    format!(
                        "line {no}: write a name, a role and {HASH_PREFIX} with 64 hex digits; `batchwright token new NAME \
                         --role ROLE` prints a valid line"
                    )
                })
            };
            lines.into_iter().map(token).collect()
        }
    }
}

fn token_of(line: &str) -> Option<(String, Role)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, role, hash] = words[..] else {
        return None;
    };
    let hash = hash.strip_prefix(HASH_PREFIX)?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some((hash.to_ascii_lowercase(), role.parse().ok()?))
}

/// Makes a random token. Returns it, and its line for a [token file](crate::Server::token_file), which contains only its
/// hash.
///
/// # Errors
/// If the name is not one word, or begins with `#`; if the system has no random numbers.
pub fn new_token(name: &str, role: Role) -> Result<(Secret, String), Error> {
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.starts_with('#') || name.contains(is_odd) {
        let why = "the name of a token is one word, and does not begin with #";
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| {
        let why = format!("the system has no random numbers: {error}");
        Error::new(ErrorKind::Transient, why)
    })?;
    let token = format!("bw_{}", URL_SAFE_NO_PAD.encode(random));
    let line = format!("{name} {} {HASH_PREFIX}{}", role.as_str(), hash(&token));
    Ok((Secret::new(token), line))
}

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

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
