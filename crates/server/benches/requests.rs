//! How long clients wait, a hundred at a time, while the worker is busy: `cargo bench -p batchwright-server`.
//!
//! Each line has requests a second and the time of a request at the median, at p99 and at most. Clients ask again as
//! soon as they are answered, which no machine is quick enough for: there the time is that of waiting for a processor.
//! The last lines have clients that ask once in 20 ms.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use batchwright::queue::{WorkerScale, WorkerSettings};
use batchwright::{Handler, JobQueue, ProcessId, Worker};
use batchwright_server::Server;

const CLIENTS: usize = 100;
const AT_ONCE: Duration = Duration::ZERO;
const PACED: Duration = Duration::from_millis(20);
/// Jobs that keep the worker busy, each for 20 ms.
const BUSY: usize = 150_000;

/// One client with a connection that stays open.
struct Client {
    reader: BufReader<TcpStream>,
    host: String,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Self {
            reader: BufReader::new(stream),
            host: address.to_string(),
        }
    }

    /// The status and the body of the answer.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.reader
            .get_mut()
            .write_all(request.as_bytes())
            .expect("a request is taken");
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("an answer");
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(code) = line.strip_prefix("HTTP/1.1 ") {
                status = code[..3].parse().expect("a status");
            } else if let Some(n) = line.strip_prefix("content-length: ") {
                length = n.parse().expect("a length");
            }
        }
        let mut answer = vec![0; length];
        self.reader
            .read_exact(&mut answer)
            .expect("the whole answer");
        (status, String::from_utf8(answer).expect("text"))
    }
}

/// Has every client ask `rounds` times, each once in `every` or as often as it can, and prints how that went.
fn measure(
    what: &str,
    address: SocketAddr,
    rounds: usize,
    every: Duration,
    ask: impl Fn(&mut Client, usize) -> u16 + Sync,
) {
    let (began, next) = (Barrier::new(CLIENTS + 1), AtomicUsize::new(0));
    let (mut times, mut refused) = (Vec::new(), 0);
    let mut took = Duration::ZERO;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|place| {
                let (began, next, ask) = (&began, &next, &ask);
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    let mut times = Vec::with_capacity(rounds);
                    let mut refused = 0;
                    began.wait();
                    // Not all in the same moment.
                    let mut due = Instant::now() + every.mul_f64(place as f64 / CLIENTS as f64);
                    for _ in 0..rounds {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        due += every;
                        let at = Instant::now();
                        let status = ask(&mut client, n);
                        times.push(at.elapsed());
                        refused += usize::from(status >= 300);
                    }
                    (times, refused)
                })
            })
            .collect();
        began.wait();
        let at = Instant::now();
        for client in clients {
            let (of_one, refused_of_one) = client.join().expect("a client");
            times.extend(of_one);
            refused += refused_of_one;
        }
        took = at.elapsed();
    });
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{what:<34} {:>8.0}/s   p50 {:>7.2} ms   p99 {:>7.2} ms   most {:>7.2} ms   refused {refused}",
        times.len() as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    // `cargo test --benches` only looks whether it runs.
    let (rounds, jobs) = if std::env::args().any(|arg| arg == "--bench") {
        (200, BUSY)
    } else {
        (2, 1_000)
    };
    let folder = tempfile::tempdir().expect("a folder");
    let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).expect("a queue");
    let busy = (0..jobs).map(|n| {
        batchwright::Job::new("busy", &n)
            .expect("a payload")
            .priority(1)
    });
    queue.enqueue_iter(ProcessId::new(), busy).expect("jobs");
    let worker = Worker::new(&queue)
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(CLIENTS)))
        .handle(
            "busy",
            Handler::new(|_, _| {
                thread::sleep(Duration::from_millis(20));
                Ok(())
            }),
        )
        .handle("later", Handler::new(|_, _| Ok(())));
    let server = Server::new(queue, worker)
        .address(([127, 0, 0, 1], 0).into())
        .start()
        .expect("a server");
    let address = server.address();
    let ids = parking_lot::Mutex::new(Vec::new());
    let create = |client: &mut Client, _: usize| {
        let job = r#"{"type":"later","payload":{"n":1},"priority":1}"#;
        let (status, answer) = client.ask("POST", "/api/v1/jobs", job);
        if let Ok(job) = serde_json::from_str::<serde_json::Value>(&answer)
            && let Some(id) = job["job_id"].as_str()
        {
            ids.lock().push(id.to_owned());
        }
        status
    };
    let read = |client: &mut Client, n: usize| {
        let path = {
            let ids = ids.lock();
            format!("/api/v1/jobs/{}", ids[n % ids.len()])
        };
        client.ask("GET", &path, "").0
    };
    for (of, every) in [("", AT_ONCE), (", paced", PACED)] {
        let what = format!("POST /api/v1/jobs{of}");
        measure(&what, address, rounds, every, create);
        let what = format!("GET /api/v1/jobs/{{job_id}}{of}");
        measure(&what, address, rounds, every, read);
    }
    let (done, at) = (server.stop().expect("it stops").completed, rounds);
    println!("the worker ended {done} jobs meanwhile ({at} rounds of {CLIENTS} clients)");
}
