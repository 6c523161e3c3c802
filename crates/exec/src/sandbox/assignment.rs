//! The data that a helper reads from its standard input if it was started before its command was known.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::policy::{Fields, Policy, Reading};

/// A command and its confinement.
#[derive(Debug, PartialEq, Eq)]
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
        let mut fields = Fields::default();
        fields.put(policy.encode());
        fields.put(program);
        fields.put(arguments.len().to_string());
        for argument in arguments {
            fields.put(argument);
        }
        fields.put_pairs(environment);
        fields.0
    }

    /// `None` if it does not have our format.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Reading(bytes);
        let policy = Policy::decode(OsStr::from_bytes(fields.next()?))?;
        let program = fields.path()?.into_os_string();
        let count: usize = fields.text()?.parse().ok()?;
        let mut word = || Some(fields.path()?.into_os_string());
        let arguments = (0..count).map(|_| word()).collect::<Option<_>>()?;
        let environment = fields.pairs()?;
        Some(Self {
            policy,
            program,
            arguments,
            environment,
        })
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
