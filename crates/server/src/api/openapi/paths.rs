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
        "description": "The next page begins `after` this. A page may hold fewer than were asked for; the last one has null",
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
        Operation::new("jobs", "createJob", "Make a job")
            .says("The payload is checked where the type is built in; see docs/jobs.md for what each takes")
            .once()
            .body("application/json", of("NewJob"))
            .made(of("MadeJob"))
            .problem(409, "The process takes no more jobs"),
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
            "Where they stand",
        )
        .query("after", id(), "Begin behind this job")
        .limit(100, 1_000)
        .answer(
            200,
            "In the order in which they were made",
            page("BriefJob"),
        );
    of_process.0["parameters"][0]["required"] = json!(true);
    add("get", "/api/v1/jobs", of_process);
    let wait = json!({"type": "number", "minimum": 0, "maximum": 30});
    add(
        "get",
        "/api/v1/jobs/{job_id}",
        Operation::new("jobs", "getJob", "A job, with its result once it has one")
            .job()
            .query("wait", wait, "So many seconds are waited for its end, 30 at most; while half of all connections wait it \
                    is answered at once, so look at `status`")
            .answer(200, "The job", of("Job")),
    );
    add(
        "delete",
        "/api/v1/jobs/{job_id}",
        Operation::new("jobs", "deleteJob", "Cancel a job that is open; consume one that has ended")
            .says("What has ended is deleted with its result, which is in the answer. A job that is just being carried out \
                   is not tried again and keeps its result, where it is alone in its process")
            .job()
            .answer(200, "The job, as it is or was", of("Job"))
            .problem(409, "It is being carried out, or another job collects its result"),
    );
}

