//! Named tokens: their file, their owners and their limits.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use batchwright::ProcessId;
use batchwright::config::ConfigStore;
use batchwright_server::{Role, TokenLimits, new_token};
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};
use ureq::http::Request;

use super::common::{Answer, Desk, Has, PATIENCE, shout};
use super::events::Stream;

/// Replaces the file in one step, as only the server's user may read it.
fn write(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    }
    let _ = mode;
    fs::rename(&new, path).unwrap();
}

/// A token and its line.
fn made(name: &str, role: Role, limits: TokenLimits) -> (String, String) {
    let (token, line) = new_token(name, role, limits).unwrap();
    (token.expose().to_owned(), line + "\n")
}

/// The tokens a and b.
fn two(role: Role) -> [(String, String); 2] {
    ["a", "b"].map(|name| made(name, role, TokenLimits::default()))
}

/// A server with these tokens, and the file.
fn with_tokens(sim: SimConfig, lines: &[&String]) -> (Desk, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    write(
        &path,
        &lines.iter().map(|line| line.as_str()).collect::<String>(),
        0o600,
    );
    let desk = Desk::with(sim, |server| server.token_file(&path));
    (desk, path, folder)
}

/// A server with these tokens and a price of its model, 1 dollar per million tokens.
fn with_prices(lines: &[&String]) -> (Desk, tempfile::TempDir) {
    let (mut desk, path, folder) = with_tokens(SimConfig::default(), lines);
    desk.stop();
    let prices = json!({"providers": {"*": {"models": [
        {"models": ["sim-1"], "prices": [{"input": 1, "output": 1}]}]}}});
    let file = desk.folder.path().join("prices.json");
    fs::write(&file, prices.to_string()).unwrap();
    desk.store
        .set("llm.prices", file.to_str().unwrap())
        .unwrap();
    desk.start(|server| server.token_file(&path));
    (desk, folder)
}

fn get(desk: &Desk, token: &str, path: &str) -> Answer {
    send(desk, token, "GET", path, "")
}

fn send(desk: &Desk, token: &str, method: &str, path: &str, body: &str) -> Answer {
    sent(
        desk,
        &[("authorization", &format!("Bearer {token}"))],
        method,
        path,
        body,
    )
}

fn sent(desk: &Desk, headers: &[(&str, &str)], method: &str, path: &str, body: &str) -> Answer {
    let kind = if path.starts_with("/v1/files") {
        "multipart/form-data; boundary=x"
    } else {
        "application/json"
    };
    let mut request = Request::builder().method(method).uri(desk.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(match method {
        "GET" => desk.agent().run(request.body(()).unwrap()).unwrap(),
        _ => {
            let request = request.header("content-type", kind);
            desk.agent()
                .run(request.body(body.to_owned()).unwrap())
                .unwrap()
        }
    })
}

#[track_caller]
fn until(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_changed_file_applies_and_one_that_cannot_be_used_changes_nothing() {
    let [(a, first), (b, second)] = two(Role::Read);
    let (desk, path, _folder) = with_tokens(SimConfig::default(), &[&first]);
    let status = |token: &str| get(&desk, token, "/metrics").status;
    let problems = || desk.read("/readyz")["problems"].clone();
    assert_eq!((status(&a), status(&b)), (200, 401));
    write(&path, &(first.clone() + &second), 0o600);
    until(|| status(&b) == 200);
    assert_eq!(problems(), json!([]));
    let damaged = [
        (second.replace("sha256:", ""), 0o600),
        (first.clone(), 0o644),
    ];
    for (text, mode) in damaged {
        if cfg!(not(unix)) && mode != 0o600 {
            continue;
        }
        write(&path, &text, mode);
        until(|| problems()[0]["code"] == "token_file");
        assert_eq!((status(&a), status(&b)), (200, 200));
        write(&path, &(first.clone() + &second), 0o600);
        until(|| problems() == json!([]));
    }
    write(&path, &second, 0o600);
    until(|| status(&a) == 401);
    assert_eq!(status(&b), 200);
}

#[cfg(unix)]
#[test]
fn a_file_that_other_users_can_access_is_refused_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let (_, line) = made("a", Role::Read, TokenLimits::default());
    let queue = batchwright::JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o602] {
        write(&path, &line, mode);
        let server =
            batchwright_server::Server::new(queue.clone(), batchwright::Worker::new(&queue));
        let error = server
            .address(([127, 0, 0, 1], 0).into())
            .token_file(&path)
            .start()
            .unwrap_err();
        let command = format!("chmod 600 '{}'", path.display());
        assert!(error.message().contains(&command), "{error}");
    }
}

