//! A JSON file that is one list: each element becomes a line.

use std::fmt;
use std::io::{BufReader, Read};

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::base::bom::without_bom;
use crate::base::{Context, Error};
use crate::bulk::input::{InputError, check_list};
use crate::bulk::spool::SpoolFile;

/// Number of bytes that show whether a text is a list.
const FIRST_LOOK: u64 = 16 << 10;

/// Writes the elements of the list in `text`.
///
/// # Errors
/// With the line, if it is not one complete list.
pub(in crate::bulk) fn write(
    text: impl Read,
    spool: &mut SpoolFile,
    name: &str,
    ctx: &Context,
) -> Result<(), Error> {
    let mut text = BufReader::with_capacity(1 << 16, text);
    let unreadable = |error| Error::from(InputError::unreadable(name, &error));
    let mut start = Vec::new();
    let read = (&mut text).take(FIRST_LOOK).read_to_end(&mut start);
    read.map_err(unreadable)?;
    check_list(name, &start)?;
    let mut failed = None;
    let mut json = serde_json::Deserializer::from_reader(without_bom(&start).chain(text));
    let write = |element: &RawValue| {
        ctx.check()?;
        // Line ends are blanks outside of strings, which have none.
        let line = element.get().replace(['\n', '\r'], " ") + "\n";
        spool.write(line.as_bytes())
    };
    let read = json.deserialize_seq(Elements(write, &mut failed));
    match (read.and_then(|()| json.end()), failed) {
        (Ok(()), None) => Ok(()),
        (_, Some(error)) => Err(error),
        (Err(error), None) if error.is_io() => Err(unreadable(error.into())),
        (Err(error), None) => Err(InputError::of_list(name, &error).into()),
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
