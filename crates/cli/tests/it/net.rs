//! Certificates and proxies, as in company networks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use batchwright_simulate::Simulator;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::common::{Desk, Ended, PATIENCE, RunToEnd, all_ids, good};

/// A server with a certificate of a private authority, which forwards to a simulator.
struct Secure {
    url: String,
    authority: String,
}

impl Secure {
    fn start(sim: &Simulator) -> Self {
        let sim = sim.addr();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let secure = ServerConnection::new(config.clone()).unwrap();
                std::thread::spawn(move || forward(StreamOwned::new(secure, stream), sim));
            }
        });
        Self {
            url: format!("https://127.0.0.1:{port}/v1"),
            authority,
        }
    }
}

/// A head up to its empty line, and the body with the declared length.
fn message(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some([head.into_bytes(), body].concat())
}

/// Forwards requests to the simulator and replies back.
fn forward(client: impl Read + Write, sim: SocketAddr) -> Option<()> {
    let mut client = BufReader::new(client);
    let mut server = BufReader::new(TcpStream::connect(sim).ok()?);
    while let Some(request) = message(&mut client) {
        server.get_mut().write_all(&request).ok()?;
        client.get_mut().write_all(&message(&mut server)?).ok()?;
        client.get_mut().flush().ok()?;
    }
    Some(())
}

/// One less than the number of failed connections after which a run waits some seconds for its provider.
const ITEMS: usize = 2;

/// Runs the items against a URL, with these variables and without retries.
fn run(desk: &Desk, url: &str, variables: &[(&str, &str)]) -> Ended {
    desk.prompts("in.jsonl", ITEMS);
    let words =
        "run in.jsonl -o out.jsonl --log-level debug --max-retries 0 --provider openai --model m";
    let mut command = desk.command(words.split(' ').chain(["--base-url", url]));
    command.env("OPENAI_API_KEY", "sk-x");
    command.envs(variables.iter().copied());
    command.ended()
}

#[test]
fn a_private_authority_is_trusted_if_the_system_trusts_it() {
    let (desk, sim) = (Desk::new(), good());
    let server = Secure::start(&sim);
    desk.write("ca.pem", &server.authority);
    let file = desk.path("ca.pem").display().to_string();
    run(&desk, &server.url, &[("SSL_CERT_FILE", &file)]).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(ITEMS));
    assert_eq!(sim.stats().calls, ITEMS as u64);
    let by_name = server.url.replace("127.0.0.1", "localhost");
    desk.write("out.jsonl", "");
    run(&desk, &by_name, &[("SSL_CERT_FILE", &file)]).expect(0);
}

#[test]
fn an_untrusted_certificate_is_rejected_with_a_clear_message() {
    let (desk, sim) = (Desk::new(), good());
    let server = Secure::start(&sim);
    let ended = run(&desk, &server.url, &[]);
    assert!(
        matches!(ended.status.code(), Some(3 | 4)),
        "{}",
        ended.stderr
    );
    assert!(ended.took < PATIENCE);
    let lines = desk.results("out.jsonl");
    assert!(!lines.is_empty());
    for line in &lines {
        let message = line["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("name the authority's file in the variable SSL_CERT_FILE"),
            "{message}"
        );
    }
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn plain_http_to_a_server_that_speaks_tls_ends_at_once() {
    let desk = Desk::with(300);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", server.local_addr().unwrap());
    let calls = std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut start = [0; 4];
            stream.read_exact(&mut start).unwrap();
            if &start == b"STOP" {
                return;
            }
            // A fatal alert: an unexpected message.
            let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 10]);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let words = "run in.jsonl -o out.jsonl --provider openai --model m --base-url";
    let mut command = desk.command(words.split(' ').chain([&*url]));
    let ended = command.env("OPENAI_API_KEY", "sk-x").ended();
    ended.ends(4, "speaks TLS: its address begins with https://");
    let address = url.trim_start_matches("http://").trim_end_matches("/v1");
    let mut stop = TcpStream::connect(address).unwrap();
    stop.write_all(b"STOP").unwrap();
    calls.join().unwrap();
}

/// A proxy on the loopback interface that forwards every host to the simulator.
struct Proxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(sim: &Simulator) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, sim) = (heads.clone(), sim.addr());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().ok()?);
                    let head = String::from_utf8(message(&mut reader)?).ok()?;
                    let connect = head.starts_with("CONNECT ");
                    seen.lock().ok()?.push(head);
                    if !connect {
                        return None;
                    }
                    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
                    forward(stream, sim)
                });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> String {
        self.heads.lock().unwrap().concat()
    }
}

#[test]
fn a_proxy_is_used_with_its_credentials_and_never_shows_them() {
    let (desk, sim) = (Desk::new(), good());
    let proxy = Proxy::start(&sim);
    let url = format!("http://me:pr0xy-word@{}", proxy.address);
    let variables = [("HTTP_PROXY", &*url), ("RUST_LOG", "trace")];
    let ended = run(&desk, "http://api.test/v1", &variables).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(ITEMS));
    assert_eq!(sim.stats().calls, ITEMS as u64);
    let heads = proxy.heads();
    assert!(heads.contains("CONNECT api.test:80"), "{heads}");
    // "me:pr0xy-word" encoded for basic authentication.
    let basic = "bWU6cHIweHktd29yZA==";
    assert!(heads.contains(basic), "{heads}");
    for secret in ["pr0xy-word", basic] {
        ended.hides(secret);
        assert!(!desk.read("out.jsonl").contains(secret));
    }
}

#[test]
fn a_dead_proxy_is_named_without_its_password() {
    let desk = Desk::new();
    let proxy = "http://me:pr0xy-word@127.0.0.1:9";
    let ended = run(&desk, "http://api.test/v1", &[("HTTP_PROXY", proxy)]).expect(3);
    ended.hides("pr0xy-word");
    let lines = desk.results("out.jsonl");
    let message = lines[0]["error"]["message"].as_str().unwrap();
    assert!(!message.contains("pr0xy-word"), "{message}");
    assert!(message.contains("api.test"), "{message}");
}
