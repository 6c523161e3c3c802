//! Providers behind a gateway with a path prefix: no request may go around the gateway.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use batchwright::batch::BatchApi;
use batchwright::provider::inspect;
use batchwright::unstable::{
    BatchClient, BatchInput, BatchIntent, BatchStage, BatchState, ListedBatches,
};
use batchwright::{Context, Error, LlmClient, LlmConfig, Request, Secret};
use batchwright_simulate::{BatchConfig, SimConfig, Simulator, Vendor};

const PREFIX: &str = "/some/prefix";
const KEY: &str = "sk-key-of-nobody-0123456789";

/// Forwards requests below the prefix to a simulated provider, which uses the provider's own host name in its
/// replies, and rejects all other requests.
struct Gateway {
    address: SocketAddr,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    fn start(sim: &Simulator, host: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let paths = Arc::<Mutex<Vec<String>>>::default();
        let (upstream, seen) = (sim.addr(), paths.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let seen = seen.clone();
                std::thread::spawn(move || pass_on(stream.unwrap(), upstream, host, &seen));
            }
        });
        Self { address, paths }
    }

    fn url(&self, version: &str) -> String {
        format!("http://{}{PREFIX}{version}", self.address)
    }
}

/// Forwards one request and its reply.
fn pass_on(
    stream: TcpStream,
    upstream: SocketAddr,
    host: &str,
    seen: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    seen.lock().unwrap().push(format!("{method} {path}"));
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let (name, value) = match field.split_once(':') {
            Some((name, value)) => (name.to_ascii_lowercase(), value.trim()),
            None => break,
        };
        match &*name {
            "host" | "connection" => {}
            "content-length" => length = value.parse().ok()?,
            _ => head.push_str(&field),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut client = stream;
    let Some(path) = path.strip_prefix(PREFIX) else {
        let reply = b"HTTP/1.1 421 Past\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return client.write_all(reply).ok();
    };
    let mut server = TcpStream::connect(upstream).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-length: {length}\r\n{head}\r\n"
    );
    server.write_all(head.as_bytes()).ok()?;
    server.write_all(&body).ok()?;
    std::io::copy(&mut server, &mut client).ok()?;
    Some(())
}

struct Lines(Vec<u8>);

impl BatchInput for Lines {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        Ok(Box::new(&self.0[..]))
    }
}

/// Each provider: its own host, the path before its calls, the simulated vendor, and the features to test.
struct Row {
    provider: &'static str,
    host: &'static str,
    version: &'static str,
    vendor: Vendor,
    embeds: bool,
    batches: bool,
}

fn rows() -> Vec<Row> {
    let row = |provider, host, version, vendor, embeds, batches| Row {
        provider,
        host,
        version,
        vendor,
        embeds,
        batches,
    };
    vec![
        row(
            "openai",
            "api.openai.com",
            "/v1",
            Vendor::OpenAi,
            true,
            true,
        ),
        row("groq", "api.groq.com", "", Vendor::Groq, false, true),
        row(
            "mistral",
            "api.mistral.ai",
            "",
            Vendor::Mistral,
            true,
            false,
        ),
        row("xai", "api.x.ai", "/v1", Vendor::Xai, false, true),
        row(
            "anthropic",
            "api.anthropic.com",
            "",
            Vendor::OpenAi,
            false,
            true,
        ),
        row(
            "gemini",
            "generativelanguage.googleapis.com",
            "",
            Vendor::OpenAi,
            true,
            true,
        ),
        row("custom", "llm.test", "/v1", Vendor::OpenAi, true, false),
        row("local", "llm.test", "/v1", Vendor::OpenAi, true, false),
    ]
}

fn batch(api: &BatchApi) {
    let ctx = Context::new();
    let line = |key: &str| api.line(key, &Request::new(key)).unwrap();
    let mut lines = Lines([line("run-1-000000"), line("run-1-000001")].concat());
    let intent = BatchIntent {
        label: "run-1".to_owned(),
        model: Some("sim-1".to_owned()),
        items: 2,
        bytes: lines.0.len() as u64,
        begun: SystemTime::now().into(),
    };
    let ready = if api.uploads() {
        api.advance(&intent, &BatchStage::Ready, &mut lines, &ctx)
            .unwrap()
    } else {
        BatchStage::Ready
    };
    assert_eq!(
        api.find(&intent, &ready, &HashSet::new(), &ctx).unwrap(),
        ListedBatches::None
    );
    let BatchStage::Created { id, .. } = api.advance(&intent, &ready, &mut lines, &ctx).unwrap()
    else {
        panic!("no batch");
    };
    let status = loop {
        let status = api.status(&id, &ctx).unwrap();
        if status.state.is_final() {
            break status;
        }
        std::thread::yield_now();
    };
    assert!(matches!(status.state, BatchState::Completed), "{status:?}");
    for file in &status.results {
        let mut bytes = Vec::new();
        api.download(&id, file, &mut bytes, &ctx).unwrap();
        assert!(!bytes.is_empty());
    }
    api.cancel(&id, &ctx).unwrap();
    if let BatchStage::Uploaded { file, .. } = &ready {
        api.discard(file, &ctx).unwrap();
    }
}

#[test]
fn every_call_of_every_provider_goes_below_the_prefix() {
    for row in rows() {
        let batches = BatchConfig::default().duration(Duration::from_millis(5));
        let settings = SimConfig::default().vendor(row.vendor).batches(batches);
        let sim = Simulator::start(settings).unwrap();
        let gateway = Gateway::start(&sim, row.host);
        let url = gateway.url(row.version);
        let config = LlmConfig::new(row.provider).model("sim-1").base_url(&url);
        let config = config.api_key(Secret::new(KEY));
        let client = config.client().unwrap();
        let request = Request::new("one");
        client.complete(&request, &Context::new()).unwrap();
        if row.embeds {
            client.embed(&[&request], &Context::new()).unwrap();
        }
        if row.batches {
            batch(&config.batch_client().unwrap());
        }
        let found = inspect(row.provider, Some(&url), None, false).unwrap();
        assert_eq!(found.provider, row.provider);
        let paths = gateway.paths.lock().unwrap();
        let past: BTreeSet<_> = paths.iter().filter(|path| !path.contains(PREFIX)).collect();
        assert!(past.is_empty(), "{}: {past:?}", row.provider);
        let least = 1 + usize::from(row.embeds) + 5 * usize::from(row.batches);
        assert!(paths.len() >= least, "{}: {paths:?}", row.provider);
    }
}
