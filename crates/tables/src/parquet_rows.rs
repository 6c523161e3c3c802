//! A Parquet file, row by row: lists, maps and structs as JSON, times as text, decimals with all digits.

use std::fs::File;
use std::path::Path;

use base64::Engine;
use parquet::basic::{Compression, ConvertedType, LogicalType, TimeUnit, Type as PhysicalType};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{Int96, Int96Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value as Json};

use crate::panics::unless_it_panics;
use crate::time::{date, time, timestamp};
use crate::{Error, Rows, Value, give};

/// Reads all rows of a Parquet file.
///
/// # Errors
/// [`Error::Refused`] for a file that is not one, or has a column of a type or compression that is not known; the
/// errors of `rows`.
pub fn read_parquet(path: &Path, rows: &mut dyn Rows) -> Result<(), Error> {
    // The reader panics on some unsupported features.
    unless_it_panics(|| read(path, rows)).unwrap_or_else(|| {
        let why = "it is damaged, or has a type of column that is not known";
        Err(Error::unreadable(why))
    })
}

fn read(path: &Path, rows: &mut dyn Rows) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::unreadable)?;
    let reader = SerializedFileReader::new(file).map_err(Error::unreadable)?;
    if let Some(codec) = unsupported(reader.metadata()) {
        return Err(Error::Refused(format!(
            "found columns compressed with {codec}; expected Snappy, gzip, Zstandard, LZ4 or no compression"
        )));
    }
    if let Some((column, of)) = unknown_type(reader.metadata()) {
        return Err(Error::Refused(format!(
            "found the column \"{column}\" of type {of}, which cannot be read; leave it out of the file, or cast it to \
             another type, for example text"
        )));
    }
    let schema = reader
        .metadata()
        .file_metadata()
        .schema_descr()
        .root_schema_ptr();
    let fields = schema.get_fields();
    let names: Vec<String> = fields.iter().map(|of| of.name().to_owned()).collect();
    rows.columns(&names, 0)?;
    let mut exact = Int96Column::all(&reader).map_err(Error::Refused)?;
    let mut values = Vec::new();
    for row in RowIter::from_file(None, &reader).map_err(Error::unreadable)? {
        let row = row.map_err(Error::unreadable)?;
        values.clear();
        for ((name, cell), of) in row.into_columns().into_iter().zip(fields) {
            values.push(match exact.iter_mut().find(|column| column.name == name) {
                Some(column) if cell != Field::Null => {
                    let nanos = column.next().map_err(Error::unreadable)?;
                    Value::Json(timestamp(nanos, is_utc(Some(of))).into())
                }
                _ => value_of(cell, of),
            });
        }
        give(rows, &values)?;
    }
    Ok(())
}

fn value_of(cell: Field, of: &Type) -> Value {
    let decimal = match &cell {
        Field::Decimal(_) => RawValue::from_string(decimal(&cell)).ok(),
        _ => None,
    };
    decimal.map_or_else(|| Value::Json(json(cell, Some(of))), Value::Decimal)
}

/// The compression of a column that cannot be unpacked.
fn unsupported(metadata: &ParquetMetaData) -> Option<&'static str> {
    let groups = metadata.row_groups().iter();
    let mut columns = groups.flat_map(RowGroupMetaData::columns);
    columns.find_map(|column| match column.compression() {
        Compression::BROTLI(_) => Some("Brotli"),
        Compression::LZO => Some("LZO"),
        _ => None,
    })
}

/// A column with values on which the row reader panics, and its type. Writers produce only INTERVAL.
fn unknown_type(metadata: &ParquetMetaData) -> Option<(String, ConvertedType)> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let unknown = columns.iter().find(|column| {
        column.physical_type() == PhysicalType::FIXED_LEN_BYTE_ARRAY
            && !matches!(
                column.converted_type(),
                ConvertedType::DECIMAL | ConvertedType::NONE
            )
    });
    unknown.map(|column| (column.path().string(), column.converted_type()))
}

