//! Tokens: who sends a request, and what the sender may do.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::{Error, ErrorKind, Secret};
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Problem;

/// What a token may do at a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Role {
    /// Reads what its name owns.
    #[default]
    ReadOwn,
    /// Also creates jobs, processes, files and batches, and changes and deletes its own.
    Submit,
    /// Reads everything.
    Read,
    /// Does everything.
    Operate,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Submit, Self::ReadOwn, Self::Read, Self::Operate];

    /// The name in a token file.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether it may use routes of this kind.
    pub(crate) fn may(self, access: Access) -> bool {
        match access {
            Access::Open | Access::Own => true,
            Access::Change => matches!(self, Self::Submit | Self::Operate),
            Access::Read => matches!(self, Self::Read | Self::Operate),
            Access::Operate => self == Self::Operate,
        }
    }

    /// Whether it sees what other tokens have created.
    fn sees_all(self) -> bool {
        self.may(Access::Read)
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| {
            let why = format!("unknown role; the roles are {}", list(&Self::ALL));
            Error::new(ErrorKind::Invalid, why)
        })
    }
}

fn list(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// What a route gives access to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing about jobs: it needs no token.
    Open,
    /// Reads objects that have an owner, or what every client needs.
    Own,
    /// Creates, changes or deletes objects that have an owner.
    Change,
    /// Reads settings and totals of all owners.
    Read,
    /// Changes what affects all owners.
    Operate,
}

/// Limits of a token. Default: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenLimits {
    /// Maximum number of requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Maximum number of open jobs: a request that would exceed it is rejected.
    pub open_jobs: Option<u64>,
}

const REQUESTS: &str = "requests-per-minute";
const OPEN_JOBS: &str = "open-jobs";

/// Who sends a request. The default sees nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The name of the token. A server without tokens, and one with a single token, have no names.
    pub name: Option<Arc<str>>,
    pub role: Role,
    pub limits: TokenLimits,
}

impl Caller {
    fn operator() -> Self {
        Self {
            role: Role::Operate,
            ..Self::default()
        }
    }

    /// The owner of what this caller creates.
    pub fn owner(&self) -> Option<String> {
        self.name.as_deref().map(str::to_owned)
    }

    /// The only owner whose objects it sees; `None` if it sees all.
    pub fn only(&self) -> Option<&str> {
        (!self.role.sees_all()).then(|| self.name.as_deref().unwrap_or_default())
    }

    /// Whether it sees an object of this owner.
    pub fn sees(&self, owner: Option<&str>) -> bool {
        self.only().is_none_or(|only| owner == Some(only))
    }

    /// # Errors
    /// 403 if its role may not use such a route.
    pub fn check(&self, access: Access, method: &str, path: &str) -> Result<(), Problem> {
        if self.role.may(access) {
            return Ok(());
        }
        let others: Vec<Role> = Role::ALL.into_iter().filter(|r| r.may(access)).collect();
        let name = self.name.as_deref().unwrap_or_default();
        let role = self.role.as_str();
        let why = format!(
            "{method} {path} is not allowed for the role {role} of the token {name}; allowed roles: {}",
            list(&others)
        );
        Err(Problem::new(403, "forbidden", why))
    }

    /// # Errors
    /// 413 if this number of jobs exceeds its limit, and 429 if it does in addition to the open ones.
    pub fn check_open_jobs(&self, open: u64, more: u64) -> Result<(), Problem> {
        let Some(most) = self.limits.open_jobs.filter(|most| open + more > *most) else {
            return Ok(());
        };
        let name = self.name.as_deref().unwrap_or_default();
        if more > most {
            // It would not be accepted later either.
            let why = format!(
                "the token {name} may have {most} open jobs ({OPEN_JOBS} in the server's token file), and this request \
                 makes more: send at most {most} jobs per request"
            );
            return Err(Problem::new(413, "too_large", why));
        }
        let why = format!(
            "the token {name} may have {most} open jobs ({OPEN_JOBS} in the server's token file) and has {open}: send \
             this again when some have ended"
        );
        Err(Problem::new(429, "rate_limit_exceeded", why).header("retry-after", "10"))
    }
}

/// A SHA-256 hash: its length does not depend on the received token.
type Hash = [u8; 32];
type Known = Vec<(Hash, Caller)>;

/// The tokens of a server.
pub(crate) struct Tokens {
    /// The token that the host set.
    single: Option<Hash>,
    file: Option<PathBuf>,
    state: RwLock<State>,
    /// When the requests so far would have used up each name's rate.
    used_until: Mutex<HashMap<Arc<str>, Instant>>,
}

