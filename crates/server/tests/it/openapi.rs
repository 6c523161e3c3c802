//! The OpenAPI document is true: what is answered has the shape that it tells.

use std::collections::BTreeSet;
use std::thread;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::common::{self, Answer, Desk, acked};
use super::events::Stream;

/// The document, and the answers that were compared with it.
struct Document {
    document: Value,
    seen: BTreeSet<String>,
}

impl Document {
    fn of(desk: &Desk) -> Self {
        let document = desk.read("/api/v1/openapi.json");
        assert_eq!(document["openapi"], "3.1.0");
        Self {
            document,
            seen: BTreeSet::new(),
        }
    }

    fn schema(&self, place: &str) -> Option<Validator> {
        let schema = self.document.pointer(place)?;
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": self.document["components"],
            "allOf": [schema],
        });
        let options = jsonschema::options().should_validate_formats(true);
        Some(options.build(&whole).unwrap())
    }

    /// Compares an answer with what the document says of its operation and status.
    #[track_caller]
    fn check(&mut self, method: &str, path: &str, answer: Answer) -> Answer {
        let name = path;
        let path = path.replace('~', "~0").replace('/', "~1");
        let operation = format!("/paths/{path}/{method}/responses");
        let status = answer.status.to_string();
        let mut place = format!("{operation}/{status}");
        if self.document.pointer(&place).is_none() {
            assert!(answer.status >= 400, "{place} is not documented");
            place = "/components/responses/Problem".to_owned();
        }
        if answer.status == 204 {
            self.seen.insert(format!("{method} {name}"));
            return answer;
        }
        let kind = answer.header("content-type").unwrap();
        let kind = kind.split(';').next().unwrap().replace('/', "~1");
        let schema = self.schema(&format!("{place}/content/{kind}/schema"));
        let schema = schema.unwrap_or_else(|| panic!("{place} says nothing of {kind}"));
        let value = if kind.ends_with("json") {
            answer.json()
        } else {
            json!(answer.text)
        };
        let faults: Vec<String> = schema
            .iter_errors(&value)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{place}: {faults:?} in {value}");
        self.seen.insert(format!("{method} {name}"));
        answer
    }
}

fn lines(desk: &Desk, body: &str) -> Answer {
    common::lines(desk, "?type=shout&name=x", body)
}

