//! The program as a server: it starts, prints its address, stops on a signal, and continues after a restart.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use batchwright_simulate::Simulator;
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, AsSendBody, Body};

use super::common::{Desk, PATIENCE, Running, cases, eventually, good};

/// A server of the desk's queue on a free port, and its address.
pub fn serve(desk: &Desk, sim: &Simulator, words: &str) -> (Running, String) {
    serve_at(desk, &sim.base_url(), words)
}

/// The same with a provider at this address.
pub fn serve_at(desk: &Desk, url: &str, words: &str) -> (Running, String) {
    let port = if words.contains("--port") {
        ""
    } else {
        "--port 0"
    };
    let words = format!("serve --base-url {url} --provider local --model sim-1 {port} {words}");
    let running = Running::start(&mut desk.command(words.split_whitespace()));
    running.hears("OpenAI clients http://");
    let said = running.said();
    let address = said.split("OpenAI clients http://").nth(1).unwrap();
    let address = address.split("/v1").next().unwrap().to_owned();
    (running, address)
}

/// Sends a request such as `GET /healthz`. `None` if there was no answer.
pub fn sent(
    address: &str,
    to: &str,
    headers: &str,
    body: impl AsSendBody,
) -> Option<Response<Body>> {
    let (method, path) = to.split_once(' ').unwrap();
    let mut request = Request::builder().method(method);
    for line in headers.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let request = request.uri(format!("http://{address}{path}"));
    let config = Agent::config_builder().http_status_as_error(false);
    let agent: Agent = config.timeout_recv_response(Some(PATIENCE)).build().into();
    agent.run(request.body(body).unwrap()).ok()
}

/// The status and body of the answer; `None` if there was none.
pub fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Option<(u16, String)> {
    let to = format!("{method} {path}");
    let headers = format!("content-type: application/json\r\n{headers}");
    let mut answer = match body {
        "" => sent(address, &to, &headers, ()),
        _ => sent(address, &to, &headers, body),
    }?;
    let text = answer.body_mut().read_to_string().ok()?;
    Some((answer.status().as_u16(), text))
}

fn get(address: &str, path: &str, header: &str) -> (u16, String) {
    ask(address, "GET", path, header, "").unwrap()
}

#[test]
fn a_signal_lets_jobs_finish_and_the_next_server_resumes() {
    let (desk, sim) = (Desk::with(20), good());
    sim.hold();
    let (running, address) = serve(&desk, &sim, "-j 3");
    assert_eq!(get(&address, "/healthz", "").0, 200);
    let id = desk.plain("submit in.jsonl").expect(0).stdout;
    assert!(sim.wait_until(|s| s.in_flight == 3, PATIENCE));
    running.signal("TERM");
    running.hears("stopping: running requests and jobs have up to 30 s to finish");
    sim.release();
    running.wait().expect(0);
    assert_eq!(
        sim.stats().calls,
        3,
        "what had begun has ended, and nothing began"
    );
    let (running, address) = serve(&desk, &sim, "-j 3");
    assert!(eventually(|| sim.stats().answered == 20));
    let (_, metrics) = get(&address, "/metrics", "");
    assert!(
        metrics.contains("gen_ai_client_operation_duration_seconds_count"),
        "{metrics}"
    );
    running.signal("INT");
    running.wait().expect(0);
    let results = desk.plain(&format!("results {}", id.trim())).expect(0);
    assert_eq!(results.stdout.lines().count(), 20);
    assert_eq!(sim.stats().paid_twice, 0);
}

/// Writes a file that only its user can access.
fn write_private(desk: &Desk, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    desk.write(name, text);
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(desk.path(name), private).unwrap();
}

#[test]
fn other_machines_need_a_token_that_is_hard_to_guess() {
    let (desk, sim) = (Desk::new(), good());
    write_private(&desk, "short", "hunter2\n");
    for (words, says) in cases(
        "
        --host 0.0.0.0 => set a token
        --token-file short => 16 characters
        --token-file nowhere => nowhere
    ",
    ) {
        let words = format!("serve --port 0 --provider extract {words}");
        let refused = desk.plain(&words).expect(1);
        refused.errs(says);
        refused.hides("hunter2");
    }
    let token = "0123456789abcdef0123456789abcdef";
    write_private(&desk, "token", &format!("{token}\n"));
    let (running, address) = serve(&desk, &sim, "--host 0.0.0.0 --token-file token");
    let address = address.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(get(&address, "/metrics", "").0, 401);
    let bearer = format!("authorization: Bearer {token}\r\n");
    assert_eq!(get(&address, "/metrics", &bearer).0, 200);
    assert!(!running.said().contains(token));
}

