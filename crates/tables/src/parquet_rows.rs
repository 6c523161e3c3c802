//! A Parquet file, row by row: lists, maps and structs as JSON, times as text, decimals with all digits.

use std::fs::File;
use std::path::Path;

use base64::Engine;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit};
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
        let why = "it is damaged, or has a column of a type that is not known, such as INTERVAL: leave it out of the file, or \
                   cast it to text";
        Err(Error::unreadable(why))
    })
}

fn read(path: &Path, rows: &mut dyn Rows) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::unreadable)?;
    let reader = SerializedFileReader::new(file).map_err(Error::unreadable)?;
    let schema = reader
        .metadata()
        .file_metadata()
        .schema_descr()
        .root_schema_ptr();
    let fields = schema.get_fields();
    let names: Vec<String> = fields.iter().map(|of| of.name().to_owned()).collect();
    rows.columns(&names, 0)?;
    let mut values = Vec::new();
    for row in RowIter::from_file(None, &reader).map_err(Error::unreadable)? {
        let row = row.map_err(Error::unreadable)?;
        values.clear();
        let cells = row.into_columns().into_iter().zip(fields);
        values.extend(cells.map(|((_, cell), of)| value_of(cell, of)));
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

/// A decimal. Without a fraction it still has a decimal point.
fn decimal(value: &Field) -> String {
    value.to_string().trim_end_matches('.').to_owned()
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
            let all = list.elements().iter().cloned();
            all.map(|value| json(value, None)).collect()
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().cloned();
            let object: Map<String, Json> = entries
                .map(|(name, found)| {
                    let name = json(name, None);
                    let name = name
                        .as_str()
                        .map_or_else(|| name.to_string(), str::to_owned);
                    (name, json(found, None))
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
