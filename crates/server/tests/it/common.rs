//! A server over a temporary folder with a simulated provider behind it, and a client.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use batchwright::config::{ConfigStore, FileConfig, SettingsWatch};
use batchwright::plan::{ProviderOptions, ProviderPlan};
use batchwright::provider::inspect;
use batchwright::{Handler, JobQueue, LlmManager, Secret, Settings};
use batchwright_server::{RunningServer, Server};
use batchwright_simulate::{SimConfig, Simulator};
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, AsSendBody, Body};

use super::document;

#[path = "../../../../tests/it/cases.rs"]
mod cases;
#[path = "../../../../tests/it/has.rs"]
mod has;
pub use cases::cases;
pub use has::Has;

/// Far beyond what anything here takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A server, the provider behind it, and the folder in which both live.
pub struct Desk {
    /// Dropped first: what it does last needs the others.
    server: Option<RunningServer>,
    pub sim: Simulator,
    pub folder: TempDir,
    /// Changed by the server under test, which follows it.
    pub store: Arc<FileConfig>,
    /// How long its worker and its requests may take when it stops, from the next start.
    pub grace: Duration,
    agent: Agent,
}

impl Desk {
    /// A server with all that is built in, at a provider that is quick and good.
    pub fn new() -> Self {
        Self::at(SimConfig::default())
    }

    pub fn at(sim: SimConfig) -> Self {
        Self::with(sim, |server| server)
    }

    /// `adapt` may change the server before it starts.
    pub fn with(sim: SimConfig, adapt: impl FnOnce(Server) -> Server) -> Self {
        Self::build(sim, |_| {}, adapt)
    }

    /// `prepare` may store settings before the server starts.
    pub fn prepared(sim: SimConfig, prepare: impl FnOnce(&FileConfig)) -> Self {
        Self::build(sim, prepare, |server| server)
    }

    fn build(
        sim: SimConfig,
        prepare: impl FnOnce(&FileConfig),
        adapt: impl FnOnce(Server) -> Server,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(FileConfig::new(folder.path().join("settings.json")));
        prepare(&store);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_recv_response(Some(PATIENCE))
            .build();
        let mut this = Self {
            sim: Simulator::start(sim).unwrap(),
            folder,
            store,
            grace: PATIENCE,
            server: None,
            agent: agent.into(),
        };
        this.start(adapt);
        this
    }

    /// Starts the server anew, on the same folder.
    pub fn start(&mut self, adapt: impl FnOnce(Server) -> Server) {
        let queue = self.queue();
        let settings = Settings::new();
        let store: Arc<dyn ConfigStore> = self.store.clone();
        let watch = SettingsWatch::new(settings.clone(), Arc::clone(&store)).unwrap();
        let url = self.sim.base_url();
        let options = match self.store.get("llm.provider").unwrap() {
            None => {
                let status = inspect("custom", Some(&url), Some("sim-1"), false).unwrap();
                ProviderOptions::new().provider(status)
            }
            // One that a test has prepared.
            Some(name) => {
                let url = match &*name {
                    "anthropic" => url.replace("/v1", ""),
                    "gemini" => url.replace("/v1", "/v1beta"),
                    _ => url,
                };
                let options = ProviderOptions::new().base_url(Some(url));
                options.api_key(&name, Secret::new("unused"))
            }
        };
        let options = options.data_dir(self.folder.path());
        let plan = ProviderPlan::new(watch.settings().clone(), options).unwrap();
        let manager = LlmManager::of(plan)
            .job_types(&batchwright_jobs::JobTypes::new())
            .follow(watch);
        let worker = manager
            .worker(&queue)
            .unwrap()
            .on_error(batchwright::ErrorPolicy::ContinueOnError)
            .context(&batchwright::Context::new().with_grace(self.grace))
            .handle(
                "shout",
                Handler::new(|job, _| Ok(job.parse::<String>()?.to_uppercase())),
            );
        let server = Server::new(queue, worker)
            .address(([127, 0, 0, 1], 0).into())
            .grace(self.grace)
            .manager(manager)
            .settings(settings, store)
            .unwrap();
        self.server = Some(adapt(server).start().unwrap());
    }