#[test]
fn a_token_uses_no_object_of_another_one_and_hears_nothing_of_it() {
    let [(a, first), (b, second)] = two(Role::Submit);
    let (desk, _, _folder) = with_tokens(SimConfig::default(), &[&first, &second]);
    let bearer = format!("Bearer {b}");
    let mut stream = Stream::with(&desk, "/api/v1/events", Some(("authorization", &bearer)));
    let job = send(&desk, &a, "POST", "/api/v1/jobs", &shout("a").to_string())
        .is(201)
        .json();
    let mut into = shout("b");
    into["process_id"] = job["process_id"].clone();
    send(&desk, &b, "POST", "/api/v1/jobs", &into.to_string()).is(404);
    send(&desk, &a, "POST", "/api/v1/jobs", &into.to_string()).is(201);
    let process = job["process_id"].as_str().unwrap();
    let listed = format!("/api/v1/jobs?process_id={process}");
    get(&desk, &a, &listed).is(200);
    get(&desk, &b, &listed).is(404);

    let form = "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--x\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{}\r\n--x--\r\n";
    let file = send(&desk, &a, "POST", "/v1/files", form).is(200).json();
    let batch = json!({
        "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    send(&desk, &b, "POST", "/v1/batches", &batch.to_string()).is(400);
    send(&desk, &a, "POST", "/v1/batches", &batch.to_string()).is(200);
    let after = format!("/v1/files?after={}", file["id"].as_str().unwrap());
    get(&desk, &b, &after).is(404);
    for list in ["/v1/files", "/v1/batches", "/api/v1/processes"] {
        let count = |token: &str| {
            let found = get(&desk, token, list).is(200).json();
            found["data"].as_array().unwrap().len()
        };
        assert_eq!((count(&a) > 0, count(&b)), (true, 0), "{list}");
    }

    let own = send(&desk, &b, "POST", "/api/v1/jobs", &shout("b").to_string())
        .is(201)
        .json();
    let (_, _, told) = stream
        .next(&["job", "process", "overview", "config"])
        .unwrap();
    assert_eq!(told["process_id"], own["process_id"], "{told}");
}

#[test]
fn keys_and_changes_are_of_their_token() {
    let [(a, first), (b, second)] = two(Role::Operate);
    let (desk, _, _folder) = with_tokens(SimConfig::default(), &[&first, &second]);
    let create = |token: &str| -> Value {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
        sent(
            &desk,
            &headers,
            "POST",
            "/api/v1/jobs",
            &shout("x").to_string(),
        )
        .is(201)
        .json()
    };
    let job = create(&a);
    assert_eq!(create(&a), job);
    assert_ne!(create(&b), job);
    send(
        &desk,
        &b,
        "PUT",
        "/api/v1/config/queue.worker_count",
        "{\"value\":3}",
    )
    .is(200);
    let changes = get(&desk, &a, "/api/v1/config-changes").is(200).json();
    assert_eq!(changes["data"][0]["source"], "http 127.0.0.1, token b");
    let process = job["process_id"].as_str().unwrap();
    let shown = get(&desk, &b, &format!("/api/v1/processes/{process}")).is(200);
    shown.json().has(json!({"owner": "a"}));
}

#[test]
fn a_token_has_no_more_open_jobs_than_its_limit() {
    let limits = TokenLimits {
        open_jobs: Some(2),
        ..TokenLimits::default()
    };
    let (token, line) = made("a", Role::Submit, limits);
    let (desk, _, _folder) = with_tokens(SimConfig::default(), &[&line]);
    desk.sim.hold();
    let job = json!({"type": "completion", "payload": {"prompt": "hi"}}).to_string();
    let create = |path: &str, body: &str| send(&desk, &token, "POST", path, body);
    let processes = "/api/v1/processes?type=completion";
    let prompt = "{\"prompt\":\"hi\"}\n";
    create("/api/v1/jobs", &job).is(201);
    let refused = create(processes, &prompt.repeat(2)).is(429);
    assert_eq!(refused.header("retry-after"), Some("10"));
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("2 open jobs (open-jobs"), "{detail}");
    create(processes, prompt).is(201);
    create("/api/v1/jobs", &job).is(429);
    let chat = json!({"model": "sim-1", "messages": [{"role": "user", "content": "hi"}]});
    let refused = create("/v1/chat/completions", &chat.to_string())
        .is(429)
        .json();
    assert_eq!(refused["error"]["code"], "rate_limit_exceeded");
    desk.sim.release();
    until(|| create("/api/v1/jobs", &job).status == 201);
}

#[test]
fn what_is_gone_still_belongs_to_its_token() {
    let [(mine, first), (other, second)] = two(Role::Submit);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    write(&path, &(first + &second), 0o600);
    let desk = Desk::with(SimConfig::default(), |server| {
        server.token_file(&path).allow_private_webhooks(true)
    });
    let job = shout("hi").to_string();
    let made = send(&desk, &mine, "POST", "/api/v1/jobs", &job).is(201);
    let made = made.json();
    let [id, process] = ["job_id", "process_id"].map(|name| made[name].as_str().unwrap());
    let place = format!("/api/v1/jobs/{id}");
    let hook = format!("/api/v1/processes/{process}/webhook");
    let receiver = r#"{"url": "http://127.0.0.1:9/"}"#;
    send(&desk, &mine, "PUT", &hook, receiver).is(201);
    get(&desk, &mine, &format!("{place}?wait=30")).is(200);
    // A client that got no reply repeats the request.
    for _ in 0..2 {
        send(&desk, &mine, "DELETE", &place, "").is(204);
        get(&desk, &mine, &place).is(404);
        send(&desk, &other, "DELETE", &place, "").is(404);
    }
    get(&desk, &mine, &format!("/api/v1/processes/{process}")).is(404);
    get(&desk, &other, &hook).is(404);
    assert_eq!(
        get(&desk, &mine, &hook).is(200).json()["url"],
        "http://127.0.0.1:9/"
    );
    send(&desk, &mine, "DELETE", &hook, "").is(204);
    let never = "/api/v1/jobs/01a215cb-c31c-7a52-8000-000100000000";
    send(&desk, &mine, "DELETE", never, "").is(404);
}

/// The id of a deleted process is used again: neither owner gets at the webhook of the other one.
#[test]
fn the_webhooks_of_two_processes_with_one_id_stay_apart() {
    let one_job = TokenLimits {
        open_jobs: Some(1),
        ..TokenLimits::default()
    };
    let [(ann, first), (admin, second), (busy, third)] = [
        made("ann", Role::Submit, TokenLimits::default()),
        made("admin", Role::Operate, TokenLimits::default()),
        made("busy", Role::Submit, one_job),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    write(&path, &(first + &second + &third), 0o600);
    let desk = Desk::with(SimConfig::default(), |server| {
        server.token_file(&path).allow_private_webhooks(true)
    });
    let process = ProcessId::new();
    let hook = format!("/api/v1/processes/{process}/webhook");
    let mut job = shout("hi");
    job["process_id"] = json!(process.to_string());
    let job = job.to_string();
    // A process with a webhook, which is deleted.
    let used = |token: &str, url: &str| {
        let made = send(&desk, token, "POST", "/api/v1/jobs", &job).is(201);
        let made = made.json();
        let place = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
        let receiver = json!({"url": url}).to_string();
        send(&desk, token, "PUT", &hook, &receiver).is(201);
        get(&desk, token, &format!("{place}?wait=30")).is(200);
        send(&desk, token, "DELETE", &place, "").is(204);
    };
    let url = |token: &str| get(&desk, token, &hook).is(200).json()["url"].clone();
    used(&ann, "http://127.0.0.1:9/ann");
    // A request that is refused changes nothing.
    desk.sim.hold();
    let waits = json!({"type": "completion", "payload": {"prompt": "hi"}}).to_string();
    send(&desk, &busy, "POST", "/api/v1/jobs", &waits).is(201);
    send(&desk, &busy, "POST", "/api/v1/jobs", &job).is(429);
    assert_eq!(url(&ann), "http://127.0.0.1:9/ann");
    desk.sim.release();
    used(&admin, "http://127.0.0.1:9/admin");
    assert_eq!(url(&admin), "http://127.0.0.1:9/admin");
    for (method, place) in [
        ("GET", hook.clone()),
        ("DELETE", hook.clone()),
        ("POST", format!("{hook}/resend")),
    ] {
        send(&desk, &ann, method, &place, "").is(404);
    }
}

/// Every way to enqueue work counts in what was spent, and it stays when the results are gone.
#[test]
fn what_was_spent_is_shown_by_model_and_outlives_the_results() {
    let (submitter, first) = made("submitter", Role::Submit, TokenLimits::default());
    let (reader, second) = made("reader", Role::Read, TokenLimits::default());
    let (desk, _folder) = with_prices(&[&first, &second]);

    let chat = json!({"model": "sim-1", "messages": [{"role": "user", "content": "hi"}]});
    let job = json!({"type": "completion", "payload": {"prompt": "hi"}}).to_string();
    let processes = "/api/v1/processes?type=completion";
    let many = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n".to_owned();
    let ways = [
        ("/v1/chat/completions", chat.to_string(), 200),
        ("/api/v1/jobs", job, 201),
        (processes, many, 201),
    ];
    let mut last = String::new();
    for (path, body, status) in &ways {
        last = send(&desk, &submitter, "POST", path, body).is(*status).text;
    }
    let spent = || {
        let shown = get(&desk, &reader, "/api/v1/spent").is(200).json();
        shown["data"].as_array().unwrap().clone()
    };
    until(|| spent().iter().any(|row| row["calls"] == 4));
    let rows = spent();
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0].has(json!({"model": "sim-1", "calls": 4}));
    assert!(rows[0]["tokens"].as_u64().unwrap() > 0);
    assert!(rows[0]["cost_usd"].as_f64().unwrap() > 0.0);

    let last: Value = serde_json::from_str(&last).unwrap();
    let path = format!("/api/v1/processes/{}", last["process_id"].as_str().unwrap());
    send(&desk, &submitter, "DELETE", &path, "").is(200);
    assert_eq!(spent(), rows);
    let metrics = get(&desk, &reader, "/metrics").is(200);
    let series = "batchwright_month_cost_usd{gen_ai_request_model=\"sim-1\"} ";
    assert!(metrics.text.contains(series), "{}", metrics.text);
    get(&desk, &submitter, "/api/v1/spent").is(403);
    for wrong in ["?since=yesterday", "?x=1"] {
        get(&desk, &reader, &format!("/api/v1/spent{wrong}")).is(400);
    }
}
