//! Results as a table: one row per item, with its input row, the answer and properties of the item. The result
//! files are read twice, because the columns must be known before the first row is written. Between the readings,
//! memory holds only the position of the line that counts for each id.

mod cell;
mod columns;
mod output;
mod results;
mod sink;
#[cfg(feature = "tables")]
mod tables;

#[cfg(test)]
mod tests;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use serde_json::Value;

use crate::base::brief::Many;
use crate::base::{AtomicFile, Context, Error, ErrorKind};
use crate::bulk::input::fault;
use crate::bulk::open_output::{ALSO_INPUT, is_same_file};
use crate::llm::params::ResponseFormat;

use cell::{Row, with_row};
use columns::{Column, ColumnsSeen, Selection, properties};
pub use output::ExportFormat;
use results::{Place, ResultFiles};
use sink::{Sink, TextTable, unwritable};

/// Converts result files to a table: one row per item. If an item has several lines, the last one counts.
///
/// The columns are, in this order: the columns of the input rows, as the lines keep them; `id`, unless a column of the
/// rows with this name contains it; the answer as `text`, [by property](Self::json_schema) or as `embedding`; and
/// `error_message`: at most 12, without the last ones of the rows if there are more. [All](Self::all_columns) columns
/// include `success` and the rest of the error; tokens, cost, model and other fields of the result line. They do not
/// depend on the outcomes of the items: a table without failures has the columns of the error too. Fields that depend on the request (tool calls, reasoning, citations,
/// probabilities, the complete reply) have a column if any line has the field. If two columns have the same name
/// (ignoring case), the column of the rows keeps it, a property is named `answer_…`, and any other column
/// `result_…`.
///
/// ```no_run
/// use std::path::Path;
/// use batchwright::Context;
/// use batchwright::files::Export;
/// let export = Export::new(["results.jsonl"]);
/// let report = export.to_file(Path::new("out.csv"), &Context::new())?;
/// println!("{} rows, {} of them without success", report.rows, report.failed);
/// # Ok::<(), batchwright::Error>(())
/// ```
// `Debug` shows neither names nor texts.
#[derive(Default, derive_more::Debug, Setters)]
#[setters(strip_option)]
pub struct Export {
    #[setters(skip)]
    #[debug("{:?}", Many(results.len()))]
    results: Vec<PathBuf>,
    #[setters(skip)]
    #[debug(skip)]
    selection: Selection,
    /// Whether answers that are JSON objects get one column per property, in the order of their first occurrence. Lists
    /// and objects in them are written as JSON; an answer that is not an object stays in `text`. Default: no.
    by_property: bool,
    /// The properties of the schema.
    #[setters(skip)]
    #[debug(skip)]
    declared: Vec<String>,
    /// The format of the table. Default: the format for the extension of its file.
    format: Option<ExportFormat>,
    /// The separator between CSV fields: one ASCII character that is not a quote or a line end. Default: a comma, and a
    /// tab for TSV.
    #[debug(skip)]
    delimiter: Option<u8>,
    /// Whether CSV and TSV cells that a spreadsheet would read as formulas stay unchanged. Default: no; a text whose
    /// first character other than white space is `=`, `+`, `-` or `@`, and that is not a number, gets a leading apostrophe.
    raw: bool,
    /// Whether CSV and TSV begin with a byte order mark, so that Excel reads them as UTF-8. Default: no.
    bom: bool,
    /// Whether an existing file is replaced. Default: no; an existing file is an error.
    overwrite: bool,
}

/// Programs on Windows recognise UTF-8 by this mark.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Numbers of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportReport {
    /// Rows, one per item.
    pub rows: u64,
    /// Rows of items without success.
    pub failed: u64,
    /// The names of the columns.
    pub columns: Vec<String>,
    /// Lines that were omitted because a later line has the same id.
    pub replaced: u64,
    /// Result files whose last line is truncated; that line was omitted.
    pub torn: Vec<PathBuf>,
    /// Cells of an `.xlsx` file that were cut; each ends with a note.
    pub cut_cells: u64,
    /// Cells of CSV and TSV that got an apostrophe in front, because a spreadsheet would read them as formulas.
    pub guarded_cells: u64,
    /// Rows that lack columns, because the results do not have all of large rows.
    pub cut_rows: u64,
    /// Columns of the rows and the answers that the table omits because there are too many.
    pub left_out: u64,
}

