//! The policy that the helper receives, in one environment variable, which the command never sees. Other processes
//! cannot read it there, as they could read an argument.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::encoding::{decode, encode, optional_path};
use super::limits::Limits;
use super::place::Place;

/// The variable that contains the policy.
pub const VARIABLE: &str = "BATCHWRIGHT_CONFINE";

/// The confinement of one command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(with = "optional_path")]
    pub cgroup: Option<PathBuf>,
    /// Variables of the command that would make the helper load code before it is confined.
    pub late_variables: Vec<(OsString, OsString)>,
}

impl Policy {
    /// The policy of one command of the run, which works in `folder`.
    pub fn of_command(&self, number: u64, folder: Place) -> Self {
        let of_run = self.cgroup.as_ref();
        Self {
            folder,
            cgroup: of_run.map(|of_run| of_run.join(number.to_string())),
            ..self.clone()
        }
    }

    pub fn encode(&self) -> String {
        encode(self)
    }

    /// `None` if another version has encoded it.
    pub fn decode(text: &OsStr) -> Option<Self> {
        decode(text.to_str()?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

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
        assert_eq!(
            Policy::decode(policy.encode().as_ref()),
            Some(policy.clone())
        );
        let encoded = policy.encode();
        for cut in 0..encoded.len() {
            assert_eq!(Policy::decode(encoded[..cut].as_ref()), None, "{cut}");
        }
        let older = encoded.replacen(super::super::encoding::FORMAT, "5", 1);
        assert_eq!(Policy::decode(older.as_ref()), None);
    }
}
