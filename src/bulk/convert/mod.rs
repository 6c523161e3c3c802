//! Inputs that cannot be read directly. Because items are read again by their position, an input that is compressed, in
//! another encoding, or neither JSON lines nor text is converted once into a file of lines in the spool folder, and that
//! file is checked and read. Messages use the name of the input, and the record positions of the original.

use std::io::{self, Read};
use std::path::Path;

use encoding_rs::Encoding;

use crate::base::{Context, Error};

use super::input::{
    Fault, Form, MAX_RECORD_BYTES, NamedFile, Place, PromptSettings, Source, check_file, fault,
};
use super::spool::{SpoolFile, copy, most_unpacked};

#[cfg(feature = "files")]
mod folder;
mod list;
mod rows;
mod table;
mod unpack;

#[cfg(not(feature = "tables"))]
pub(crate) use table::NOT_BUILT;
use unpack::{Decoded, Packing, unpacked};

/// Opens a file of prompts; converts it in the spool folder if it cannot be read directly.
pub(super) fn open(
    path: &Path,
    settings: &PromptSettings,
    folder: &Path,
    ctx: &Context,
) -> Result<NamedFile, Error> {
    let name = path.display().to_string();
    let unreadable = |error: io::Error| fault::unreadable(&name, &error);
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
    let kind = table::Kind::of(path, start, settings)?;
    if kind.is_some() {
        check_flags(&name, false, settings)?;
    }
    #[cfg(feature = "tables")]
    if let Some(kind) = kind {
        return kind.open(path, source, settings, folder, ctx);
    }
    #[cfg(not(feature = "tables"))]
    if kind.is_some() {
        return Err(fault::of_file(&name, NOT_BUILT));
    }
    let named = Packing::named(path);
    let form = match (settings.form, &named) {
        (Some(form), _) => form,
        (None, Some(inner)) => Form::of(inner)?,
        (None, None) => Form::of(path)?,
    };
    let found = Packing::of(start);
    if found.is_none() && settings.encoding.is_none() && matches!(form, Form::Jsonl | Form::Text) {
        check_flags(&name, false, settings)?;
        return Ok(NamedFile::new(name, form, source));
    }
    let spool = SpoolFile::anywhere(folder, &name, most_unpacked(source.len()))?;
    let text = source.reader().map_err(unreadable)?;
    let text = plain_text(&name, text, settings.encoding)?;
    let file = converted(text, form, &name, spool, settings, ctx)?;
    Ok(NamedFile {
        origin: Some(source),
        ..file
    })
}

/// Writes a text of that format in lines.
pub(super) fn converted(
    text: impl Read,
    form: Form,
    name: &str,
    mut spool: SpoolFile,
    settings: &PromptSettings,
    ctx: &Context,
) -> Result<NamedFile, Error> {
    check_flags(name, matches!(form, Form::Csv | Form::Tsv), settings)?;
    let file = |spool: SpoolFile, form| {
        let source = spool.into_source()?;
        Ok(NamedFile::new(name.to_owned(), form, source))
    };
    match form {
        Form::Csv | Form::Tsv => rows::of_text(text, form, name, spool, settings, ctx),
        Form::Json => {
            let field = settings.list.as_deref();
            list::write(MAX_RECORD_BYTES, field, text, &mut spool, name, ctx)?;
            Ok(NamedFile {
                first: Place::first_item(),
                ..file(spool, Form::Jsonl)?
            })
        }
        Form::Whole => rows::whole(text, name, spool, ctx),
        Form::Jsonl | Form::Text => {
            copy(text, &mut spool, name, ctx)?;
            file(spool, form)
        }
    }
}

/// Rejects settings of tables of text for another input.
fn check_flags(name: &str, is_table: bool, settings: &PromptSettings) -> Result<(), Error> {
    let flag = match (settings.delimiter, settings.quotes) {
        _ if is_table => return Ok(()),
        (Some(_), _) => "--delimiter",
        (None, Some(_)) => "--quotes",
        (None, None) => return Ok(()),
    };
    let fault = Fault::new(flag, "a table of text: other inputs have neither");
    Err(fault::of_file(name, fault))
}

/// Converts the data of a reader to text, whatever it is compressed with.
pub(super) fn plain_text<'r>(
    name: &str,
    reader: impl Read + 'r,
    encoding: Option<&'static Encoding>,
) -> Result<Box<dyn Read + 'r>, Error> {
    let text = unpacked(reader).map_err(|error| fault::unreadable(name, &error))?;
    Ok(match encoding {
        Some(encoding) => Box::new(Decoded::new(text, encoding)),
        None => text,
    })
}
