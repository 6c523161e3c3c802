//! The data that a helper reads from its standard input if it was started before its command was known.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde::Deserialize;

use super::encoding::{decode, encode};
use super::policy::Policy;

/// A command and its confinement.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Assignment {
    pub policy: Policy,
    pub program: OsString,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
}

impl Assignment {
    pub fn encode<'a>(
        policy: &Policy,
        program: &Path,
        arguments: &[OsString],
        environment: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
    ) -> Vec<u8> {
        let environment: Vec<_> = environment.collect();
        let program = program.as_os_str();
        encode(&(policy, program, arguments, environment)).into_bytes()
    }

    /// `None` if it is not complete.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn any_assignment_is_decoded() {
        let odd = OsString::from_vec(b"a b\n:\xff".to_vec());
        let policy = Policy {
            token: "t".to_owned(),
            ..Policy::default()
        };
        let arguments = [odd.clone(), OsString::new()];
        let environment = [(odd.as_os_str(), OsStr::new("")), ("A".as_ref(), &odd)];
        let encoded =
            Assignment::encode(&policy, odd.as_ref(), &arguments, environment.into_iter());
        let assignment = Assignment {
            policy,
            program: odd.clone(),
            arguments: arguments.to_vec(),
            environment: vec![(odd.clone(), "".into()), ("A".into(), odd)],
        };
        assert_eq!(Assignment::decode(&encoded).as_ref(), Some(&assignment));
        for cut in 0..encoded.len() {
            assert_ne!(
                Assignment::decode(&encoded[..cut]).as_ref(),
                Some(&assignment),
                "{cut}"
            );
        }
    }
}
