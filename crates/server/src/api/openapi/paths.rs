//! What can be asked for, path by path.

use serde_json::{Map, Value, json};

use super::operation::Operation;
use super::schemas::{id, of};
use crate::api::jobs::LONGEST_NAME;
use crate::api::results::MOST_LINES;

fn count(name: &str) -> Value {
    let number = json!({"type": "integer", "minimum": 0});
    json!({"type": "object", "required": [name], "properties": {name: number}})
}

fn list(name: &str) -> Value {
    json!({
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"type": "array", "items": of(name)}},
    })
}

/// A page of a list, and where the next one begins.
fn page(name: &str) -> Value {
    let mut page = list(name);
    page["required"] = json!(["data", "next"]);
    page["properties"]["next"] = json!({
        "type": ["string", "null"],
        "description": "Value of `after` for the next page; null on the last page. A page may have fewer entries than `limit`",
    });
    page
}

/// The methods of each path, by their names in lower case.
pub(super) fn paths(kinds: &[&str]) -> Value {
    let mut paths = Map::new();
    let mut add = |method: &str, path: &str, operation: Operation| {
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation.0;
    };
    jobs(&mut add);
    processes(kinds, &mut add);
    results(&mut add);
    webhooks(&mut add);
    settings(&mut add);
    server(&mut add);
    Value::Object(paths)
}

fn jobs(add: &mut impl FnMut(&str, &str, Operation)) {
    add(
        "post",
        "/api/v1/jobs",
        Operation::new("jobs", "createJob", "Create a job")
            .says("The server validates payloads of built-in types; docs/jobs.md describes them")
            .once()
            .body("application/json", of("NewJob"))
            .made(of("MadeJob"))
            .problem(409, "The process accepts no more jobs"),
    );
    let status = [
        "pending",
        "in_progress",
        "at_provider",
        "completed",
        "failed",
        "cancelled",
    ];
    let mut of_process = Operation::new("jobs", "listJobs", "The jobs of a process")
        .query("process_id", id(), "The process")
        .query(
            "status",
            json!({"type": "string", "enum": status}),
            "State of the jobs",
        )
        .query("after", id(), "Start after this job")
        .limit(100, 1_000)
        .answer(
            200,
            "The jobs, in the order of their creation",
            page("BriefJob"),
        );
    of_process.0["parameters"][0]["required"] = json!(true);
    add("get", "/api/v1/jobs", of_process);
    let wait = json!({"type": "number", "minimum": 0, "maximum": 30});
    add(
        "get",
        "/api/v1/jobs/{job_id}",
        Operation::new("jobs", "getJob", "A job, with its result if it has ended")
            .job()
            .query("wait", wait, "Seconds to wait for the end of the job, at most 30. If half of all connections wait, the \
                    server answers at once: check `status`")
            .answer(200, "The job", of("Job")),
    );
    add(
        "delete",
        "/api/v1/jobs/{job_id}",
        Operation::new("jobs", "deleteJob", "Cancel an open job, or fetch and delete a finished one")
            .says("A finished job is deleted, and the reply contains its result. A running job that is the only one of its \
                   process keeps its result and is not retried")
            .job()
            .answer(200, "The job: its current state, or its state before the deletion", of("Job"))
            .problem(409, "The job is running, or another job collects its result"),
    );
}

