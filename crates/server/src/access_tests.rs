//! Each route with each role, for the own objects of a token and for those of another one.

use std::fs;
use std::path::Path;

use batchwright::{Handler, JobQueue, Worker};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Request;

use crate::router::Route;
use crate::service::routes;
use crate::tokens::{Access, Role, TokenLimits, new_token};
use crate::{RunningServer, Server};

/// In all objects of the token `a`, and in no path.
const MARK: &str = "mark-of-a";

struct Desk {
    server: RunningServer,
    agent: Agent,
    /// Names and roles with their tokens.
    tokens: Vec<(&'static str, Role, String)>,
}

/// The ids of an object of each type.
struct Objects {
    job: String,
    process: String,
    file: String,
    batch: String,
}

impl Desk {
    fn new(folder: &Path) -> Self {
        let clients = [
            ("a", Role::Submit),
            ("a", Role::ReadOwn),
            ("b", Role::Submit),
            ("b", Role::ReadOwn),
            ("reader", Role::Read),
            ("operator", Role::Operate),
        ];
        let made = clients.map(|(name, role)| {
            let (token, line) = new_token(name, role, TokenLimits::default()).unwrap();
            ((name, role, token.expose().to_owned()), line)
        });
        let path = folder.join("tokens");
        fs::write(
            &path,
            made.each_ref().map(|(_, line)| line.clone()).join("\n"),
        )
        .unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let queue = JobQueue::open(&folder.join("llm_jobs.db")).unwrap();
        let shout = Handler::new(|job, _| Ok(job.parse::<String>()?.to_uppercase()));
        let worker = Worker::new(&queue).handle("shout", shout);
        let server = Server::new(queue, worker).address(([127, 0, 0, 1], 0).into());
        let agent = Agent::config_builder().http_status_as_error(false).build();
        Self {
            server: server.token_file(path).start().unwrap(),
            agent: agent.into(),
            tokens: made.into_iter().map(|(token, _)| token).collect(),
        }
    }

    /// The status and the text of a response; no text of an endless one.
    fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        kind: &str,
        body: &str,
    ) -> (u16, String) {
        let url = format!("http://{}{path}", self.server.address());
        let mut request = Request::builder().method(method).uri(url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = match method {
            "GET" | "DELETE" => self.agent.run(request.body(()).unwrap()),
            _ => {
                let request = request.header("content-type", kind);
                self.agent.run(request.body(body.to_owned()).unwrap())
            }
        };
        let mut response = response.unwrap();
        let status = response.status().as_u16();
        let text = match response.headers().get("content-type") {
            Some(kind) if kind == "text/event-stream" => String::new(),
            _ => response.body_mut().read_to_string().unwrap(),
        };
        (status, text)
    }

    fn made(&self, path: &str, kind: &str, body: &str) -> Value {
        let (status, text) = self.send("POST", path, Some(&self.tokens[0].2), kind, body);
        assert!(status < 300, "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Objects of the token `a`.
    fn objects(&self) -> Objects {
        let id = |made: &Value, name: &str| made[name].as_str().unwrap().to_owned();
        let path = format!("/api/v1/processes?type=shout&name={MARK}");
        let line = format!("{{\"id\":\"{MARK}\"}}\n");
        let process = id(&self.made(&path, "application/jsonl", &line), "process_id");
        let job = json!({
            "type": "shout", "payload": "hi", "item_id": MARK, "process_id": process,
        });
        let job = self.made("/api/v1/jobs", "application/json", &job.to_string());
        let form = format!(
            "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--x\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"{MARK}\"\r\n\r\n{{}}\r\n--x--\r\n"
        );
        let file = self.made("/v1/files", "multipart/form-data; boundary=x", &form);
        let batch = json!({
            "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "metadata": {"mark": MARK},
        });
        let batch = self.made("/v1/batches", "application/json", &batch.to_string());
        Objects {
            job: id(&job, "job_id"),
            process,
            file: id(&file, "id"),
            batch: id(&batch, "id"),
        }
    }

    fn call(&self, route: &Route, of: &Objects, token: Option<&str>) -> (u16, String) {
        let path = route
            .path
            .replace("{job_id}", &of.job)
            .replace("{process_id}", &of.process)
            .replace("{file_id}", &of.file)
            .replace("{batch_id}", &of.batch)
            .replace("{key}", "llm.model")
            .replace("{model}", "sim-1");
        self.send(route.method, &path, token, "application/json", "{}")
    }
}

/// Whether access was denied because of the token.
fn is_denied((status, text): &(u16, String)) -> bool {
    [401, 403].contains(status) || text.contains("belongs to another token")
}

#[test]
fn each_role_uses_its_routes_and_finds_its_objects() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new(folder.path());
    let others = desk.objects();
    for route in routes() {
        let at = format!("{} {}", route.method, route.path);
        let anyone = desk.call(route, &others, None);
        assert_eq!(
            anyone.0 == 401,
            route.access != Access::Open,
            "{at}: {anyone:?}"
        );
        if route.access == Access::Open {
            continue;
        }
        for (name, role, token) in &desk.tokens {
            let at = format!("{at} by {name} as {}", role.as_str());
            if !role.may(route.access) {
                let (status, text) = desk.call(route, &others, Some(token));
                assert_eq!(status, 403, "{at}: {text}");
                assert!(text.contains(role.as_str()), "{at}: {text}");
                continue;
            }
            let of_others = *name == "b";
            let names_object = route.path.contains("_id}");
            let own;
            let objects = if of_others {
                &others
            } else {
                own = desk.objects();
                &own
            };
            let answer = desk.call(route, objects, Some(token));
            if of_others {
                assert!(!answer.1.contains(MARK), "{at}: {answer:?}");
                assert_eq!(is_denied(&answer), names_object, "{at}: {answer:?}");
                assert!(!names_object || answer.0 == 404, "{at}: {answer:?}");
            } else {
                assert!(!is_denied(&answer), "{at}: {answer:?}");
            }
        }
    }
    desk.server.stop().unwrap();
}
