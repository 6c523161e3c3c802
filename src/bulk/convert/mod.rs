//! Inputs that cannot be read directly. Because items are read again by their position, an input that is compressed, in
//! another encoding or not text is converted once into a text file in the spool folder, and that file is checked and
//! read. Messages use the name of the input, and the record positions of the original.

use std::io::{self, Read};
use std::path::Path;

use encoding_rs::Encoding;

use crate::base::{Context, Error};

use super::input::{Form, InputError, NamedFile, Numbers, PromptSettings, Source, check_file};
use super::spool::{SpoolFile, copy};

#[cfg(feature = "files")]
mod folder;
pub(super) mod list;
mod table;
mod unpack;

#[cfg(not(feature = "tables"))]
pub(crate) use table::NOT_BUILT;
use unpack::Decoded;
use unpack::{Packing, unpacked};

/// Opens a file of prompts; converts it in the spool folder if it cannot be read directly.
pub(super) fn open(
    path: &Path,
    settings: &PromptSettings,
    folder: &Path,
    ctx: &Context,
) -> Result<NamedFile, Error> {
    let name = path.display().to_string();
    let unreadable = |error: io::Error| Error::from(InputError::unreadable(&name, &error));
    if path.is_dir() {
        #[cfg(feature = "files")]
        return folder::open(path, settings, folder, ctx);
        #[cfg(not(feature = "files"))]
        Form::of(path)?;
    }
    let source = Source::open(path).map_err(unreadable)?;
    let mut start = [0; table::START_BYTES];
    let n = source.fill(&mut start, 0).map_err(unreadable)?;
    let start = &start[..n];
    check_file(&name, start)?;
    if let Some(kind) = table::Kind::of(path, start, settings)? {
        return kind.open(path, source, settings, folder, ctx);
    }
    let named = Packing::named(path);
    let form = match (settings.form, &named) {
        (Some(form), _) => form,
        (None, Some((_, inner))) => Form::of(inner)?,
        (None, None) => Form::of(path)?,
    };
    let found = Packing::of(start);
    if let (Some((packing, _)), None) = (&named, found) {
        let why = format!(
            "found no {packing} data, although the name says so; expected a name that fits the content"
        );
        return Err(InputError::of_file(&name, why).into());
    }
    if found.is_none() && settings.encoding.is_none() && form != Form::Json {
        return Ok(NamedFile::new(name, form, source));
    }
    let mut spool = SpoolFile::anywhere(folder, &name, settings.most_unpacked(source.len()))?;
    let text = plain_text(&name, source.reader(), settings.encoding)?;
    match form {
        Form::Json => list::write(text, &mut spool, &name, ctx)?,
        _ => copy(text, &mut spool, &name, ctx, &mut |_| {})?,
    }
    made_from(source, name, form, spool)
}

/// Replaces an input by a complete text file that was made from it, which has the elements of a list as lines.
pub(super) fn made_from(
    origin: Source,
    name: String,
    form: Form,
    spool: SpoolFile,
) -> Result<NamedFile, Error> {
    let source = spool.into_source()?;
    let (form, numbers) = match form {
        Form::Json => (Form::Jsonl, Numbers::Items),
        other => (other, Numbers::Lines),
    };
    Ok(NamedFile {
        origin: Some(origin),
        numbers,
        ..NamedFile::new(name, form, source)
    })
}

/// Converts the data of a reader to text, whatever it is compressed with.
pub(super) fn plain_text<'r>(
    name: &str,
    reader: impl Read + 'r,
    encoding: Option<&'static Encoding>,
) -> Result<Box<dyn Read + 'r>, InputError> {
    let text = unpacked(reader).map_err(|error| InputError::unreadable(name, &error))?;
    Ok(match encoding {
        Some(encoding) => Box::new(Decoded::new(text, encoding)),
        None => text,
    })
}
