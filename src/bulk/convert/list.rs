//! A JSON file that is one list: each element becomes a line.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::base::json_read::without_bom;
use crate::base::{Context, Error};
use crate::bulk::input::{check_list, fault};
use crate::bulk::spool::SpoolFile;

/// Number of bytes that show whether a text is a list.
const FIRST_LOOK: u64 = 16 << 10;

/// Writes the elements of the list in `text`, each of at most `most` bytes.
///
/// # Errors
/// With the line, if it is not one complete list.
pub(super) fn write(
    most: usize,
    text: impl Read,
    spool: &mut SpoolFile,
    name: &str,
    ctx: &Context,
) -> Result<(), Error> {
    let mut text = BufReader::with_capacity(1 << 16, text);
    let unreadable = |error| fault::unreadable(name, &error);
    let mut start = Vec::new();
    let read = (&mut text).take(FIRST_LOOK).read_to_end(&mut start);
    read.map_err(unreadable)?;
    check_list(name, &start)?;
    let mut failed = None;
    let read = Cell::new(0);
    let text = without_bom(&start).chain(text);
    let mut json = serde_json::Deserializer::from_reader(Counted {
        text,
        most,
        read: &read,
    });
    let write = |element: &RawValue| {
        ctx.check()?;
        read.set(0);
        // Line ends are blanks outside of strings, which have none.
        let line = element.get().replace(['\n', '\r'], " ") + "\n";
        spool.write(line.as_bytes())
    };
    let read = json.deserialize_seq(Elements(write, &mut failed));
    match (read.and_then(|()| json.end()), failed) {
        (Ok(()), None) => Ok(()),
        (_, Some(error)) => Err(error),
        (Err(error), None) if error.is_io() => Err(unreadable(error.into())),
        (Err(error), None) => Err(fault::of_list(name, &error)),
    }
}

/// Fails within an element that is longer than a record may be, because it is in memory while it is read.
struct Counted<'c, R> {
    text: R,
    most: usize,
    /// Bytes since the last element.
    read: &'c Cell<usize>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(buffer)?;
        self.read.set(self.read.get() + read);
        if self.read.get() > self.most {
            let most = self.most >> 20;
            return Err(io::Error::other(format!(
                "an element has more than {most} MiB, and at most {most} are allowed"
            )));
        }
        Ok(read)
    }
}

/// Passes each element to a function, and stores its error.
struct Elements<'e, F>(F, &'e mut Option<Error>);

impl<'de, F: FnMut(&RawValue) -> Result<(), Error>> Visitor<'de> for Elements<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element::<Box<RawValue>>()? {
            (self.0)(&element).map_err(|error| A::Error::custom(self.1.insert(error)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_that_never_ends_fills_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = SpoolFile::new(folder.path(), "in.json", u64::MAX).unwrap();
        let whole = format!("\"{}\",", "x".repeat(600 << 10));
        let text = format!("[{whole}{whole}\"");
        let text = text.as_bytes().chain(io::repeat(b'x'));
        let error = write(1 << 20, text, &mut spool, "in.json", &Context::new());
        let error = error.unwrap_err();
        assert!(error.message().contains("more than 1 MiB"), "{error}");
    }
}
