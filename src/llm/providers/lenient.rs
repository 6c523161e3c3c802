//! Replies that are JSON but for bytes that are not valid UTF-8. The answer in them was paid for, so these bytes are
//! replaced and it is read.

use std::borrow::Cow;

use crate::base::bom::without_bom;

const WARNING: &str = "the reply is not valid UTF-8: wrong bytes are replaced by \u{fffd}";

/// Reads JSON strictly, and where that fails, without its wrong bytes; then with a warning.
///
/// # Errors
/// What is still wrong with it.
pub(super) fn read<T>(
    body: &[u8],
    strictly: impl Fn(&[u8]) -> serde_json::Result<T>,
) -> serde_json::Result<(T, Option<String>)> {
    // A cut-off reply stays one if a proxy ends it with white space.
    let body = without_bom(body).trim_ascii_end();
    let read = strictly(body).map(|read| (read, None));
    read.or_else(|error| match String::from_utf8_lossy(body) {
        Cow::Owned(text) => Ok((strictly(text.as_bytes())?, Some(WARNING.to_owned()))),
        Cow::Borrowed(_) => Err(error),
    })
}