/// A decimal. Without a fraction it still has a decimal point.
fn decimal(value: &Field) -> String {
    value.to_string().trim_end_matches('.').to_owned()
}

/// A column of 96-bit times. The row reader would drop fractions of a millisecond.
struct Int96Column<'f> {
    name: String,
    file: &'f dyn FileReader,
    column: usize,
    /// The next row group.
    group: usize,
    pages: Option<ColumnReaderImpl<Int96Type>>,
    values: std::vec::IntoIter<Int96>,
}

impl<'f> Int96Column<'f> {
    fn all(file: &'f dyn FileReader) -> Result<Vec<Self>, String> {
        let schema = file.metadata().file_metadata().schema_descr();
        let columns = schema.columns().iter().enumerate();
        let times = columns.filter(|(_, of)| of.physical_type() == PhysicalType::INT96);
        times
            .map(|(column, of)| match of.path().parts() {
                [name] if of.max_rep_level() == 0 => Ok(Self {
                    name: name.clone(),
                    file,
                    column,
                    group: 0,
                    pages: None,
                    values: Vec::new().into_iter(),
                }),
                _ => Err(format!(
                    "found times of 96 bits within \"{}\"; expected them in top-level columns, or as \
                     timestamps of 64 bits",
                    of.path().string()
                )),
            })
            .collect()
    }

    /// The next value that is not null, in nanoseconds since 1970.
    fn next(&mut self) -> Result<i128, ParquetError> {
        const VALUES: usize = 1024;
        loop {
            if let Some(value) = self.values.next() {
                return Ok(nanos_of(value));
            }
            let pages = match &mut self.pages {
                Some(pages) => pages,
                none => {
                    let group = self.file.get_row_group(self.group)?;
                    self.group += 1;
                    let reader = group.get_column_reader(self.column)?;
                    none.insert(get_typed_column_reader(reader))
                }
            };
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let (read, ..) = pages.read_records(VALUES, Some(&mut levels), None, &mut values)?;
            if read == 0 {
                self.pages = None;
            }
            self.values = values.into_iter();
        }
    }
}

/// The nanoseconds of the day, and the Julian day.
fn nanos_of(value: Int96) -> i128 {
    const DAY_OF_1970: i128 = 2_440_588;
    const NANOS_OF_DAY: i128 = 86_400_000_000_000;
    let [low, high, day] = [0, 1, 2].map(|i| i128::from(value.data()[i]));
    (day - DAY_OF_1970) * NANOS_OF_DAY + (high << 32 | low)
}

