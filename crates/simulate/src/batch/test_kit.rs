//! Helpers for tests of batches: a client that uploads, polls and waits with raw HTTP.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::test_client::{Client, PATIENCE, Reply, start};
use crate::{BatchConfig, BatchStats, SimConfig, Simulator, Vendor};

/// A simulator and one connection to it.
pub(super) struct Kit {
    pub(super) sim: Simulator,
    pub(super) client: Client,
    /// Header lines of every request.
    pub(super) headers: &'static str,
}

/// Batches that are over in no time.
pub(super) fn quick() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_millis(20))
}

/// Batches that are never over.
pub(super) fn endless() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_secs(80_000))
}

/// A file of lines, one for each prompt, from its number and its text.
pub(super) fn file(prompts: &[&str], line: impl Fn(usize, &str) -> Value) -> String {
    let lines = prompts.iter().enumerate();
    lines
        .map(|(nth, prompt)| format!("{}\n", line(nth, prompt)))
        .collect()
}

pub(super) fn kit(vendor: Option<Vendor>, batches: BatchConfig) -> Kit {
    let config = SimConfig::default().batches(batches);
    let (sim, client) = start(match vendor {
        Some(vendor) => config.vendor(vendor),
        None => config,
    });
    Kit {
        sim,
        client,
        headers: "",
    }
}

impl Kit {
    pub(super) fn with(self, headers: &'static str) -> Kit {
        Kit { headers, ..self }
    }

    /// A new connection, after the old one was closed.
    pub(super) fn reconnect(&mut self) {
        self.client = Client::connect(&self.sim);
    }

    pub(super) fn try_call(&mut self, line: &str, body: &[u8]) -> io::Result<Reply> {
        self.client.send(line, self.headers, body);
        self.client.try_read()
    }

    pub(super) fn call(&mut self, line: &str, body: &[u8]) -> Reply {
        self.try_call(line, body).expect("a reply")
    }

    /// A call that succeeds.
    pub(super) fn get(&mut self, path: &str) -> Value {
        self.call(&format!("GET {path}"), b"").is(200).json()
    }

    pub(super) fn post(&mut self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let body = if body == "null" { "" } else { &body };
        let reply = self.call(&format!("POST {path}"), body.as_bytes());
        reply.is(200).json()
    }

    /// The status of the reply to a POST.
    pub(super) fn refused(&mut self, path: &str, body: &Value) -> u16 {
        let body = body.to_string();
        self.call(&format!("POST {path}"), body.as_bytes()).status
    }

    /// Uploads a file in a form; the id of it.
    pub(super) fn upload(&mut self, base: &str, name: &str, content: &str) -> String {
        let reply = self.try_upload(base, name, content).is(200);
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    pub(super) fn try_upload(&mut self, base: &str, name: &str, content: &str) -> Reply {
        let body = format!(
            "--xyz\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--xyz\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/jsonl\r\n\r\n{content}\r\n--xyz--\r\n"
        );
        let kind = "Content-Type: multipart/form-data; boundary=xyz\r\n";
        let headers = format!("{}{kind}", self.headers);
        let line = format!("POST {base}/files");
        self.client.call(&line, &headers, body.as_bytes())
    }

    /// The lines of a download.
    pub(super) fn lines(&mut self, path: &str) -> Vec<Value> {
        let reply = self.call(&format!("GET {path}"), b"").is(200);
        let text = String::from_utf8(reply.body).expect("text");
        let read = |line| serde_json::from_str(line).expect("a line of JSON");
        text.lines().map(read).collect()
    }

    #[track_caller]
    pub(super) fn wait_for(&self, is_reached: impl Fn(&BatchStats) -> bool) {
        let reached = self.sim.wait_for_batches(is_reached, PATIENCE);
        assert!(reached, "{:?}", self.sim.batch_stats());
    }

    pub(super) fn wait_for_end(&self) {
        self.wait_for(|stats| stats.ended == stats.created);
    }

    pub(super) fn malformed(&self) -> u64 {
        self.sim.stats().malformed
    }
}

/// A file of OpenAI's form with these prompts; their ids are `i-0` and so on.
pub(super) fn openai_file(prompts: &[&str]) -> String {
    file(prompts, |nth, prompt| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
        json!({"custom_id": format!("i-{nth}"), "method": "POST", "url": "/v1/chat/completions",
            "body": body})
    })
}
