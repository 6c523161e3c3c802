//! The least that calls an LLM from many threads: `bare_loop URL PROMPTS THREADS`. Nothing is checked, limited, retried,
//! counted or saved, there are no time limits, and the prompts are made here. `scripts/compare-calls` compares with it.

use std::env;
use std::thread;

use serde::{Deserialize, Serialize};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, prompts, threads] = &arguments[..] else {
        panic!("usage: bare_loop URL PROMPTS THREADS");
    };
    let url = format!("{url}/chat/completions");
    let prompts: usize = prompts.parse().expect("a number of prompts");
    let threads: usize = threads.parse().expect("a number of threads");
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .proxy(None)
        .input_buffer_size(16 * 1024)
        .output_buffer_size(16 * 1024)
        .max_idle_connections(threads)
        .max_idle_connections_per_host(threads)
        .build()
        .into();
    let (to_threads, tasks) = crossbeam_channel::bounded(2 * threads);
    let answered: usize = thread::scope(|scope| {
        let work = || {
            tasks
                .iter()
                .filter(|i| !call(&agent, &url, *i).is_empty())
                .count()
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        (0..prompts).for_each(|i| to_threads.send(i).expect("the threads are there"));
        drop(to_threads);
        let counts = threads.into_iter().map(|thread| thread.join());
        counts.map(|count| count.expect("no call fails")).sum()
    });
    assert_eq!(answered, prompts);
}

/// A request and a reply have no more fields than these.
#[derive(Serialize)]
struct Asked<'p> {
    model: &'p str,
    messages: [Message<'p>; 1],
}

#[derive(Serialize)]
struct Message<'p> {
    role: &'p str,
    content: &'p str,
}

#[derive(Deserialize)]
struct Answered {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Text,
}

#[derive(Deserialize)]
struct Text {
    content: String,
}

fn call(agent: &ureq::Agent, url: &str, i: usize) -> String {
    let mut prompt = format!("word {i} ").repeat(40);
    prompt.truncate(200);
    let (role, content) = ("user", prompt.as_str());
    let asked = Asked {
        model: "m",
        messages: [Message { role, content }],
    };
    let body = serde_json::to_vec(&asked).expect("texts are JSON");
    let mut reply = agent
        .post(url)
        .header("content-type", "application/json")
        .header("authorization", "Bearer x")
        .send(&body[..])
        .expect("loopback answers");
    let bytes = reply.body_mut().read_to_vec().expect("the body is whole");
    let mut answered: Answered = serde_json::from_slice(&bytes).expect("the body is a reply");
    answered.choices.swap_remove(0).message.content
}
