//! A JSON file that is one list, or an object with it: each element becomes a line; a text is a prompt.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use crate::base::json_read::without_bom;
use crate::base::{Context, Error};
use crate::bulk::input::{Fault, check_encoding, fault, of_object};
use crate::bulk::spool::SpoolFile;

/// Number of bytes that show whether a text is a list.
const FIRST_LOOK: u64 = 16 << 10;

/// Writes the elements of the list in `text`, or in that field of the object in `text`, each of at most `most` bytes.
///
/// # Errors
/// With the line, if it is not one complete list.
pub(super) fn write(
    most: usize,
    field: Option<&str>,
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
    check_start(name, &start, field, most, &mut text)?;
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
        let element = element.get().replace(['\n', '\r'], " ");
        let line = if element.starts_with('"') {
            format!("{{\"prompt\":{element}}}\n")
        } else {
            element + "\n"
        };
        spool.write(line.as_bytes())
    };
    let elements = Elements(write, &mut failed);
    let read = match field {
        None => elements.deserialize(&mut json),
        Some(field) => json.deserialize_map(InField(field, elements)),
    };
    match (read.and_then(|()| json.end()), failed) {
        (Ok(()), None) => Ok(()),
        (_, Some(error)) => Err(error),
        (Err(error), None) if error.is_io() => Err(unreadable(error.into())),
        (Err(error), None) => Err(fault::of_list(name, &error)),
    }
}

/// Rejects text that does not begin with what is expected. Of an object at most `most` bytes are read, to say what helps.
fn check_start(
    name: &str,
    start: &[u8],
    field: Option<&str>,
    most: usize,
    rest: impl Read,
) -> Result<(), Error> {
    let of_file = |fault: Fault| fault::of_file(name, fault);
    check_encoding(start).map_err(of_file)?;
    let expected = match field {
        Some(field) => format!("an object with the list {field:?}"),
        None => "one list of objects: [{…}, {…}]".to_owned(),
    };
    let found = match (without_bom(start).trim_ascii_start().first(), field) {
        (Some(b'['), None) | (Some(b'{'), Some(_)) => return Ok(()),
        (Some(b'{'), None) => {
            let mut text = start.to_vec();
            let read = rest.take(most as u64).read_to_end(&mut text);
            read.map_err(|error| fault::unreadable(name, &error))?;
            let text = String::from_utf8_lossy(without_bom(&text));
            return Err(of_file(of_object(name, &text)));
        }
        (Some(b'['), Some(_)) => "a list",
        (Some(_), _) => "something else than JSON",
        (None, _) => "no list",
    };
    Err(of_file(Fault::new(found, expected)))
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

/// Passes on the elements of the list in the field of that name.
struct InField<'f, E>(&'f str, E);

impl<'de, E: DeserializeSeed<'de, Value = ()>> Visitor<'de> for InField<'_, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the list {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let (wanted, mut list) = (self.0, Some(self.1));
        while let Some(name) = fields.next_key::<String>()? {
            if name != wanted {
                fields.next_value::<IgnoredAny>()?;
            } else if let Some(list) = list.take() {
                fields.next_value_seed(list)?;
            } else {
                return Err(A::Error::custom(format!("the field {wanted:?} twice")));
            }
        }
        match list {
            None => Ok(()),
            Some(_) => Err(A::Error::custom(format!("no field {wanted:?}"))),
        }
    }
}

/// Passes each element to a function, and stores its error.
struct Elements<'e, F>(F, &'e mut Option<Error>);

impl<'de, F: FnMut(&RawValue) -> Result<(), Error>> DeserializeSeed<'de> for Elements<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

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
        let error = write(1 << 20, None, text, &mut spool, "in.json", &Context::new());
        let error = error.unwrap_err();
        assert!(error.message().contains("more than 1 MiB"), "{error}");
    }
}
