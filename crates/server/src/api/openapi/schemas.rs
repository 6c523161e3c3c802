//! The shapes of what is sent and answered, as JSON Schema.

use batchwright::config::SettingKey;
use serde_json::{Map, Value, json};

use super::payloads;

/// The schema of this name.
pub(super) fn of(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn id() -> Value {
    json!({"type": "string", "format": "uuid"})
}

/// The names of all settings.
pub(super) fn keys() -> Vec<&'static str> {
    SettingKey::all().iter().map(SettingKey::name).collect()
}

/// An object with these fields, all of which are there.
fn object(fields: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let fields = fields
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()));
    json!({
        "type": "object",
        "required": names,
        "properties": Map::from_iter(fields),
    })
}

fn text() -> Value {
    json!({"type": "string"})
}

fn one_of(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

fn whole() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

/// Parts of a time.
fn seconds(parts: &[&str]) -> Value {
    let parts: Vec<String> = parts.iter().map(|part| format!("{part}_seconds")).collect();
    let parts: Vec<(&str, Value)> = parts.iter().map(|part| (part.as_str(), number())).collect();
    object(&parts)
}

fn many(schema: Value) -> Value {
    json!({"type": "array", "items": schema})
}

/// The same, or null.
fn or_null(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// All schemas by their names.
pub(super) fn all(kinds: &[&str]) -> Value {
    let status = one_of(&["pending", "in_progress", "completed", "failed", "cancelled"]);
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| {
        all.insert(name.to_owned(), schema);
    };
    let mut problem = object(&[
        ("type", text()),
        ("title", text()),
        ("status", whole()),
        ("detail", text()),
    ]);
    problem["properties"]["param"] =
        json!({"type": "string", "description": "The invalid field or parameter"});
    problem["properties"]["line"] =
        json!({"type": "integer", "description": "The number of the invalid line of the body"});
    add("Problem", problem);
    let mut error = object(&[
        ("kind", text()),
        (
            "class",
            one_of(&["retryable", "non_retryable", "rate_limit"]),
        ),
        ("status", or_null(whole())),
        ("message", text()),
    ]);
    error["description"] = json!("Why a job failed");
    add("Error", error);
    add("NewJob", payloads::new_job(kinds));
    add(
        "MadeJob",
        object(&[
            ("job_id", id()),
            ("process_id", id()),
            ("status", one_of(&["pending"])),
        ]),
    );
    add(
        "MadeProcess",
        object(&[
            ("process_id", id()),
            ("total", json!({"type": "integer", "minimum": 1})),
        ]),
    );
    add(
        "BriefJob",
        object(&[
            ("job_id", id()),
            ("item_id", or_null(text())),
            ("status", status.clone()),
            ("at_provider", flag()),
        ]),
    );
    let parts = ["queued", "quota", "cooldown", "backoff", "provider", "disk"];
    let mut time_of_job = or_null(seconds(&parts));
    time_of_job["description"] = json!(
        "How a retried job spent its time, up to its last failed call and the wait after it; null for jobs without \
         retries"
    );
    let attempt = object(&[("at", time()), ("step", whole()), ("error", of("Error"))]);
    add(
        "Job",
        object(&[
            ("job_id", id()),
            ("process_id", id()),
            ("type", text()),
            ("item_id", or_null(text())),
            ("status", status),
            (
                "progress",
                json!({"type": "integer", "minimum": 0, "maximum": 100, "description": "100 if the job has ended. Before that, the percentage of ended jobs for `batch_process`, and 0 for every other type"}),
            ),
            (
                "priority",
                json!({"type": "integer", "minimum": 1, "maximum": 10}),
            ),
            ("attempts", whole()),
            ("created_at", time()),
            ("due_at", or_null(time())),
            (
                "result",
                json!({"description": "The result; its form depends on the type; null until the job is completed"}),
            ),
            ("error", or_null(of("Error"))),
            ("errors", many(attempt)),
            ("time", time_of_job),
        ]),
    );
    add("Process", process());
    add("Batch", batch());
    let failure = object(&[
        ("kind", text()),
        ("message", text()),
        ("count", whole()),
        ("job_ids", many(id())),
    ]);
    add(
        "Failures",
        object(&[("data", many(failure)), ("truncated", flag())]),
    );
    let mut webhook = object(&[("url", json!({"type": "string", "maxLength": 2048}))]);
    webhook["additionalProperties"] = json!(false);
    add("NewWebhook", webhook);
    add(
        "MadeWebhook",
        object(&[("url", text()), ("secret", text())]),
    );
    add(
        "Webhook",
        object(&[
            ("url", text()),
            ("state", text()),
            ("attempts", whole()),
            ("next_in_seconds", or_null(whole())),
            ("error", or_null(text())),
        ]),
    );
    add(
        "NewValue",
        json!({
            "type": "object",
            "required": ["value"],
            "additionalProperties": false,
            "properties": {"value": {"type": ["string", "number", "boolean"]}},
        }),
    );
    add(
        "Setting",
        object(&[
            ("key", one_of(&keys())),
            ("value", or_null(text())),
            ("default", text()),
            (
                "source",
                one_of(&["flag", "environment", "store", "default"]),
            ),
            (
                "set_by",
                json!({"type": ["string", "null"], "description": "The flag or variable that overrides the stored value"}),
            ),
            ("accepts", text()),
            ("doc", text()),
            ("stored", or_null(text())),
            (
                "live",
                json!({"type": "boolean", "description": "A running worker applies changes"}),
            ),
            (
                "problem",
                json!({"type": ["string", "null"], "description": "Why the value cannot be used"}),
            ),
        ]),
    );
    add(
        "SettingChange",
        object(&[
            ("at", time()),
            ("key", text()),
            ("before", or_null(text())),
            ("after", or_null(text())),
            ("source", text()),
        ]),
    );
    add("Limits", limits());
    add("Overview", overview());
    add("Health", object(&[("status", one_of(&["ok"]))]));
    Value::Object(all)
}

fn process() -> Value {
    let parts = [
        "queued", "quota", "cooldown", "backoff", "provider", "disk", "source",
    ];
    let mut process = object(&[
        ("process_id", id()),
        ("name", or_null(text())),
        (
            "state",
            one_of(&["running", "finished", "cancelled", "unsealed"]),
        ),
        ("total", whole()),
        ("pending", whole()),
        ("in_progress", whole()),
        (
            "at_provider",
            json!({"type": "integer", "minimum": 0, "description": "Jobs in batches at the provider (strategy `batch`)"}),
        ),
        ("completed", whole()),
        ("failed", whole()),
        ("cancelled", whole()),
        (
            "consumed",
            json!({"type": "integer", "minimum": 0, "description": "Ended jobs whose results were fetched and deleted"}),
        ),
        (
            "percent",
            json!({"type": "number", "minimum": 0, "maximum": 100}),
        ),
        ("eta_seconds", or_null(number())),
        (
            "rate",
            json!({"type": ["number", "null"], "description": "Ended jobs per second"}),
        ),
        ("input_tokens", whole()),
        ("output_tokens", whole()),
        (
            "cost_usd",
            json!({"type": ["number", "null"], "description": "Null if the price of an answer is not known"}),
        ),
        ("created_at", time()),
        ("changed_at", time()),
        ("limited_by", or_null(text())),
        ("time", seconds(&parts)),
    ]);
    process["properties"]["parent"] = object(&[("process_id", id()), ("job_id", id())]);
    process
}

fn batch() -> Value {
    object(&[
        ("process_id", or_null(id())),
        ("provider", text()),
        ("model", or_null(text())),
        ("remote_id", or_null(text())),
        ("state", text()),
        ("total", whole()),
        ("completed", or_null(whole())),
        ("failed", or_null(whole())),
        ("age_seconds", whole()),
        ("problem", or_null(text())),
        ("attended", flag()),
    ])
}

fn limits() -> Value {
    let mut rate = object(&[
        ("limit", whole()),
        (
            "remaining",
            json!({"type": "integer", "minimum": 0, "description": "The rest of this minute's limit; 0 if the next call has to wait"}),
        ),
        (
            "reset_seconds",
            json!({"type": "number", "minimum": 0, "description": "Time until the complete limit is available again"}),
        ),
    ]);
    rate["description"] = json!("Limit per minute, configured or reported by the provider");
    let mut limits = object(&[
        ("provider", text()),
        ("model", or_null(text())),
        ("requests", or_null(rate.clone())),
        ("tokens", or_null(rate)),
        ("calls_in_flight", whole()),
        ("most_in_flight", or_null(whole())),
        (
            "paused_seconds",
            json!({"type": "number", "minimum": 0, "description": "Time without calls, because the provider rejected a call or was unreachable"}),
        ),
    ]);
    limits["description"] = json!("Limits of a provider for one model; null if no limit is known");
    limits
}

fn overview() -> Value {
    let states = [
        "pending",
        "in_progress",
        "at_provider",
        "completed",
        "failed",
        "cancelled",
    ];
    let pair = json!({"type": "array", "items": whole(), "minItems": 2, "maxItems": 2});
    let provider = object(&[
        ("name", text()),
        ("model", or_null(text())),
        ("local", flag()),
    ]);
    let strategy = object(&[
        ("asked", one_of(&["sync", "batch"])),
        ("effective", one_of(&["sync", "batch"])),
        ("fallback_reason", or_null(text())),
    ]);
    let skipped = object(&[("provider", text()), ("reason", text())]);
    let worker = object(&[
        ("slots", whole()),
        ("used", whole()),
        ("limited_by", or_null(text())),
        (
            "trouble",
            json!({"type": ["string", "null"], "description": "Why no job makes progress: the provider rejects all calls or is unreachable"}),
        ),
        (
            "calls_in_flight",
            json!({"type": "integer", "minimum": 0, "description": "Calls in flight"}),
        ),
        ("rate", number()),
        ("limits", many(of("Limits"))),
    ]);
    let failure = object(&[("kind", text()), ("message", text()), ("count", whole())]);
    let point = object(&[
        ("at", time()),
        ("ended_per_second", number()),
        ("failed_per_second", number()),
        ("waiting", whole()),
    ]);
    object(&[
        ("now", time()),
        ("jobs", object(&states.map(|state| (state, whole())))),
        ("waiting_by_priority", many(pair)),
        ("processes", whole()),
        ("processes_open", whole()),
        ("batches_open", whole()),
        ("worker", worker),
        ("provider", or_null(provider)),
        ("strategy", or_null(strategy)),
        ("skipped_providers", many(skipped)),
        ("failures", many(failure)),
        ("history", many(point)),
    ])
}
