//! What was paid.

use batchwright::progress::Timestamp;
use batchwright::provider::{ChargeSum, Day, LedgerColumn, LedgerQuery, LedgerRow};
use serde_json::json;

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::shapes::now;

/// Number of days that are shown if the request names no first one.
const SHOWN_DAYS: i64 = 30;
const MILLIS_OF_DAY: i64 = 86_400_000;

/// `GET /api/v1/costs`: what was paid, by day, model, token and others.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["since", "until", "by"])?;
    let until = day(call, "until")?;
    let since = day(call, "since")?.unwrap_or_else(|| {
        let last = until.map_or_else(now, Day::start);
        Day::of(Timestamp(last.0 - (SHOWN_DAYS - 1) * MILLIS_OF_DAY))
    });
    let by = columns(call)?;
    let query = LedgerQuery::by(&by).between(Some(since), until);
    let rows = app.queue.charge_sums(&query)?;
    let mut total = ChargeSum::default();
    rows.iter().for_each(|row| total += row.sum);
    Ok(Response::json(
        200,
        &json!({
            "since": since,
            "until": until,
            "data": rows,
            "total": LedgerRow::of(total),
        }),
    ))
}

fn day(call: &Call<'_>, name: &str) -> Result<Option<Day>, Problem> {
    let Some(text) = call.query::<String>(name)? else {
        return Ok(None);
    };
    let wrong = |_| {
        let why = format!("{name}: write a day, for example 2026-11-26");
        Problem::invalid(why).param(name)
    };
    text.parse().map(Some).map_err(wrong)
}

fn columns(call: &Call<'_>) -> Result<Vec<LedgerColumn>, Problem> {
    let Some(text) = call.query::<String>("by")? else {
        return Ok(vec![LedgerColumn::Day, LedgerColumn::Model]);
    };
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let columns = names.map(str::parse::<LedgerColumn>);
    columns
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::invalid(format!("by: {}", error.message())).param("by"))
}