/// A value, of this type if the type is known.
fn json(value: Field, of: Option<&Type>) -> Json {
    match value {
        Field::Null => Json::Null,
        Field::Bool(yes) => yes.into(),
        Field::Byte(n) => n.into(),
        Field::Short(n) => n.into(),
        Field::Int(n) => integer(n.into(), of),
        Field::Long(n) => integer(n, of),
        Field::UByte(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::ULong(n) => n.into(),
        Field::Float16(x) => single(x.to_f32()),
        Field::Float(x) => single(x),
        Field::Double(x) => double(x),
        Field::Decimal(_) => decimal(&value).into(),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => bytes_as_text(bytes.data(), of),
        Field::Date(days) => date(days.into()).into(),
        Field::TimeMillis(millis) => time(i128::from(millis) * 1_000_000).into(),
        Field::TimeMicros(micros) => time(i128::from(micros) * 1000).into(),
        Field::TimestampMillis(millis) => {
            timestamp(i128::from(millis) * 1_000_000, is_utc(of)).into()
        }
        Field::TimestampMicros(micros) => timestamp(i128::from(micros) * 1000, is_utc(of)).into(),
        Field::Group(row) => {
            let fields = row.into_columns().into_iter();
            let object: Map<String, Json> = fields
                .map(|(name, value)| {
                    let value = json(value, of.and_then(|of| child(of, &name)));
                    (name, value)
                })
                .collect();
            object.into()
        }
        Field::ListInternal(list) => {
            let element = of.and_then(element);
            let all = list.elements().iter().cloned();
            all.map(|value| json(value, element))
                .collect::<Vec<_>>()
                .into()
        }
        Field::MapInternal(map) => {
            let [key, value] = of.map_or([None, None], pair);
            let entries = map.entries().iter().cloned();
            let object: Map<String, Json> = entries
                .map(|(name, found)| {
                    let name = json(name, key);
                    let name = name
                        .as_str()
                        .map_or_else(|| name.to_string(), str::to_owned);
                    (name, json(found, value))
                })
                .collect();
            object.into()
        }
    }
}

/// An integer, or the time that it encodes: newer types of times have no other mark.
fn integer(n: i64, of: Option<&Type>) -> Json {
    let nanos = |unit: &TimeUnit| {
        let scale = match unit {
            TimeUnit::MILLIS => 1_000_000,
            TimeUnit::MICROS => 1000,
            _ => 1,
        };
        i128::from(n) * scale
    };
    match of.and_then(|of| of.get_basic_info().logical_type_ref()) {
        Some(LogicalType::Timestamp(kind)) => {
            timestamp(nanos(&kind.unit), kind.is_adjusted_to_u_t_c).into()
        }
        Some(LogicalType::Time(kind)) => time(nanos(&kind.unit)).into(),
        _ => n.into(),
    }
}

/// Whether a time is in UTC. Times of old files are, unless declared otherwise.
fn is_utc(of: Option<&Type>) -> bool {
    let info = of.map(Type::get_basic_info);
    match info.and_then(|info| info.logical_type_ref()) {
        Some(LogicalType::Timestamp(kind)) => kind.is_adjusted_to_u_t_c,
        _ => info.is_some_and(|info| info.converted_type() != ConvertedType::NONE),
    }
}

fn bytes_as_text(bytes: &[u8], of: Option<&Type>) -> Json {
    let logical = of.and_then(|of| of.get_basic_info().logical_type_ref());
    if let (Some(LogicalType::Uuid), Ok(id)) = (logical, uuid::Uuid::from_slice(bytes)) {
        return id.to_string().into();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => base64::prelude::BASE64_STANDARD.encode(bytes).into(),
    }
}

/// The shortest decimal number with the same value: 0.1, not 0.10000000149011612.
fn single(x: f32) -> Json {
    match x.to_string().parse() {
        Ok(number) => double(number),
        Err(_) => double(x.into()),
    }
}

/// A number; NaN becomes null, and numbers that JSON cannot represent become texts.
fn double(x: f64) -> Json {
    match Number::from_f64(x) {
        Some(number) => number.into(),
        None if x.is_nan() => Json::Null,
        None => x.to_string().into(),
    }
}

fn child<'t>(of: &'t Type, name: &str) -> Option<&'t Type> {
    let mut fields = of.is_group().then(|| of.get_fields()).into_iter().flatten();
    fields.find(|field| field.name() == name).map(AsRef::as_ref)
}

/// The type of a list's elements: inside a repeated group; in old files the repeated field itself, or any repeated
/// field that is not declared as a list.
fn element(of: &Type) -> Option<&Type> {
    let info = of.get_basic_info();
    let is_list = info.converted_type() == ConvertedType::LIST
        || info.logical_type_ref() == Some(&LogicalType::List);
    if !is_list || !of.is_group() {
        return Some(of);
    }
    let repeated = of.get_fields().first()?.as_ref();
    let wraps = repeated.is_group() && repeated.get_fields().len() == 1;
    if wraps && repeated.name() != "array" && !repeated.name().ends_with("_tuple") {
        repeated.get_fields().first().map(AsRef::as_ref)
    } else {
        Some(repeated)
    }
}

fn pair(of: &Type) -> [Option<&Type>; 2] {
    let entries = of.is_group().then(|| of.get_fields().first()).flatten();
    let fields = entries
        .filter(|entries| entries.is_group())
        .map(|entries| entries.get_fields());
    [0, 1].map(|i| fields.and_then(|fields| fields.get(i)).map(AsRef::as_ref))
}