struct State {
    known: Arc<Known>,
    /// Why the present file is not used.
    problem: Option<String>,
}

const MINUTE: Duration = Duration::from_secs(60);
/// Shorter tokens can be guessed.
const SHORTEST: usize = 16;
/// Longest name of a token, in bytes.
const LONGEST_NAME: usize = 64;
/// Maximum size of a token file in bytes.
const MOST_BYTES: u64 = 1 << 20;
const HASH_PREFIX: &str = "sha256:";

impl Tokens {
    /// # Errors
    /// When the file cannot be used.
    pub fn new(single: Option<&Secret>, file: Option<PathBuf>) -> Result<Self, Error> {
        let known = match &file {
            Some(path) => read(path).map_err(|why| Error::new(ErrorKind::Invalid, why))?,
            None => Known::new(),
        };
        Ok(Self {
            single: single.map(|token| Sha256::digest(token.expose()).into()),
            file,
            state: RwLock::new(State {
                known: Arc::new(known),
                problem: None,
            }),
            used_until: Mutex::default(),
        })
    }

    /// Reads the file again. If it cannot be used, the tokens stay as they were. Returns whether they have changed.
    pub fn refresh(&self) -> bool {
        let Some(path) = &self.file else { return false };
        // A pipe was read to its end, and opening one may wait.
        if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
            return false;
        }
        let read = read(path);
        let mut state = self.state.write();
        match read {
            Ok(known) => {
                state.problem = None;
                if *state.known == known {
                    return false;
                }
                log::info!("{}: {} tokens are valid now", path.display(), known.len());
                state.known = Arc::new(known);
                true
            }
            Err(why) => {
                if state.problem.as_ref() != Some(&why) {
                    log::error!("the tokens stay as they were: {why}");
                    state.problem = Some(why);
                }
                false
            }
        }
    }

    /// Why the present token file is not used.
    pub fn problem(&self) -> Option<String> {
        self.state.read().problem.clone()
    }

    /// Who sent this header `authorization`.
    ///
    /// # Errors
    /// 401 without a valid token, 429 above its rate.
    pub fn caller(&self, authorization: Option<&str>) -> Result<Caller, Problem> {
        if self.single.is_none() && self.file.is_none() {
            return Ok(Caller::operator());
        }
        let given = authorization.and_then(|text| text.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, given)) = given else {
            return Err(refused("send a token: Authorization: Bearer TOKEN"));
        };
        let given: Hash = Sha256::digest(given.trim()).into();
        let known = Arc::clone(&self.state.read().known);
        let mut found = None;
        // Every token is compared, so that the time does not tell which one is similar.
        if self.single.is_some_and(|hash| hash.ct_eq(&given).into()) {
            found = Some(Caller::operator());
        }
        for (hash, caller) in known.iter() {
            if hash.ct_eq(&given).into() {
                found = Some(caller.clone());
            }
        }
        let caller = found.ok_or_else(|| refused("this token is not valid at this server"))?;
        self.check_rate(&caller)?;
        Ok(caller)
    }

    /// Counts a request. A name may use its requests of a minute at once.
    fn check_rate(&self, caller: &Caller) -> Result<(), Problem> {
        let (Some(most), Some(name)) = (caller.limits.requests_per_minute, &caller.name) else {
            return Ok(());
        };
        let now = Instant::now();
        let mut used_until = self.used_until.lock();
        let until = used_until.entry(Arc::clone(name)).or_insert(now);
        let next = (*until).max(now) + MINUTE / most;
        let ahead = next - now;
        if ahead <= MINUTE {
            *until = next;
            return Ok(());
        }
        let wait = (ahead - MINUTE).as_secs_f64().ceil().max(1.0);
        let why = format!(
            "the token {name} may send {most} requests per minute ({REQUESTS} in the server's token file): send this \
             again in {wait} s"
        );
        Err(Problem::new(429, "rate_limit_exceeded", why).header("retry-after", wait.to_string()))
    }
}

fn refused(why: &str) -> Problem {
    Problem::new(401, "unauthorized", why)
        .header("www-authenticate", "Bearer realm=\"batchwright\"")
}

