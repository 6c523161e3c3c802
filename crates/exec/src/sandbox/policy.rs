//! The policy of a run: what launchers forbid to their commands.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::encoding::optional_path;
use super::limits::Limits;
use super::place::Place;

/// The variable that contains the policy, or the orders of the watchdog. Other processes cannot read it there, as they
/// could read an argument.
pub const VARIABLE: &str = "BATCHWRIGHT_CONFINE";

/// The confinement of commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether the kernel confines the command at all.
    pub confine: bool,
    /// Whether to fail if the kernel cannot enforce all of it.
    pub strict: bool,
    pub network: bool,
    pub local_sockets: bool,
    /// Other files and folders to which commands may write.
    pub writable: Vec<Place>,
    pub limits: Limits,
    /// The cgroup that the launcher enters; in the policy of a run, the cgroup that contains those of its launchers.
    #[serde(with = "optional_path")]
    pub cgroup: Option<PathBuf>,
    /// Variables of commands that would make the launcher load code.
    pub late_variables: Vec<(OsString, OsString)>,
}

impl Policy {
    /// The policy of the launcher with this number.
    pub fn of_launcher(&self, number: u64) -> Self {
        let of_run = self.cgroup.as_ref();
        Self {
            cgroup: of_run.map(|of_run| of_run.join(number.to_string())),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStringExt;

    use super::super::encoding::{FORMAT, decode, encode};
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
        let encoded = encode(&policy);
        assert_eq!(decode(encoded.as_bytes()), Some(policy));
        for cut in 0..encoded.len() {
            assert_eq!(decode::<Policy>(&encoded.as_bytes()[..cut]), None, "{cut}");
        }
        let older = encoded.replacen(FORMAT, "5", 1);
        assert_eq!(decode::<Policy>(older.as_bytes()), None);
    }
}