fn processes(kinds: &[&str], add: &mut impl FnMut(&str, &str, Operation)) {
    let one = "/api/v1/processes/{process_id}";
    add(
        "post",
        "/api/v1/processes",
        Operation::new("processes", "createProcess", "Make a job of each line")
            .says("Prompts are lines of OpenAI's Batch API, or have `prompt` or `messages`, and `id`; other types have a \
                   payload on each line. All lines are taken or none")
            .query("type", json!({"type": "string", "enum": kinds, "default": "completion"}), "The type of the jobs")
            .query("name", json!({"type": "string", "maxLength": LONGEST_NAME}), "What people know it by")
            .once()
            .body("application/jsonl", json!({"type": "string", "description": "A JSON value on each line", "examples": ["{\"id\": \"a\", \"prompt\": \"Name a prime.\"}
{\"id\": \"b\", \"prompt\": \"Name a river.\"}
"]}))
            .made(of("MadeProcess"))
            .problem(400, "A line is no job: `line` says which"),
    );
    add(
        "get",
        "/api/v1/processes",
        Operation::new("processes", "listProcesses", "The processes, newest first")
            .query(
                "state",
                json!({"type": "string", "enum": ["open", "finished"]}),
                "Those alone",
            )
            .query(
                "parents",
                json!({"type": "string", "enum": ["none", "all"], "default": "none"}),
                "With `all`, those that jobs wait for are there, too",
            )
            .query(
                "after",
                json!({"type": "string", "pattern": "^[0-9]{1,15}$"}),
                "The `next` of the page before",
            )
            .limit(50, 500)
            .answer(200, "A page of them", page("Process")),
    );
    add(
        "get",
        one,
        Operation::new("processes", "getProcess", "Where a process stands")
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
            "Also what is open or was not consumed",
        )
        .answer(200, "So many jobs were deleted", count("deleted"))
        .problem(409, "Jobs are open, or results were not consumed"),
    );
    add(
        "post",
        &format!("{one}/cancel"),
        Operation::new("processes", "cancelProcess", "Cancel what waits")
            .says("What is being carried out or is at a provider ends by itself and keeps its result: it is paid for")
            .process()
            .answer(200, "So many jobs were cancelled", count("cancelled")),
    );
    add(
        "post",
        &format!("{one}/retry"),
        Operation::new(
            "processes",
            "retryProcess",
            "Put failed and cancelled jobs back",
        )
        .process()
        .answer(200, "So many jobs were put back", count("retried")),
    );
    add(
        "get",
        "/api/v1/batches",
        Operation::new(
            "processes",
            "listBatches",
            "Batches at providers, or on their way there",
        )
        .query("process_id", id(), "Those of this process alone")
        .answer(200, "The batches, oldest first", list("Batch")),
    );
}

fn results(add: &mut impl FnMut(&str, &str, Operation)) {
    let results = "/api/v1/processes/{process_id}/results";
    let most = json!({"type": "integer", "minimum": 1, "maximum": MOST_LINES});
    add(
        "get",
        results,
        Operation::new("processes", "getResults", "The outcomes so far, one on each line")
            .says("Nothing is deleted. It ends before the first job that is open, so that whoever goes on behind the last line misses \
                   none. Each line has the `job_id` behind which reading goes on. Of prompts it is the result \
                   line that the command `run` writes; of other jobs it has `status`, `result` and `error`")
            .process()
            .query("after", id(), "Begin behind this job")
            .query(
                "open",
                json!({"type": "string", "enum": ["stop", "skip"], "default": "stop"}),
                "What to do at a job that is open: skip it shows all outcomes there are, also behind it",
            )
            .query("limit", most, "How many at most")
            .answer_as(200, "JSON lines", "application/jsonl", json!({"type": "string"})),
    );
    add(
        "delete",
        results,
        Operation::new(
            "processes",
            "consumeResults",
            "Delete outcomes that were saved",
        )
        .process()
        .needs(
            "through",
            id(),
            "Up to this job: the last of those that were read and saved",
        )
        .answer(200, "So many outcomes were deleted", count("consumed"))
        .problem(
            409,
            "The job or one before it has not ended, or has ended anew since it was read, or another job collects the results",
        ),
    );
    add(
        "get",
        "/api/v1/processes/{process_id}/failures",
        Operation::new(
            "processes",
            "getFailures",
            "What jobs failed with, the most frequent first",
        )
        .process()
        .answer(200, "The failures", of("Failures")),
    );
}

fn webhooks(add: &mut impl FnMut(&str, &str, Operation)) {
    let webhook = "/api/v1/processes/{process_id}/webhook";
    let none = "There is no such process, or it has no webhook";
    let operation = |id: &str, summary: &str| {
        Operation::new("processes", id, summary)
            .path("process_id", "The process")
            .problem(404, none)
    };
    add(
        "put",
        webhook,
        operation("setWebhook", "Have an address told when the process has ended")
            .says("It takes the place of the one that was there. The secret signs what is sent, and is told here alone")
            .body("application/json", of("NewWebhook"))
            .answer(201, "It is there", of("MadeWebhook"))
            .problem(400, "Nothing can be sent to this address"),
    );
    add(
        "get",
        webhook,
        operation("getWebhook", "How far the webhook has come").answer(
            200,
            "The webhook",
            of("Webhook"),
        ),
    );
    let mut gone = operation("deleteWebhook", "Have nobody told");
    gone.0["responses"]["204"] = json!({"description": "Nobody is told"});
    add("delete", webhook, gone);
}

fn settings(add: &mut impl FnMut(&str, &str, Operation)) {
    let one = "/api/v1/config/{key}";
    let tag = "settings";
    let refused = "There is no such setting, or the server was given none";
    add(
        "get",
        "/api/v1/config",
        Operation::new(
            tag,
            "listSettings",
            "All settings, and where their values come from",
        )
        .answer(200, "The settings", list("Setting"))
        .problem(404, "The server was given no settings"),
    );
    add(
        "get",
        one,
        Operation::new(tag, "getSetting", "A setting")
            .path("key", "Its name")
            .answer(200, "The setting", of("Setting"))
            .problem(404, refused),
    );
    add(
        "put",
        one,
        Operation::new(tag, "setSetting", "Store a value")
            .says("A running worker takes it over within a second. What a flag or the environment says stays above it")
            .path("key", "Its name")
            .body("application/json", of("NewValue"))
            .answer(200, "The setting as it is now", of("Setting"))
            .problem(400, "The setting does not take this value; what it takes is said")
            .problem(404, refused),
    );
    add(
        "delete",
        one,
        Operation::new(tag, "unsetSetting", "Forget the value that is stored")
            .path("key", "Its name")
            .answer(200, "The setting as it is now", of("Setting"))
            .problem(404, refused),
    );
    add(
        "get",
        "/api/v1/config-changes",
        Operation::new(tag, "listSettingChanges", "Who changed what, newest first")
            .limit(100, 1_000)
            .answer(
                200,
                "The changes, also those made elsewhere",
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
            "Where all jobs stand, and what the worker does",
        )
        .answer(200, "The overview", of("Overview")),
    );
    add(
        "get",
        "/api/v1/events",
        Operation::new(tag, "getEvents", "What happens, as server-sent events")
            .says("`process`, `job`, `overview` and `config`, from now on or from behind the last one that was seen. `reset` says \
                   that some were missed. The stream ends with the server")
            .parameter("header", "Last-Event-ID", text.clone(), "The last event that was seen")
            .query("last_event_id", text.clone(), "The same, for those who cannot send the header")
            .answer_as(200, "The events", "text/event-stream", text.clone())
            .problem(503, "Too many listen already"),
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
            .answer(200, "It can", of("Health"))
            .problem(503, "It cannot"),
    );
    add(
        "get",
        "/metrics",
        Operation::new(tag, "getMetrics", "Counts and times for Prometheus").answer_as(
            200,
            "In its text format",
            "text/plain",
            text,
        ),
    );
}
