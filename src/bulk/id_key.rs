//! Half of a digest, which identifies ids and lines that would take too much memory themselves.

use sha2::{Digest, Sha256};

pub(crate) type Key = u128;

pub(super) fn key(id: &str) -> Key {
    key_of(id.as_bytes())
}

pub(crate) fn key_of(bytes: &[u8]) -> Key {
    let digest = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    Key::from_be_bytes(half)
}