    /// A handle of its queue.
    pub fn queue(&self) -> JobQueue {
        JobQueue::open(self.folder.path().join("llm_jobs.db")).unwrap()
    }

    pub fn server(&self) -> &RunningServer {
        self.server.as_ref().unwrap()
    }

    /// Stops the server as a signal would.
    pub fn stop(&mut self) -> batchwright::queue::WorkerReport {
        self.server.take().unwrap().stop().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server().address())
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Sends a request, with a body of JSON unless the headers name another type. Its answer has the documented shape.
    #[track_caller]
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsSendBody,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(self.url(path));
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::of(self.agent.run(request.body(body).unwrap()).unwrap());
        document::compare(method, path, &answer);
        answer
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], ())
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body.to_string())
    }

    /// The JSON at this path, which is answered with 200.
    #[track_caller]
    pub fn read(&self, path: &str) -> Value {
        self.get(path).is(200).json()
    }

    /// What a request that is answered with 200 brings.
    #[track_caller]
    pub fn done(&self, path: &str, body: &Value) -> Value {
        self.post(path, body).is(200).json()
    }

    /// What a request creates.
    #[track_caller]
    pub fn made(&self, path: &str, body: &Value) -> Value {
        self.post(path, body).is(201).json()
    }

    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], body.to_string())
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], ())
    }
}

/// What was answered, as a whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn of(mut response: Response<Body>) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// With this status, or all of it is shown.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// A job that is done at once.
pub fn shout(text: &str) -> Value {
    json!({"type": "shout", "payload": text})
}

/// Posts with an idempotency key.
pub fn keyed(desk: &Desk, path: &str, key: &str, body: &str) -> Answer {
    desk.send("POST", path, &[("idempotency-key", key)], body)
}

/// Waits for the end of a job.
#[track_caller]
pub fn ended(desk: &Desk, job: &str) -> Value {
    let job = desk.read(&format!("/api/v1/jobs/{job}?wait=30"));
    assert!(job["progress"] == 100, "{job}");
    job
}

/// Deletes a job's result by its receipt.
pub fn acked(desk: &Desk, job: &Value) -> Answer {
    let path = format!("{}/results/ack", process(job));
    desk.post(&path, &json!({"receipts": [job["receipt"]]}))
}

/// The text in a field of an object.
#[track_caller]
pub fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap().to_owned()
}

/// The text in a field of each of these objects.
pub fn ids(all: &[Value], name: &str) -> Vec<String> {
    all.iter().map(|one| text(one, name)).collect()
}

/// The path of the process that a request created.
pub fn process(made: &Value) -> String {
    format!("/api/v1/processes/{}", text(made, "process_id"))
}

/// The objects of lines of JSON.
pub fn read_lines(text: &str) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap();
    text.lines().map(line).collect()
}

/// Posts lines as a process.
pub fn lines(desk: &Desk, query: &str, body: &str) -> Answer {
    let path = format!("/api/v1/processes{query}");
    let kind = ("content-type", "application/jsonl");
    desk.send("POST", &path, &[kind], body)
}

/// Waits for the end of a process.
#[track_caller]
pub fn until_finished(desk: &Desk, process: &str) -> Value {
    let path = format!("/api/v1/processes/{process}");
    let ended = |now: &Value| now["state"] == "finished" || now["state"] == "cancelled";
    until_shown(desk, &path, ended)
}

/// Checks repeatedly until the condition is true.
#[track_caller]
pub fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it never came");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Reads a path until the condition is true of its JSON, which is returned.
#[track_caller]
pub fn until_shown(desk: &Desk, path: &str, done: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = desk.read(path);
        if done(&shown) {
            return shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        thread::sleep(Duration::from_millis(20));
    }
}
