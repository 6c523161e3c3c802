//! Each route with each role.

use std::fs;
use std::path::Path;

use batchwright::{Handler, JobQueue, Worker};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Request;

use crate::router::Route;
use crate::service::routes;
use crate::tokens::{Access, Role, new_token};
use crate::{RunningServer, Server};

struct Desk {
    server: RunningServer,
    agent: Agent,
    /// Roles with their tokens.
    tokens: [(Role, String); 2],
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
        let made = Role::ALL.map(|role| {
            let (token, line) = new_token(role.as_str(), role).unwrap();
            ((role, token.expose().to_owned()), line)
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
            tokens: made.map(|(token, _)| token),
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
        let (status, text) = self.send("POST", path, Some(&self.tokens[1].1), kind, body);
        assert!(status < 300, "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn objects(&self) -> Objects {
        let id = |made: &Value, name: &str| made[name].as_str().unwrap().to_owned();
        let path = "/api/v1/processes?type=shout";
        let process = id(&self.made(path, "application/jsonl", "{}\n"), "process_id");
        let job = json!({
            "type": "shout", "payload": "hi", "process_id": process,
        });
        let job = self.made("/api/v1/jobs", "application/json", &job.to_string());
        let form = "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--x\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{}\r\n--x--\r\n";
        let file = self.made("/v1/files", "multipart/form-data; boundary=x", form);
        let batch = json!({
            "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
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

#[test]
fn each_role_uses_its_routes() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new(folder.path());
    for route in routes() {
        let at = format!("{} {}", route.method, route.path);
        let is_open = route.access == Access::Open;
        let objects = desk.objects();
        let anyone = desk.call(route, &objects, None);
        assert_eq!(anyone.0 == 401, !is_open, "{at}: {anyone:?}");
        for (role, token) in &desk.tokens {
            let (status, text) = desk.call(route, &objects, Some(token));
            let at = format!("{at} as {}: {status} {text}", role.as_str());
            assert_eq!(status == 403, !role.may(route.access), "{at}");
            assert!(status != 401, "{at}");
        }
    }
    desk.server.stop().unwrap();
}