fn processes(kinds: &[&str], add: &mut impl FnMut(&str, &str, Operation)) {
    let one = "/api/v1/processes/{process_id}";
    add(
        "post",
        "/api/v1/processes",
        Operation::new("processes", "createProcess", "Create a job from each line")
            .says("Prompts are lines of OpenAI's Batch API, or have `prompt` or `messages`, and `id`; for other types each line is a \
                   payload. If a line is invalid, nothing is created")
            .query("type", json!({"type": "string", "enum": kinds, "default": "completion"}), "Type of the jobs")
            .query("name", json!({"type": "string", "maxLength": LONGEST_NAME}), "Display name")
            .once()
            .body("application/jsonl", json!({"type": "string", "description": "One JSON value per line", "examples": ["{\"id\": \"a\", \"prompt\": \"Name a prime.\"}
{\"id\": \"b\", \"prompt\": \"Name a river.\"}
"]}))
            .made(of("MadeProcess"))
            .problem(400, "A line is not a valid job: see `line`"),
    );
    add(
        "get",
        "/api/v1/processes",
        Operation::new("processes", "listProcesses", "The processes, newest first")
            .query(
                "state",
                json!({"type": "string", "enum": ["open", "finished"]}),
                "Only processes in this state",
            )
            .query(
                "parents",
                json!({"type": "string", "enum": ["none", "all"], "default": "none"}),
                "`all` also lists processes that belong to a job",
            )
            .query(
                "after",
                json!({"type": "string", "pattern": "^[0-9]{1,15}$"}),
                "The `next` of the previous page",
            )
            .limit(50, 500)
            .answer(200, "A page of processes", page("Process")),
    );
    add(
        "get",
        one,
        Operation::new("processes", "getProcess", "State of a process")
            .process()
            .answer(200, "The process", of("Process")),
    );
    add(
        "delete",
        one,
        Operation::new(
            "processes",
            "deleteProcess",
            "Delete a process with all its jobs",
        )
        .process()
        .query(
            "force",
            json!({"type": "boolean", "default": false}),
            "Also delete open jobs, and results that were not fetched",
        )
        .answer(200, "Number of deleted jobs", count("deleted"))
        .problem(409, "Jobs are open, or results were not fetched"),
    );
    add(
        "post",
        &format!("{one}/cancel"),
        Operation::new("processes", "cancelProcess", "Cancel the waiting jobs of a process")
            .says("Running jobs, and jobs in a batch at a provider, finish and keep their results, because they are billed")
            .process()
            .answer(200, "Number of cancelled jobs", count("cancelled")),
    );
    add(
        "post",
        &format!("{one}/retry"),
        Operation::new(
            "processes",
            "retryProcess",
            "Requeue failed and cancelled jobs",
        )
        .process()
        .answer(200, "Number of requeued jobs", count("retried")),
    );
    add(
        "get",
        "/api/v1/batches",
        Operation::new(
            "processes",
            "listBatches",
            "Batches at providers, and batches that are being submitted",
        )
        .query("process_id", id(), "Only batches of this process")
        .answer(200, "The batches, oldest first", list("Batch")),
    );
}

fn results(add: &mut impl FnMut(&str, &str, Operation)) {
    let results = "/api/v1/processes/{process_id}/results";
    let most = json!({"type": "integer", "minimum": 1, "maximum": MOST_LINES});
    add(
        "get",
        results,
        Operation::new("processes", "getResults", "The results so far, one per line")
            .says("Deletes nothing. The list ends before the first open job, so that a client that continues after the last line \
                   misses no result. To continue, pass the `job_id` of the last line as `after`. For a prompt, the line is the \
                   result line that the command `run` writes; for other jobs it has `status`, `result` and `error`")
            .process()
            .query("after", id(), "Start after this job")
            .query(
                "open",
                json!({"type": "string", "enum": ["stop", "skip"], "default": "stop"}),
                "What to do at an open job: `stop` ends the list, `skip` continues with the results after it",
            )
            .query("limit", most, "Maximum number of entries")
            .answer_as(200, "JSON lines", "application/jsonl", json!({"type": "string"})),
    );
    add(
        "delete",
        results,
        Operation::new(
            "processes",
            "consumeResults",
            "Delete results that the client has saved",
        )
        .process()
        .needs(
            "through",
            id(),
            "The last job whose result the client has saved",
        )
        .answer(200, "Number of deleted results", count("consumed"))
        .problem(
            409,
            "The job or an earlier one is open or has ended again since it was read, or another job collects the results",
        ),
    );
    add(
        "get",
        "/api/v1/processes/{process_id}/failures",
        Operation::new(
            "processes",
            "getFailures",
            "Errors of failed jobs, the most frequent first",
        )
        .process()
        .answer(200, "The failures", of("Failures")),
    );
}

fn webhooks(add: &mut impl FnMut(&str, &str, Operation)) {
    let webhook = "/api/v1/processes/{process_id}/webhook";
    let none = "The process does not exist, or has no webhook";
    let operation = |id: &str, summary: &str| {
        Operation::new("processes", id, summary)
            .path("process_id", "The process")
            .problem(404, none)
    };
    add(
        "put",
        webhook,
        operation("setWebhook", "Set the webhook for the end of the process")
            .says("Replaces an existing webhook. The secret signs the messages, and only this reply contains it")
            .body("application/json", of("NewWebhook"))
            .answer(201, "The webhook is set", of("MadeWebhook"))
            .problem(400, "The server cannot send to this address"),
    );
    add(
        "get",
        webhook,
        operation("getWebhook", "State of the webhook").answer(200, "The webhook", of("Webhook")),
    );
    let mut gone = operation("deleteWebhook", "Remove the webhook");
    gone.0["responses"]["204"] = json!({"description": "The webhook is removed"});
    add("delete", webhook, gone);
}

fn settings(add: &mut impl FnMut(&str, &str, Operation)) {
    let one = "/api/v1/config/{key}";
    let tag = "settings";
    let refused = "The setting does not exist, or the server has no settings";
    add(
        "get",
        "/api/v1/config",
        Operation::new(
            tag,
            "listSettings",
            "All settings, with the source of each value",
        )
        .answer(200, "The settings", list("Setting"))
        .problem(404, "The server has no settings"),
    );
    add(
        "get",
        one,
        Operation::new(tag, "getSetting", "A setting")
            .path("key", "Name of the setting")
            .answer(200, "The setting", of("Setting"))
            .problem(404, refused),
    );
    add(
        "put",
        one,
        Operation::new(tag, "setSetting", "Store a value")
            .says("A running worker applies it within 1 second. A flag or environment variable overrides it")
            .path("key", "Name of the setting")
            .body("application/json", of("NewValue"))
            .answer(200, "The setting, with its new value", of("Setting"))
            .problem(400, "The value is invalid; `detail` describes the valid ones")
            .problem(404, refused),
    );
    add(
        "delete",
        one,
        Operation::new(tag, "unsetSetting", "Delete the stored value")
            .path("key", "Name of the setting")
            .answer(200, "The setting, with its new value", of("Setting"))
            .problem(404, refused),
    );
    add(
        "get",
        "/api/v1/config-changes",
        Operation::new(
            tag,
            "listSettingChanges",
            "Changes of settings, newest first",
        )
        .limit(100, 1_000)
        .answer(
            200,
            "The changes, including those of other programs",
            list("SettingChange"),
        ),
    );
}

fn server(add: &mut impl FnMut(&str, &str, Operation)) {
    let tag = "server";
    let text = json!({"type": "string"});
    add(
        "get",
        "/api/v1/overview",
        Operation::new(
            tag,
            "getOverview",
            "Numbers of all jobs, and the state of the worker",
        )
        .answer(200, "The overview", of("Overview")),
    );
    add(
        "get",
        "/api/v1/events",
        Operation::new(tag, "getEvents", "Changes, as server-sent events")
            .says("Events `process`, `job`, `overview` and `config`, from now on or after the last received one. `reset` reports \
                   that events were missed. The stream ends when the server stops")
            .parameter("header", "Last-Event-ID", text.clone(), "Id of the last received event")
            .query("last_event_id", text.clone(), "The same, for clients that cannot set the header")
            .answer_as(200, "The events", "text/event-stream", text.clone())
            .problem(503, "Too many clients receive events already"),
    );
    add(
        "get",
        "/api/v1/openapi.json",
        Operation::new(tag, "getOpenapi", "This document").answer(
            200,
            "The document",
            json!({"type": "object"}),
        ),
    );
    add(
        "get",
        "/healthz",
        Operation::new(tag, "getHealth", "Whether the queue can be read")
            .answer(200, "The queue can be read", of("Health"))
            .problem(503, "The queue cannot be read"),
    );
    add(
        "get",
        "/metrics",
        Operation::new(tag, "getMetrics", "Counts and times for Prometheus").answer_as(
            200,
            "Metrics in Prometheus' text format",
            "text/plain",
            text,
        ),
    );
}
