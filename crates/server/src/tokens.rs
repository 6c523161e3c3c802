//! Tokens: what the sender of a request may do.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::{Error, ErrorKind, Secret};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Problem;

/// What a token may do at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
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
        self.into()
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
        found.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("unknown role; {ROLES}")))
    }
}

const ROLES: &str = "the roles are read and operate";

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

/// A SHA-256 hash: its length does not depend on the received token.
type Hash = [u8; 32];
type Known = Vec<(Hash, Role)>;

/// The tokens of a server.
pub(crate) struct Tokens {
    /// The token that the host set.
    single: Option<Hash>,
    file: Option<PathBuf>,
    state: RwLock<State>,
}

struct State {
    known: Arc<Known>,
    /// Why the present file is not used.
    problem: Option<String>,
}

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

    /// The role of who sent this header `authorization`.
    ///
    /// # Errors
    /// 401 without a valid token.
    pub fn role(&self, authorization: Option<&str>) -> Result<Role, Problem> {
        if self.single.is_none() && self.file.is_none() {
            return Ok(Role::Operate);
        }
        let given = authorization.and_then(|text| text.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, given)) = given else {
            return Err(refused("send a token: Authorization: Bearer TOKEN"));
        };
        let given: Hash = Sha256::digest(given.trim()).into();
        let known = Arc::clone(&self.state.read().known);
        let single = self.single.map(|hash| (hash, Role::Operate));
        let mut found = None;
        // Every token is compared, so that the time does not tell which one is similar.
        for (hash, role) in single.iter().chain(known.iter()) {
            if hash.ct_eq(&given).into() {
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
fn refuse_readable(file: &File, path: &Path) -> Result<(), String> {
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
            known.push((Sha256::digest(token).into(), Role::Operate));
        }
        _ => {
            for (no, line) in lines {
                let (hash, role) = token_of(line).map_err(|why| {
                    format!("line {no}: {why}; `batchwright token new NAME --role ROLE` prints a valid line")
                })?;
                if known.iter().any(|(other, _)| *other == hash) {
                    return Err(format!("line {no}: an earlier line has the same hash"));
                }
                known.push((hash, role));
            }
        }
    }
    Ok(known)
}

fn token_of(line: &str) -> Result<(Hash, Role), String> {
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_default();
    let (name, role, hash, rest) = (word(), word(), word(), word());
    check_name(name)?;
    let role =
        Role::from_str(role).map_err(|_| format!("the second word must be a role; {ROLES}"))?;
    let hash = hash.strip_prefix(HASH_PREFIX).and_then(hash_of);
    let hash = hash.ok_or_else(|| {
        format!("the third word must be {HASH_PREFIX} and the 64 hex digits of the token's SHA-256")
    })?;
    if !rest.is_empty() {
        return Err("the line must end after the hash".to_owned());
    }
    Ok((hash, role))
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
pub fn new_token(name: &str, role: Role) -> Result<(Secret, String), Error> {
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
    Ok((Secret::new(token), line))
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
