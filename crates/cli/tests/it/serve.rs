//! The program as a server: it starts, prints its address, stops on a signal, and continues after a restart.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use batchwright_simulate::{SimConfig, Simulator};
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, AsSendBody, Body};

use super::common::{Desk, PATIENCE, Running, eventually, good, simulator};

/// A server of the desk's queue on a free port, and its address.
pub fn serve(desk: &Desk, sim: &Simulator, words: &str) -> (Running, String) {
    let url = sim.base_url();
    let mut command = desk.command(["serve", "--base-url", &url]);
    command.args(["--provider", "local", "--model", "sim-1"]);
    if !words.contains("--port") {
        command.args(["--port", "0"]);
    }
    command.args(words.split_whitespace());
    listening(&mut command)
}

/// Starts a server, and returns it with its address.
pub fn listening(command: &mut Command) -> (Running, String) {
    let running = Running::start(command);
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
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let url = sim.base_url();
    let refused = |words: &str| {
        let words =
            format!("serve --port 0 --provider local --base-url {url} --model sim-1 {words}");
        desk.plain(&words).expect(1)
    };
    refused("--host 0.0.0.0").errs("set a token");
    write_private(&desk, "short", "hunter2\n");
    let short = refused("--token-file short");
    short.errs("16 characters");
    short.hides("hunter2");
    refused("--token-file nowhere").errs("nowhere");
    let token = "0123456789abcdef0123456789abcdef";
    write_private(&desk, "token", &format!("{token}\n"));
    let (running, address) = serve(&desk, &sim, "--host 0.0.0.0 --token-file token");
    let port = address.rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}");
    assert_eq!(get(&address, "/metrics", "").0, 401);
    let bearer = format!("authorization: Bearer {token}\r\n");
    assert_eq!(get(&address, "/metrics", &bearer).0, 200);
    assert!(!running.said().contains(token));
}

#[test]
fn a_new_token_has_the_role_of_its_line() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.plain("token new a/b --role read")
        .expect(2)
        .errs("a name has");
    desk.plain("token new shop --role admin")
        .expect(2)
        .errs("read and operate");
    let made = desk.plain("token new shop --role read").expect(0);
    let line = &made.stdout;
    assert!(line.starts_with("shop read sha256:"), "{line}");
    let token = made.stderr.trim().rsplit(' ').next().unwrap();
    assert!(
        token.starts_with("bw_") && !line.contains(token),
        "{}",
        made.stderr
    );
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
    const CLIENTS: usize = 8;
    const JOBS: usize = 40;
    let (desk, sim) = (Desk::new(), good());
    let (mut running, address) = serve(&desk, &sim, "-j 4");
    // The next server has another port: meanwhile somebody else may have taken this one.
    let address = Mutex::new(address);
    let made = Mutex::new(Vec::new());
    let create = |client: usize, n: usize| {
        let header = format!("idempotency-key: {client}-{n}\r\n");
        let body = format!(r#"{{"type":"completion","payload":{{"prompt":"{client} {n}"}}}}"#);
        let mut answer = None;
        assert!(eventually(|| {
            let address = address.lock().unwrap().clone();
            answer = ask(&address, "POST", "/api/v1/jobs", &header, &body);
            answer.as_ref().is_some_and(|(status, _)| *status == 201)
        }));
        answer.unwrap().1
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (made, create) = (&made, &create);
            scope.spawn(move || {
                for n in 0..JOBS {
                    let answer = create(client, n);
                    made.lock().unwrap().push((client, n, answer));
                }
            });
        }
        for share in 1..4 {
            assert!(eventually(
                || made.lock().unwrap().len() >= share * CLIENTS * JOBS / 4
            ));
            running.child.kill().unwrap();
            running.child.wait().unwrap();
            let next = serve(&desk, &sim, "-j 4");
            (running, *address.lock().unwrap()) = next;
        }
    });
    let made = made.into_inner().unwrap();
    assert_eq!(made.len(), CLIENTS * JOBS);
    let id = |answer: &str| -> String {
        let answer: Value = serde_json::from_str(answer).unwrap();
        answer["job_id"].as_str().unwrap().to_owned()
    };
    let ids: BTreeSet<String> = made.iter().map(|(.., answer)| id(answer)).collect();
    assert_eq!(ids.len(), CLIENTS * JOBS, "each key has a job of its own");
    for (client, n, answer) in &made {
        let again = create(*client, *n);
        assert_eq!(id(&again), id(answer), "and still the same one");
    }
    let status = desk.plain("status --json").expect(0).json();
    let processes = status["processes"].as_array().unwrap();
    let total: u64 = processes.iter().map(|p| p["total"].as_u64().unwrap()).sum();
    assert_eq!(
        total,
        (CLIENTS * JOBS) as u64,
        "and no job is without a key"
    );
    running.signal("TERM");
    running.wait().expect(0);
}

#[test]
fn the_documented_job_of_an_article_id_succeeds_and_no_client_chooses_where_articles_are() {
    let (desk, sim) = (Desk::new(), good());
    std::fs::create_dir(desk.path("articles")).unwrap();
    desk.write("articles/a-1.md", "It rained all day.");
    let (running, address) = serve(&desk, &sim, "");
    let request = r#"{"type": "summarize", "payload": {"article_id": "a-1"}}"#;
    let create = |address: &str| ask(address, "POST", "/api/v1/jobs", "", request).unwrap();
    assert_eq!(create(&address).0, 400);
    let change = r#"{"value": "/etc"}"#;
    let setting = "/api/v1/config/jobs.articles";
    assert_eq!(ask(&address, "PUT", setting, "", change).unwrap().0, 403);
    running.signal("TERM");
    running.wait().expect(0);
    desk.plain("config set jobs.articles articles").expect(0);
    let (_running, address) = serve(&desk, &sim, "");
    let (status, made) = create(&address);
    assert_eq!(status, 201, "{made}");
    assert!(eventually(|| sim.stats().answered == 1));
    let body: Value = serde_json::from_str(&made).unwrap();
    let path = format!("/api/v1/jobs/{}", body["job_id"].as_str().unwrap());
    assert!(eventually(|| get(&address, &path, "")
        .1
        .contains("echo: It rained all day.")));
}
