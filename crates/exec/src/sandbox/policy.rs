//! The policy that the helper receives, in one environment variable, which the command never sees. Other processes
//! cannot read it there, as they could read an argument.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::limits::Limits;
use super::place::Place;

/// The variable that contains the policy.
pub const VARIABLE: &str = "BATCHWRIGHT_CONFINE";

/// The version of the fields below; a helper of another version refuses to work.
pub const FORMAT: &str = "5";

/// The confinement of one command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Marks messages of the helper itself; a command cannot know it.
    pub token: String,
    /// The process that started the helper. When it ends, the command ends too.
    pub parent: u32,
    /// The working directory.
    pub folder: Place,
    /// Whether the kernel confines the command at all.
    pub confine: bool,
    /// Whether to fail if the kernel cannot enforce all of it.
    pub strict: bool,
    pub network: bool,
    pub local_sockets: bool,
    /// Other files and folders to which commands may write.
    pub writable: Vec<Place>,
    pub limits: Limits,
    /// The cgroup that the command enters; in the policy of a run, the cgroup that contains those of its commands.
    pub cgroup: Option<PathBuf>,
    /// Variables of the command that would make the helper load code before it is confined.
    pub late_variables: Vec<(OsString, OsString)>,
}

impl Policy {
    /// The policy of one command of the run, which works in `folder`.
    pub fn of_command(&self, number: u64, folder: Place) -> Self {
        let cgroup = self.cgroup.as_ref();
        Self {
            folder,
            cgroup: cgroup.map(|of_run| of_run.join(number.to_string())),
            ..self.clone()
        }
    }

    pub fn encode(&self) -> OsString {
        let mut fields = Fields::of_this_version();
        fields.put(&self.token);
        fields.put(self.parent.to_string());
        fields.put_place(&self.folder);
        for flag in [self.confine, self.strict, self.network, self.local_sockets] {
            fields.put_flag(flag);
        }
        let limits = &self.limits;
        for limit in [
            limits.cpu_seconds,
            limits.memory,
            limits.file_size,
            limits.processes,
        ] {
            fields.put_limit(limit);
        }
        fields.put_optional_path(self.cgroup.as_deref());
        fields.put(self.writable.len().to_string());
        for place in &self.writable {
            fields.put_place(place);
        }
        fields.put_pairs(
            self.late_variables
                .iter()
                .map(|(name, value)| (name, value)),
        );
        OsString::from_vec(fields.0)
    }

    /// `None` if it does not have our format.
    pub fn decode(text: &OsStr) -> Option<Self> {
        let mut fields = Reading::of_this_version(text)?;
        let token = fields.text()?.to_owned();
        let parent = fields.text()?.parse().ok()?;
        let folder = fields.place()?;
        let mut flag = || fields.flag();
        let [confine, strict, network, local_sockets] = [flag()?, flag()?, flag()?, flag()?];
        let limits = Limits {
            cpu_seconds: fields.limit()?,
            memory: fields.limit()?,
            file_size: fields.limit()?,
            processes: fields.limit()?,
        };
        let cgroup = fields.optional_path()?;
        let places: usize = fields.text()?.parse().ok()?;
        let writable = (0..places).map(|_| fields.place()).collect::<Option<_>>()?;
        let late_variables = fields.pairs()?;
        Some(Self {
            token,
            parent,
            folder,
            confine,
            strict,
            network,
            local_sockets,
            writable,
            limits,
            cgroup,
            late_variables,
        })
    }
}

/// Bytes, each sequence after its length: `3:abc`.
#[derive(Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    /// Starts with the format version, so that a reader of another version rejects the rest.
    pub fn of_this_version() -> Self {
        let mut fields = Self::default();
        fields.put(FORMAT);
        fields
    }

    pub fn put(&mut self, field: impl AsRef<OsStr>) {
        let bytes = field.as_ref().as_bytes();
        self.0.extend(format!("{}:", bytes.len()).into_bytes());
        self.0.extend(bytes);
    }

    pub fn put_flag(&mut self, flag: bool) {
        self.put(if flag { "1" } else { "" });
    }

    pub fn put_limit(&mut self, limit: Option<u64>) {
        self.put(limit.map_or_else(String::new, |limit| limit.to_string()));
    }

    pub fn put_optional_path(&mut self, path: Option<&Path>) {
        self.put(path.unwrap_or("".as_ref()));
    }

    /// Names and values, up to the end.
    pub fn put_pairs<T: AsRef<OsStr>>(&mut self, pairs: impl IntoIterator<Item = (T, T)>) {
        for (name, value) in pairs {
            self.put(name);
            self.put(value);
        }
    }

    fn put_place(&mut self, place: &Place) {
        self.put(&place.path);
        self.put(place.device.to_string());
        self.put(place.inode.to_string());
    }
}

pub struct Reading<'a>(pub &'a [u8]);

impl<'a> Reading<'a> {
    /// `None` if another version wrote it.
    pub fn of_this_version(text: &'a OsStr) -> Option<Self> {
        let mut fields = Self(text.as_bytes());
        (fields.text()? == FORMAT).then_some(fields)
    }

    pub fn next(&mut self) -> Option<&'a [u8]> {
        let colon = self.0.iter().position(|&byte| byte == b':')?;
        let length: usize = std::str::from_utf8(&self.0[..colon]).ok()?.parse().ok()?;
        let (field, rest) = self.0[colon + 1..].split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.next()?).ok()
    }

    pub fn path(&mut self) -> Option<PathBuf> {
        Some(OsStr::from_bytes(self.next()?).into())
    }

    pub fn flag(&mut self) -> Option<bool> {
        Some(!self.next()?.is_empty())
    }

    pub fn limit(&mut self) -> Option<Option<u64>> {
        match self.text()? {
            "" => Some(None),
            number => number.parse().ok().map(Some),
        }
    }

    pub fn optional_path(&mut self) -> Option<Option<PathBuf>> {
        let path = self.path()?;
        Some((!path.as_os_str().is_empty()).then_some(path))
    }

    /// Names and values, up to the end.
    pub fn pairs(&mut self) -> Option<Vec<(OsString, OsString)>> {
        let mut pairs = Vec::new();
        while !self.0.is_empty() {
            let (name, value) = (self.path()?, self.path()?);
            pairs.push((name.into_os_string(), value.into_os_string()));
        }
        Some(pairs)
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place {
            path: self.path()?,
            device: self.text()?.parse().ok()?,
            inode: self.text()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_policy_is_decoded() {
        let odd = OsString::from_vec(b"/a b\n:\xff".to_vec());
        let place = |path: &OsStr| Place {
            path: path.into(),
            device: 7,
            inode: u64::MAX,
        };
        let policy = Policy {
            token: "t".to_owned(),
            parent: 7,
            folder: place(&odd),
            confine: true,
            network: true,
            writable: vec![place(&odd), place("/tmp".as_ref())],
            limits: Limits {
                cpu_seconds: Some(3),
                ..Limits::default()
            },
            cgroup: Some(odd.clone().into()),
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