/// The tokens in a file. Errors quote nothing of it: it may contain tokens.
fn read(path: &Path) -> Result<Known, String> {
    let shown = path.display();
    let failed = |error| format!("the token file {shown} cannot be read: {error}");
    let file = File::open(path).map_err(failed)?;
    refuse_readable(&file, path)?;
    let mut text = String::new();
    file.take(MOST_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    parse(&text).map_err(|why| format!("the token file {shown} cannot be used: {why}"))
}

/// Rejects a file that other users of the machine may read or change.
#[cfg(unix)]
fn refuse_readable(file: &File, path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = path.display();
    let about = file
        .metadata()
        .map_err(|error| format!("the token file {shown} cannot be read: {error}"))?;
    match about.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => Err(format!(
            "other users can access the token file {shown}; to prevent it: chmod 600 '{shown}'"
        )),
    }
}

#[cfg(not(unix))]
fn refuse_readable(_: &File, _: &Path) -> Result<(), String> {
    Ok(())
}

/// A file with one word is the only token, with the role `operate`. Otherwise each line is a token.
fn parse(text: &str) -> Result<Known, String> {
    let lines = text.lines().zip(1..).map(|(line, no)| (no, line.trim()));
    let lines: Vec<(u64, &str)> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mut known = Known::new();
    match lines[..] {
        [] => return Err("it contains no token".to_owned()),
        [(_, token)] if !token.contains(char::is_whitespace) => {
            if token.chars().count() < SHORTEST {
                return Err(format!(
                    "the token has fewer than {SHORTEST} characters and could be guessed; make one: openssl rand -hex 32"
                ));
            }
            known.push((Sha256::digest(token).into(), Caller::operator()));
        }
        _ => {
            for (no, line) in lines {
                let (hash, caller) = token_of(line).map_err(|why| {
                    format!("line {no}: {why}; `batchwright token new NAME --role ROLE` prints a valid line")
                })?;
                if known.iter().any(|(other, _)| *other == hash) {
                    return Err(format!("line {no}: an earlier line has the same hash"));
                }
                known.push((hash, caller));
            }
        }
    }
    Ok(known)
}

fn token_of(line: &str) -> Result<(Hash, Caller), String> {
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_default();
    let (name, role, hash) = (word(), word(), word());
    check_name(name)?;
    let role = Role::from_str(role).map_err(|_| {
        let roles = list(&Role::ALL);
        format!("the second word must be a role; the roles are {roles}")
    })?;
    let hash = hash.strip_prefix(HASH_PREFIX).and_then(hash_of);
    let hash = hash.ok_or_else(|| {
        format!("the third word must be {HASH_PREFIX} and the 64 hex digits of the token's SHA-256")
    })?;
    let mut limits = TokenLimits::default();
    for word in words {
        set_limit(&mut limits, word).ok_or_else(|| {
            format!(
                "the words after the hash must be {REQUESTS}=NUMBER or {OPEN_JOBS}=NUMBER, with a number of 1 or more"
            )
        })?;
    }
    let caller = Caller {
        name: Some(name.into()),
        role,
        limits,
    };
    Ok((hash, caller))
}

/// Sets the limit that a word names; `None` if it names none.
fn set_limit(limits: &mut TokenLimits, word: &str) -> Option<()> {
    let (limit, value) = word.split_once('=')?;
    let number = || value.parse().ok().filter(|number: &u32| *number > 0);
    match limit {
        REQUESTS => limits.requests_per_minute = Some(number()?),
        OPEN_JOBS => limits.open_jobs = Some(number()?.into()),
        _ => return None,
    }
    Some(())
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(format!(
        "a name has 1 to {LONGEST_NAME} letters of ASCII, digits and characters of ._-@"
    ))
}

fn hash_of(hex: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if hex.len() != 2 * hash.len() || !hex.is_ascii() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// Makes a random token. Returns it, and its line for a [token file](crate::Server::token_file), which contains only its
/// hash.
///
/// # Errors
/// If the name has characters other than ASCII letters, digits and `._-@`, or more than 64; if the system has no random
/// numbers.
pub fn new_token(name: &str, role: Role, limits: TokenLimits) -> Result<(Secret, String), Error> {
    check_name(name).map_err(|why| Error::new(ErrorKind::Invalid, why))?;
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| {
        let why = format!("the system has no random numbers: {error}");
        Error::new(ErrorKind::Transient, why)
    })?;
    let token = format!("bw_{}", URL_SAFE_NO_PAD.encode(random));
    let mut line = format!("{name} {} {HASH_PREFIX}", role.as_str());
    for byte in Sha256::digest(&token) {
        let _ = write!(line, "{byte:02x}");
    }
    if let Some(most) = limits.requests_per_minute {
        let _ = write!(line, " {REQUESTS}={most}");
    }
    if let Some(most) = limits.open_jobs {
        let _ = write!(line, " {OPEN_JOBS}={most}");
    }
    Ok((Secret::new(token), line))
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