#[test]
fn real_answers_have_the_shapes_that_the_document_tells() {
    let desk = Desk::new();
    let mut of = Document::of(&desk);
    let (jobs, job) = ("/api/v1/jobs", "/api/v1/jobs/{job_id}");
    let (processes, process) = ("/api/v1/processes", "/api/v1/processes/{process_id}");
    let results = "/api/v1/processes/{process_id}/results";
    let prompt = json!({"type": "completion", "payload": {"prompt": "hi"}});
    let made = of
        .check("post", jobs, desk.post(jobs, &prompt))
        .is(201)
        .json();
    let place = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
    of.check("get", job, desk.get(&place)).is(200);
    let ended = of.check("get", job, desk.get(&format!("{place}?wait=30")));
    assert_eq!(ended.is(200).json()["status"], "completed");
    of.check("post", jobs, desk.post(jobs, &json!({"type": "no"})))
        .is(400);
    let failed = desk.made(jobs, &json!({"type": "shout", "payload": 1}));
    let failed = format!("/api/v1/jobs/{}", failed["job_id"].as_str().unwrap());
    let failed = of
        .check("get", job, desk.get(&format!("{failed}?wait=30")))
        .is(200);
    assert_eq!(failed.json()["error"]["class"], "non_retryable");

    let made = of
        .check("post", processes, lines(&desk, "\"a\"\n1\n"))
        .is(201)
        .json();
    of.check("post", processes, lines(&desk, "a")).is(400);
    let id = made["process_id"].as_str().unwrap();
    let one = format!("/api/v1/processes/{id}");
    while of.check("get", process, desk.get(&one)).is(200).json()["state"] != "finished" {
        thread::sleep(std::time::Duration::from_millis(20));
    }
    of.check("get", processes, desk.get(processes)).is(200);
    of.check("get", jobs, desk.get(&format!("{jobs}?process_id={id}")))
        .is(200);
    of.check("get", jobs, desk.get(jobs)).is(200);
    of.check("get", jobs, desk.get(&format!("{jobs}?status=odd")))
        .is(400);
    let place_of_failed = format!("{jobs}?process_id={id}&status=failed");
    let failed = of.check("get", jobs, desk.get(&place_of_failed)).is(200);
    let failed = failed.json()["data"][0]["job_id"].clone();
    let failed = format!("{jobs}/{}", failed.as_str().unwrap());
    let payload = desk.get(&format!("{failed}/payload"));
    of.check("get", "/api/v1/jobs/{job_id}/payload", payload)
        .is(200);
    let retried = desk.post(&format!("{failed}/retry"), &json!({}));
    of.check("post", "/api/v1/jobs/{job_id}/retry", retried)
        .is(200);
    while of.check("get", process, desk.get(&one)).is(200).json()["state"] != "finished" {
        thread::sleep(std::time::Duration::from_millis(20));
    }
    let spent = "/api/v1/spent";
    let shown = of.check("get", spent, desk.get(spent)).is(200);
    assert_eq!(shown.json()["data"][0]["calls"], 1);
    of.check("get", spent, desk.get(&format!("{spent}?since=odd")))
        .is(400);
    for what in ["pause", "resume"] {
        let path = format!("/api/v1/{what}");
        of.check("post", &path, desk.post(&path, &json!({})))
            .is(200);
    }
    let read = of
        .check("get", results, desk.get(&format!("{one}/results")))
        .is(200);
    let first: Value = serde_json::from_str(read.text.lines().next().unwrap()).unwrap();
    let failures = format!("{one}/failures");
    of.check(
        "get",
        "/api/v1/processes/{process_id}/failures",
        desk.get(&failures),
    )
    .is(200);
    let limit = "/api/v1/processes/{process_id}/budget";
    for (query, status) in [("usd=5", 200), ("tokens=9", 409), ("usd=0", 400)] {
        let answer = desk.post(&format!("{one}/budget?{query}"), &json!({}));
        let answer = of.check("post", limit, answer);
        assert!(
            answer.status == status || query == "tokens=9",
            "{}",
            answer.text
        );
    }
    for (what, path) in [
        ("retry", "{process_id}/retry"),
        ("cancel", "{process_id}/cancel"),
    ] {
        let answer = desk.post(&format!("{one}/{what}"), &json!({}));
        of.check("post", &format!("/api/v1/processes/{path}"), answer)
            .is(200);
    }
    of.check("delete", process, desk.delete(&one)).is(409);
    let mut ack = |body: &Value| {
        let answer = desk.post(&format!("{one}/results/ack"), body);
        of.check("post", "/api/v1/processes/{process_id}/results/ack", answer)
    };
    ack(&json!({})).is(400);
    ack(&json!({"receipts": [first["receipt"]]})).is(200);
    of.check("delete", process, desk.delete(&format!("{one}?force=true")));
    of.check("get", process, desk.get(&one)).is(404);
    let cancel = "/api/v1/jobs/{job_id}/cancel";
    of.check(
        "post",
        cancel,
        desk.post(&format!("{place}/cancel"), &json!({})),
    )
    .is(200);
    acked(&desk, &desk.read(&place)).is(200);
    of.check("get", job, desk.get(&place)).is(404);

    let (settings, setting) = ("/api/v1/config", "/api/v1/config/{key}");
    let count = "/api/v1/config/queue.worker_count";
    of.check("get", settings, desk.get(settings)).is(200);
    of.check("put", setting, desk.put(count, &json!({"value": 4})))
        .is(200);
    of.check("put", setting, desk.put(count, &json!({"value": "x"})))
        .is(400);
    of.check("get", setting, desk.get(count)).is(200);
    of.check("get", setting, desk.get("/api/v1/config/no"))
        .is(404);
    of.check("delete", setting, desk.delete(count)).is(200);
    for path in [
        "/api/v1/batches",
        "/api/v1/overview",
        "/api/v1/openapi.json",
        "/healthz",
        "/readyz",
        "/metrics",
    ] {
        of.check("get", path, desk.get(path)).is(200);
    }
    // What is misspelt is no way to ask for everything.
    for (path, misspelt) in [
        (jobs, "proces_id"),
        (processes, "sate"),
        (settings, "limit"),
        ("/api/v1/events", "last-event-id"),
    ] {
        let problem = desk.get(&format!("{path}?{misspelt}=1"));
        let problem = of.check("get", path, problem).is(400).json();
        assert_eq!(problem["param"], misspelt);
    }
    let paths = of.document["paths"].as_object().unwrap().iter();
    let documented: BTreeSet<String> = paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{method} {path}"))
        })
        .collect();
    assert_eq!(of.seen, documented);
}

#[test]
fn what_is_told_of_a_process_has_the_shape_of_a_process() {
    let desk = Desk::new();
    let of = Document::of(&desk);
    let mut stream = Stream::open(&desk, None);
    lines(&desk, "\"a\"\n\"b\"\n").is(201);
    let shape = of.schema("/components/schemas/Process").unwrap();
    loop {
        let (_, _, told) = stream.next(&["process"]).unwrap();
        assert!(shape.is_valid(&told), "{told}");
        if told["state"] == "finished" {
            break;
        }
    }
}
