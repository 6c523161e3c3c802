//! Conditions of inserts: they check that a program still owns the request that it adds jobs for.

use rusqlite::types::Value;

/// A value in a row of a database, or bound to a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// A number.
    Int(i64),
    /// A text. Database servers return texts as bytes.
    Text(String),
    /// Bytes.
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

impl From<i64> for SqlValue {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for SqlValue {
    fn from(yes: bool) -> Self {
        Self::Int(yes.into())
    }
}

impl From<&str> for SqlValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for SqlValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for SqlValue {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
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
