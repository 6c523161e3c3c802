//! Conditions of inserts: they check that a program still owns the request that it adds jobs for.

use rusqlite::types::Value;

/// A value in a row of a database, or bound to a statement.
#[derive(Debug, Clone, PartialEq, derive_more::From)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// A number.
    #[from(i64, bool)]
    Int(i64),
    /// A text. Database servers return texts as bytes.
    #[from(String, &str)]
    Text(String),
    /// Bytes.
    #[from(&[u8])]
    Bytes(Vec<u8>),
}

impl From<SqlValue> for Value {
    fn from(value: SqlValue) -> Self {
        match value {
            SqlValue::Null => Self::Null,
            SqlValue::Int(number) => Self::Integer(number),
            SqlValue::Text(text) => Self::Text(text),
            SqlValue::Bytes(bytes) => Self::Blob(bytes),
        }
    }
}

impl<T: Into<SqlValue>> From<Option<T>> for SqlValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A condition under which jobs are added: a statement that changes a row of the same database, and finds no row if
/// another program has taken over the request. See [`JobQueue::guarded`](crate::JobQueue::guarded).
#[derive(Debug, Clone)]
pub struct InsertGuard {
    pub(super) statement: String,
    pub(super) values: Vec<SqlValue>,
}

impl InsertGuard {
    /// The statement in the SQL of the store, with `#name` for its tables.
    pub fn new(statement: impl Into<String>, values: Vec<SqlValue>) -> Self {
        Self {
            statement: statement.into(),
            values,
        }
    }
    /// The values in the type of the databases.
    pub(super) fn bound(&self) -> Vec<Value> {
        self.values.iter().cloned().map(Value::from).collect()
    }
}
