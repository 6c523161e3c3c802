//! A Parquet file with one typed column each, in groups of rows that need little memory.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use crate::{Cell, Column, ColumnType, Error};

/// A group is written when it has this number of rows, or this number of bytes.
const GROUP_ROWS: usize = 1 << 16;
const GROUP_BYTES: usize = 16 << 20;

/// A Parquet file that is being written.
pub struct ParquetTable {
    file: SerializedFileWriter<File>,
    columns: Vec<Waiting>,
    rows: usize,
    bytes: usize,
}

/// The cells of a column that were not written yet, with Parquet's levels: 0 for an empty cell.
struct Waiting {
    values: Values,
    definitions: Vec<i16>,
    /// For lists: 0 at the start of a row.
    repetitions: Vec<i16>,
}

enum Values {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Text(Vec<ByteArray>),
    Vector(Vec<f32>),
}

impl ParquetTable {
    /// Begins a file with these columns.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be written.
    pub fn new(out: File, columns: &[Column]) -> Result<Self, Error> {
        let begun = schema(columns).and_then(|schema| {
            let properties = WriterProperties::builder()
                .set_compression(Compression::SNAPPY)
                .set_created_by(concat!("batchwright ", env!("CARGO_PKG_VERSION")).to_owned());
            SerializedFileWriter::new(out, schema, Arc::new(properties.build()))
        });
        Ok(Self {
            file: begun.map_err(Error::failed)?,
            columns: columns
                .iter()
                .map(|column| Waiting::new(column.kind))
                .collect(),
            rows: 0,
            bytes: 0,
        })
    }

    /// Writes a row with one cell per column.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be written.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            self.bytes += column.push(cell);
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.write_group().map_err(Error::failed)
        } else {
            Ok(())
        }
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        let ended = self.write_group().and_then(|()| self.file.close());
        ended.map(drop).map_err(Error::failed)
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        if self.rows > 0 {
            let mut group = self.file.next_row_group()?;
            for column in &mut self.columns {
                column.write(&mut group)?;
            }
            group.close()?;
        }
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

fn schema(columns: &[Column]) -> Result<TypePtr, ParquetError> {
    let fields: Result<Vec<TypePtr>, ParquetError> = columns
        .iter()
        .map(|column| field(column).map(Arc::new))
        .collect();
    let schema = Type::group_type_builder("schema").with_fields(fields?);
    schema.build().map(Arc::new)
}

fn field(column: &Column) -> Result<Type, ParquetError> {
    let name = column.name.as_str();
    let (physical, logical) = match column.kind {
        ColumnType::Bool => (Physical::BOOLEAN, None),
        ColumnType::Int => (Physical::INT64, None),
        ColumnType::Float => (Physical::DOUBLE, None),
        ColumnType::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        ColumnType::Vector => return list(name),
    };
    Type::primitive_type_builder(name, physical)
        .with_logical_type(logical)
        .with_repetition(Repetition::OPTIONAL)
        .build()
}

fn list(name: &str) -> Result<Type, ParquetError> {
    let element = Type::primitive_type_builder("element", Physical::FLOAT)
        .with_repetition(Repetition::REQUIRED)
        .build()?;
    let items = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    Type::group_type_builder(name)
        .with_logical_type(Some(LogicalType::List))
        .with_repetition(Repetition::OPTIONAL)
        .with_fields(vec![Arc::new(items)])
        .build()
}

impl Waiting {
    fn new(kind: ColumnType) -> Self {
        Self {
            values: match kind {
                ColumnType::Bool => Values::Bool(Vec::new()),
                ColumnType::Int => Values::Int(Vec::new()),
                ColumnType::Float => Values::Float(Vec::new()),
                ColumnType::Text => Values::Text(Vec::new()),
                ColumnType::Vector => Values::Vector(Vec::new()),
            },
            definitions: Vec::new(),
            repetitions: Vec::new(),
        }
    }

    /// Adds a cell; returns its approximate size in bytes.
    fn push(&mut self, cell: &Cell<'_>) -> usize {
        let (mut bytes, mut definition) = (10, 1);
        match (&mut self.values, cell) {
            (Values::Bool(all), Cell::Bool(yes)) => all.push(*yes),
            (Values::Int(all), Cell::Int(n)) => all.push(*n),
            (Values::Float(all), Cell::Float(x)) => all.push(*x),
            (Values::Text(all), Cell::Text(text)) => {
                all.push(ByteArray::from(text.as_bytes().to_vec()));
                bytes += text.len() + size_of::<ByteArray>();
            }
            (Values::Vector(all), Cell::Vector(numbers)) => {
                all.extend_from_slice(numbers);
                for nth in 0..numbers.len() {
                    self.definitions.push(2);
                    self.repetitions.push(i16::from(nth > 0));
                }
                // An empty list has levels of its own.
                if !numbers.is_empty() {
                    return 8 * numbers.len() + 4;
                }
            }
            // An empty cell: the type of a column fits each of its cells.
            _ => definition = 0,
        }
        self.definitions.push(definition);
        if matches!(self.values, Values::Vector(_)) {
            self.repetitions.push(0);
        }
        bytes
    }

    fn write(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, File>,
    ) -> Result<(), ParquetError> {
        let definitions = std::mem::take(&mut self.definitions);
        let repetitions = std::mem::take(&mut self.repetitions);
        match &mut self.values {
            Values::Bool(all) => column::<BoolType>(group, all, &definitions, None),
            Values::Int(all) => column::<Int64Type>(group, all, &definitions, None),
            Values::Float(all) => column::<DoubleType>(group, all, &definitions, None),
            Values::Text(all) => column::<ByteArrayType>(group, all, &definitions, None),
            Values::Vector(all) => {
                column::<FloatType>(group, all, &definitions, Some(&repetitions))
            }
        }
    }
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &mut Vec<T::T>,
    definitions: &[i16],
    repetitions: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("a column too many".to_owned()));
    };
    let values = std::mem::take(values);
    let writer = column.typed::<T>();
    writer.write_batch(&values, Some(definitions), repetitions)?;
    column.close()
}
