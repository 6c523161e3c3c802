//! A compiled JSON Schema, and what in a value does not fit it.

use std::collections::VecDeque;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ReferencingError, ValidationError, Validator};
use parking_lot::RwLock;
use serde_json::Value;

use super::reply_details::is_small;

/// A compiled JSON Schema.
#[derive(Clone)]
pub(crate) struct Schema(Arc<Compiled>);

struct Compiled {
    schema: Value,
    validator: Validator,
}

/// Compiled schemas of the whole process: input lines repeat theirs, as do all answers.
static COMPILED: RwLock<VecDeque<Schema>> = RwLock::new(VecDeque::new());

/// A run has one schema or a few. With more than this they are compiled again and again, which
/// is slower and no worse.
const MOST_CACHED: usize = 64;

/// Compiling recurses, on threads with a stack of 2 MiB.
const DEEPEST: usize = 100;

/// Misfits named at once.
const NAMED: usize = 5;

/// Limits of a value whose misfits are named. The validator collects all errors before it returns the first, at some
/// hundred bytes each; and where alternatives contain each other, their number multiplies with each level of the value.
const NAMED_PARTS: usize = 50_000;
const NAMED_LEVELS: usize = 10;

impl Schema {
    /// Compiles a schema, or finds it compiled.
    ///
    /// # Errors
    /// What is wrong with the schema, and where in it.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        if let Some(found) = find(&COMPILED.read(), schema) {
            return Ok(found);
        }
        let mut parts = usize::MAX;
        if !is_small(schema, DEEPEST + 1, &mut parts) {
            return Err(format!("it is nested more than {DEEPEST} levels deep"));
        }
        let validator = jsonschema::options().offline().build(schema);
        let built = Self(Arc::new(Compiled {
            schema: schema.clone(),
            validator: validator.map_err(|error| fault(&error))?,
        }));
        let mut compiled = COMPILED.write();
        if find(&compiled, schema).is_none() {
            if compiled.len() >= MOST_CACHED {
                compiled.pop_front();
            }
            compiled.push_back(built.clone());
        }
        Ok(built)
    }

    /// Where a value does not fit, without a word of what stands there; `None` if it fits. That alone
    /// is decided by looking at everything; places are named in a value of a limited size only.
    pub(crate) fn misfit(&self, value: &Value) -> Option<String> {
        let validator = &self.0.validator;
        if validator.is_valid(value) {
            return None;
        }
        let mut parts = NAMED_PARTS;
        if !is_small(value, NAMED_LEVELS, &mut parts) {
            return Some("in too many places to list".to_owned());
        }
        let errors = validator.iter_errors(value).take(NAMED);
        let named = errors.map(|error| {
            let what = error.masked();
            match error.instance_path().as_str() {
                "" => what.to_string(),
                path => format!("at {path}: {what}"),
            }
        });
        Some(named.collect::<Vec<_>>().join("; "))
    }
}

fn find(compiled: &VecDeque<Schema>, schema: &Value) -> Option<Schema> {
    let mut compiled = compiled.iter();
    compiled.find(|known| known.0.schema == *schema).cloned()
}

fn fault(error: &ValidationError<'_>) -> String {
    if let ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, .. }) =
        error.kind()
    {
        return format!(
            "\"{uri}\" is outside of the schema and is not fetched: put it under \"$defs\""
        );
    }
    match error.instance_path().as_str() {
        "" => error.to_string(),
        path => format!("at {path}: {error}"),
    }
}
