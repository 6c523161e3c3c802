//! What the helper is told: as one variable of its environment, which the command never sees. Other
//! processes cannot read it there either, as they could an argument.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::limits::Limits;

/// The variable that carries it.
pub const VARIABLE: &str = "BATCHWRIGHT_CONFINE";

/// Changes with the fields below: a helper of another version refuses to work.
const FORMAT: &str = "1";

/// What one command is confined to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Marks what the helper says itself, which a command cannot know.
    pub token: String,
    /// The process that started the helper. When it ends, so does the command.
    pub parent: u32,
    /// Which command of the run this is.
    pub number: u64,
    /// The working directory.
    pub folder: PathBuf,
    /// Confine by the kernel at all.
    pub confine: bool,
    /// End if the kernel cannot enforce all of it.
    pub strict: bool,
    pub network: bool,
    pub local_sockets: bool,
    /// Where commands may write.
    pub writable: Vec<PathBuf>,
    pub limits: Limits,
    /// Where commands are announced to the watchdog.
    pub watchdog: Option<PathBuf>,
    /// Variables of the command that would have the helper load code before it is confined.
    pub late_variables: Vec<(OsString, OsString)>,
}

impl Policy {
    /// That of one command of the run, which works in `folder`.
    pub fn of_command(&self, number: u64, folder: &Path) -> Self {
        let mut policy = self.clone();
        policy.number = number;
        folder.clone_into(&mut policy.folder);
        policy.writable.push(folder.to_owned());
        policy
    }

    pub fn encode(&self) -> OsString {
        let mut fields = Fields::default();
        fields.put(FORMAT);
        fields.put(&self.token);
        fields.put(self.parent.to_string());
        fields.put(self.number.to_string());
        fields.put(&self.folder);
        for flag in [self.confine, self.strict, self.network, self.local_sockets] {
            fields.put(if flag { "1" } else { "" });
        }
        let limits = &self.limits;
        for limit in [
            limits.cpu_seconds,
            limits.memory,
            limits.file_size,
            limits.processes,
        ] {
            fields.put(limit.map_or_else(String::new, |limit| limit.to_string()));
        }
        fields.put(self.watchdog.as_deref().unwrap_or("".as_ref()));
        fields.put(self.writable.len().to_string());
        for path in &self.writable {
            fields.put(path);
        }
        for (name, value) in &self.late_variables {
            fields.put(name);
            fields.put(value);
        }
        OsString::from_vec(fields.0)
    }

    /// `None` if it is not in our words.
    pub fn decode(text: &OsStr) -> Option<Self> {
        let mut fields = Reading(text.as_bytes());
        if fields.text()? != FORMAT {
            return None;
        }
        let token = fields.text()?.to_owned();
        let parent = fields.text()?.parse().ok()?;
        let number = fields.text()?.parse().ok()?;
        let folder = fields.path()?;
        let mut flag = || Some(!fields.next()?.is_empty());
        let [confine, strict, network, local_sockets] = [flag()?, flag()?, flag()?, flag()?];
        let mut limit = || match fields.text()? {
            "" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let limits = Limits {
            cpu_seconds: limit()?,
            memory: limit()?,
            file_size: limit()?,
            processes: limit()?,
        };
        let watchdog = Some(fields.path()?).filter(|path| !path.as_os_str().is_empty());
        let paths: usize = fields.text()?.parse().ok()?;
        let writable = (0..paths).map(|_| fields.path()).collect::<Option<_>>()?;
        let mut late_variables = Vec::new();
        while !fields.0.is_empty() {
            let (name, value) = (fields.path()?, fields.path()?);
            late_variables.push((name.into_os_string(), value.into_os_string()));
        }
        Some(Self {
            token,
            parent,
            number,
            folder,
            confine,
            strict,
            network,
            local_sockets,
            writable,
            limits,
            watchdog,
            late_variables,
        })
    }
}

/// Bytes after their count: `3:abc`.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn put(&mut self, field: impl AsRef<OsStr>) {
        let bytes = field.as_ref().as_bytes();
        self.0.extend(format!("{}:", bytes.len()).into_bytes());
        self.0.extend(bytes);
    }
}

struct Reading<'a>(&'a [u8]);

impl<'a> Reading<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let colon = self.0.iter().position(|&byte| byte == b':')?;
        let length: usize = std::str::from_utf8(&self.0[..colon]).ok()?.parse().ok()?;
        let (field, rest) = self.0[colon + 1..].split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.next()?).ok()
    }

    fn path(&mut self) -> Option<PathBuf> {
        Some(OsStr::from_bytes(self.next()?).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood_whatever_is_in_the_names() {
        let odd = OsString::from_vec(b"/a b\n:\xff".to_vec());
        let policy = Policy {
            token: "t".to_owned(),
            parent: 7,
            number: u64::MAX,
            folder: odd.clone().into(),
            confine: true,
            network: true,
            writable: vec![odd.clone().into(), "/tmp".into()],
            limits: Limits {
                cpu_seconds: Some(3),
                ..Limits::default()
            },
            watchdog: Some("/run/w".into()),
            late_variables: vec![("LD_PRELOAD".into(), odd), ("A".into(), "".into())],
            ..Policy::default()
        };
        assert_eq!(Policy::decode(&policy.encode()), Some(policy.clone()));
        let encoded = policy.encode().into_vec();
        for cut in 0..encoded.len() {
            let read = Policy::decode(OsStr::from_bytes(&encoded[..cut]));
            assert_ne!(read, Some(policy.clone()), "{cut}");
        }
        assert_eq!(Policy::decode("1:21:".as_ref()), None);
    }
}
