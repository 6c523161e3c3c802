//! Ids of processes and jobs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use super::error::{Error, ErrorKind};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) Uuid);

        impl $name {
            /// The 16 bytes of the id.
            pub fn bytes(&self) -> [u8; 16] {
                *self.0.as_bytes()
            }

            /// The id with these 16 bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let why = concat!("is not a ", $what, " id; an id looks like 019aa0f4-5b7c-7d1e-8f00-0123456789ab");
                Uuid::parse_str(text.trim()).map(Self).map_err(|_| Error::new(ErrorKind::Invalid, format!("{text:?} {why}")))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// The id of a process: the jobs that one caller submits together. Choose it before enqueueing and store it, so
    /// that you find your jobs after a crash.
    ProcessId, "process"
}
id! {
    /// The id of a job.
    JobId, "job"
}

impl ProcessId {
    /// A new id; later ids sort after earlier ones.
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id derived from this name: a UUID of version 8, from a SHA-256 as in RFC 9562, appendix B.2.
    pub fn named(name: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update(NAMES)
            .chain_update(name)
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// The namespace of [`ProcessId::named`]; another one would lose waiting processes.
const NAMES: Uuid = Uuid::from_u128(0x6f2b_8c1e_47d5_4a90_b3f6_1d8e_92c7_5a04);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_always_has_the_same_id() {
        let id = ProcessId::named(b"/tmp/out.jsonl").to_string();
        assert_eq!(id, "053bf46d-82ff-8ed0-ad5d-b2b1db55b8ea");
        assert_ne!(ProcessId::named(b"/tmp/out2.jsonl").to_string(), id);
    }
}