impl Export {
    /// An export of these files. If an id occurs in several of them, the last line counts.
    pub fn new<P: Into<PathBuf>>(results: impl IntoIterator<Item = P>) -> Self {
        Self {
            results: results.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Whether the table has all columns. Replaces [`columns`](Self::columns). Default: no.
    pub fn all_columns(mut self, yes: bool) -> Self {
        let wanted = yes.then_some(Selection::All);
        self.selection = wanted.unwrap_or_default();
        self
    }

    /// The columns of the table, in this order, by the names that they have among [all](Self::all_columns) columns.
    pub fn columns<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.selection = Selection::Named(names.into_iter().map(Into::into).collect());
        self
    }

    /// Whether the table has only the ids and the answers: `id`, and `text`, [the properties](Self::json_schema) or
    /// `embedding`. Items without success have a row without an answer. Replaces [`columns`](Self::columns). Default:
    /// no.
    pub fn only_answers(mut self, yes: bool) -> Self {
        let wanted = yes.then_some(Selection::Answers);
        self.selection = wanted.unwrap_or_default();
        self
    }

    /// As [`by_property`](Self::by_property) with true, but the properties of this schema come first, also those that no
    /// answer has. Default: no schema.
    ///
    /// # Errors
    /// As [`ResponseFormat::json_schema`], and if the schema names no properties.
    pub fn json_schema(mut self, schema: Value) -> Result<Self, Error> {
        if let ResponseFormat::JsonSchema { schema, .. } = ResponseFormat::json_schema(schema)? {
            self.declared = properties(&schema)?;
        }
        self.by_property = true;
        Ok(self)
    }

    /// Writes the table to a file, which appears under its name only when it is complete.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the table cannot be written as requested: the file exists, its format is unknown or
    /// too small for the table, or a result file is not one; [`ErrorKind::Cancelled`]; [`ErrorKind::Transient`] if
    /// writing fails.
    pub fn to_file(self, path: impl AsRef<Path>, ctx: &Context) -> Result<ExportReport, Error> {
        let path = path.as_ref();
        let format = match self.format {
            Some(format) => format,
            None => ExportFormat::of(path)?,
        };
        self.check(format)?;
        if let Some(same) = self.results.iter().find(|file| is_same_file(path, file)) {
            return Err(fault::of_file(same.display(), ALSO_INPUT));
        }
        let files = ResultFiles::open(&self.results)?;
        let file = output::create(path, self.overwrite)?;
        let read = self.read(files, ctx)?;
        let sink = self.sink(format, &file, &read)?;
        let report = read.write(sink, ctx)?;
        output::finish(file, path, self.overwrite, ctx)?;
        Ok(report)
    }

    /// Writes the table to a stream, as CSV unless [`format`](Self::format) sets another format.
    ///
    /// # Errors
    /// As [`to_file`](Self::to_file), and for a format that is not text.
    pub fn to_writer(self, out: impl Write, ctx: &Context) -> Result<ExportReport, Error> {
        let format = self.format.unwrap_or(ExportFormat::Csv);
        self.check(format)?;
        if !format.is_text() {
            let why = "only CSV, TSV and JSON lines can be written to a stream; name a file";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let files = ResultFiles::open(&self.results)?;
        let read = self.read(files, ctx)?;
        let out = BufWriter::with_capacity(1 << 16, out);
        read.write(self.text_sink(format, out, &read.columns)?, ctx)
    }

    fn check(&self, format: ExportFormat) -> Result<(), Error> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, why));
        #[cfg(not(feature = "tables"))]
        if !format.is_text() {
            return invalid(crate::bulk::NOT_BUILT);
        }
        let is_table = matches!(format, ExportFormat::Csv | ExportFormat::Tsv);
        if (self.raw || self.bom || self.delimiter.is_some()) && !is_table {
            return invalid("--raw, --bom and --output-delimiter are for .csv and .tsv");
        }
        let fits = |by: u8| by.is_ascii() && !matches!(by, b'"' | b'\r' | b'\n');
        if self.delimiter.is_none_or(fits) {
            Ok(())
        } else {
            invalid("a delimiter is one ASCII character that is not a quote or a line end")
        }
    }

    /// Reads the results to determine the columns of the table.
    fn read(&self, files: ResultFiles, ctx: &Context) -> Result<Read, Error> {
        let (lines, report) = files.scan(ctx)?;
        let mut read = Read {
            files,
            lines,
            columns: Vec::new(),
            by_property: self.by_property,
            report,
        };
        // Fields that only replaced lines have get no column.
        let mut seen = ColumnsSeen::with_properties(&self.declared);
        read.each(ctx, &mut |row| seen.add(row))?;
        (read.columns, read.report.left_out) = seen.columns(&self.selection)?;
        let names = read.columns.iter().map(|column| column.name.clone());
        read.report.columns = names.collect();
        Ok(read)
    }

    fn sink(
        &self,
        format: ExportFormat,
        new: &AtomicFile,
        read: &Read,
    ) -> Result<Box<dyn Sink>, Error> {
        let file = new.file().try_clone().map_err(unwritable)?;
        match format {
            #[cfg(feature = "tables")]
            ExportFormat::Parquet => {
                let columns = tables::columns(&read.columns);
                let table = batchwright_tables::ParquetTable::new(file, &columns);
                let kinds = columns.iter().map(|column| column.kind).collect();
                let table = table.map_err(tables::failed)?;
                Ok(Box::new(tables::ParquetSink(table, kinds)))
            }
            #[cfg(feature = "tables")]
            ExportFormat::Xlsx => {
                let folder = crate::base::disk::folder_of(new.path());
                let names = read.files.paths().filter_map(Path::file_name);
                let whole: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
                let columns = tables::columns(&read.columns);
                let rows = read.report.rows;
                let sheet =
                    batchwright_tables::Sheet::new(file, folder, rows, &columns, whole.join(", "));
                Ok(Box::new(sheet.map_err(tables::failed)?))
            }
            _ => {
                let out = BufWriter::with_capacity(1 << 18, file);
                self.text_sink(format, out, &read.columns)
            }
        }
    }

    fn text_sink<'w>(
        &self,
        format: ExportFormat,
        mut out: impl Write + 'w,
        columns: &[Column],
    ) -> Result<Box<dyn Sink + 'w>, Error> {
        let delimiter = match format {
            ExportFormat::Csv => Some(self.delimiter.unwrap_or(b',')),
            ExportFormat::Tsv => Some(self.delimiter.unwrap_or(b'\t')),
            _ => None,
        };
        if self.bom {
            out.write_all(BYTE_ORDER_MARK).map_err(unwritable)?;
        }
        let table = TextTable::new(out, delimiter, self.raw, columns);
        Ok(Box::new(table.map_err(unwritable)?))
    }
}

/// Results with the shape of their table.
struct Read {
    files: ResultFiles,
    /// The lines of the table.
    lines: Vec<Place>,
    columns: Vec<Column>,
    by_property: bool,
    report: ExportReport,
}

impl Read {
    /// Passes each result to `visit`.
    fn each(
        &self,
        ctx: &Context,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.files.read(&self.lines, ctx, &mut |line| {
            with_row(line, self.by_property, |row| visit(row))
        })
    }

    /// Reads the results again and writes them.
    fn write(&self, mut sink: Box<dyn Sink + '_>, ctx: &Context) -> Result<ExportReport, Error> {
        let mut report = self.report.clone();
        self.each(ctx, &mut |row| {
            report.failed += u64::from(!row.is_success());
            report.cut_rows += u64::from(row.is_cut());
            let columns = self.columns.iter();
            let cells: Vec<_> = columns.map(|column| row.cell(&column.source)).collect();
            sink.row(&cells)
        })?;
        sink.finish(&mut report)?;
        Ok(report)
    }
}
