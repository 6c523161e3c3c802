//! The types of jobs that clients can create.

use batchwright::Job;
use batchwright_jobs::PayloadError;
use serde_json::Value;

use crate::app::App;
use crate::problem::Problem;

/// Longest name of an item or a process, in characters.
pub(super) const LONGEST_NAME: usize = 256;

/// A job of this type, which the worker carries out.
pub(super) fn of_type(app: &App, name: &str, payload: Value) -> Result<Job, Problem> {
    refuse_unknown(app, name)?;
    let at = |error: PayloadError| {
        let field = match error.field.as_str() {
            "" => "payload".to_owned(),
            field => format!("payload.{field}"),
        };
        Problem::invalid(format!("{field}: {}", error.message)).param(field)
    };
    match app.types.get(name) {
        Ok(known) => known.job(payload).map_err(at),
        Err(_) => Ok(Job::new(name, &payload)?),
    }
}

/// The types of jobs that clients can create: those that the worker supports. A name with a dot belongs to an internal
/// part of a type.
pub(super) fn offered(app: &App) -> impl Iterator<Item = &str> {
    let kinds = app.kinds.iter().map(String::as_str);
    kinds.filter(|kind| !kind.contains('.'))
}

/// Rejects a type that the worker does not support, and lists the supported ones.
pub(super) fn refuse_unknown(app: &App, name: &str) -> Result<(), Problem> {
    if offered(app).any(|kind| kind == name) {
        return Ok(());
    }
    let known: Vec<&str> = offered(app).collect();
    let why = format!("type: unknown type; known types: {}", known.join(", "));
    Err(Problem::invalid(why).param("type"))
}