#[test]
fn a_new_token_has_the_role_of_its_line() {
    let (desk, sim) = (Desk::new(), good());
    desk.plain("token new #a --role read").ends(2, "one word");
    desk.plain("token new shop --role admin")
        .ends(2, "read and operate");
    let made = desk.plain("token new shop --role read").expect(0);
    let line = &made.stdout;
    assert!(line.starts_with("shop read sha256:"), "{line}");
    let token = made.stderr.trim().rsplit(' ').next().unwrap();
    assert!(token.starts_with("bw_") && !line.contains(token), "{token}");
    write_private(&desk, "tokens", line);
    let (running, address) = serve(&desk, &sim, "--token-file tokens");
    let bearer = format!("authorization: Bearer {token}\r\n");
    assert_eq!(get(&address, "/v1/models", &bearer).0, 200);
    let put = ask(&address, "PUT", "/api/v1/config/llm.model", &bearer, "");
    assert_eq!(put.unwrap().0, 403);
    assert!(!running.said().contains(token));
}

/// Clients that repeat a request with the same key get each job exactly once, whenever the server is killed.
#[test]
fn a_job_is_created_once_although_the_server_is_killed() {
    const JOBS: usize = 320;
    let (desk, sim) = (Desk::new(), good());
    let (mut running, address) = serve(&desk, &sim, "-j 4");
    // The next server has another port: meanwhile somebody else may have taken this one.
    let address = Mutex::new(address);
    let create = |n: usize| -> Value {
        let header = format!("idempotency-key: {n}\r\n");
        let body = format!(r#"{{"type":"completion","payload":{{"prompt":"{n}"}}}}"#);
        let mut answer = None;
        assert!(eventually(|| {
            let address = address.lock().unwrap().clone();
            answer = ask(&address, "POST", "/api/v1/jobs", &header, &body);
            answer.as_ref().is_some_and(|(status, _)| *status == 201)
        }));
        let answer: Value = serde_json::from_str(&answer.unwrap().1).unwrap();
        answer["job_id"].clone()
    };
    let made = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for client in 0..8 {
            let (made, create) = (&made, &create);
            scope.spawn(move || {
                for n in (client..JOBS).step_by(8) {
                    let id = create(n).to_string();
                    made.lock().unwrap().insert(id, n);
                }
            });
        }
        for share in 1..4 {
            assert!(eventually(|| made.lock().unwrap().len() >= share * JOBS / 4));
            running.child.kill().unwrap();
            running.child.wait().unwrap();
            (running, *address.lock().unwrap()) = serve(&desk, &sim, "-j 4");
        }
    });
    let made = made.into_inner().unwrap();
    assert_eq!(made.len(), JOBS, "each key has a job of its own");
    for (id, n) in &made {
        assert_eq!(&create(*n).to_string(), id, "and still the same one");
    }
    let status = desk.plain("status --json").expect(0).json();
    let processes = status["processes"].as_array().unwrap().iter();
    let total: u64 = processes.map(|p| p["total"].as_u64().unwrap()).sum();
    assert_eq!(total, JOBS as u64, "and no job is without a key");
    running.signal("TERM");
    running.wait().expect(0);
}

#[test]
fn the_documented_job_of_an_article_id_succeeds_and_no_client_chooses_where_articles_are() {
    let (desk, sim) = (Desk::new(), good());
    std::fs::create_dir(desk.path("articles")).unwrap();
    desk.write("articles/a-1.md", "It rained all day.");
    let request = r#"{"type": "summarize", "payload": {"article_id": "a-1"}}"#;
    let create = |address: &str| ask(address, "POST", "/api/v1/jobs", "", request).unwrap();
    let (running, address) = serve(&desk, &sim, "");
    assert_eq!(create(&address).0, 400);
    let setting = "/api/v1/config/jobs.articles";
    let change = ask(&address, "PUT", setting, "", r#"{"value": "/etc"}"#);
    assert_eq!(change.unwrap().0, 403);
    drop(running);
    desk.plain("config set jobs.articles articles").expect(0);
    let (_running, address) = serve(&desk, &sim, "");
    let (status, made) = create(&address);
    assert_eq!(status, 201, "{made}");
    let body: Value = serde_json::from_str(&made).unwrap();
    let path = format!("/api/v1/jobs/{}", body["job_id"].as_str().unwrap());
    let is_told = || {
        get(&address, &path, "")
            .1
            .contains("echo: It rained all day.")
    };
    assert!(eventually(is_told));
}
