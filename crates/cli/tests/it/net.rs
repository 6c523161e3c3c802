//! Certificates and proxies, as in company networks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use batchwright_simulate::Simulator;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::common::{Desk, Ended, RunToEnd, all_ids, good};

/// A private authority: its certificate, and what signs others.
pub fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

/// The certificate of a server on this machine, and its key.
pub fn certified(issuer: &Issuer<'static, KeyPair>) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

/// A server with a certificate of a private authority, which forwards to a simulator. Returns its URL and the authority.
fn secure(sim: &Simulator) -> (String, String) {
    let sim = sim.addr();
    let (authority, issuer) = authority();
    let (certificate, key) = certified(&issuer);
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
    (format!("https://127.0.0.1:{port}/v1"), authority)
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
    let (url, authority) = secure(&sim);
    desk.write("ca.pem", &authority);
    let file = desk.path("ca.pem").display().to_string();
    for url in [&url, &url.replace("127.0.0.1", "localhost")] {
        desk.write("out.jsonl", "");
        run(&desk, url, &[("SSL_CERT_FILE", &file)]).expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(ITEMS));
    }
    assert_eq!(sim.stats().calls, 2 * ITEMS as u64);
}

#[test]
fn an_untrusted_certificate_and_an_address_without_tls_are_rejected_with_a_clear_message() {
    let (desk, sim) = (Desk::new(), good());
    let (url, _) = secure(&sim);
    let ended = run(&desk, &url, &[]);
    assert!(
        matches!(ended.status.code(), Some(3 | 4)),
        "{}",
        ended.stderr
    );
    let lines = desk.results("out.jsonl");
    assert!(!lines.is_empty());
    for line in &lines {
        let message = line["error"]["message"].as_str().unwrap();
        let advice = "name the authority's file in the variable SSL_CERT_FILE";
        assert!(message.contains(advice), "{message}");
    }
    let plain = url.replace("https", "http");
    run(&desk, &plain, &[]).ends(4, "speaks TLS: its address begins with https://");
    assert_eq!(sim.stats().calls, 0);
}

/// A proxy on the loopback interface that passes requests to `api.test` on to the simulator, if they have this login.
/// Returns its address, and the heads that it gets.
fn proxy(sim: &Simulator, login: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let (seen, sim) = (heads.clone(), sim.addr());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().ok()?);
                let mut server = BufReader::new(TcpStream::connect(sim).ok()?);
                while let Some(request) = message(&mut reader) {
                    let request = String::from_utf8(request).ok()?;
                    seen.lock().ok()?.push(request.clone());
                    if !request.contains(login) {
                        let refused = b"HTTP/1.1 407 X\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(refused).ok()?;
                        continue;
                    }
                    let own = request.replacen("http://api.test", "", 1);
                    server.get_mut().write_all(own.as_bytes()).ok()?;
                    stream.write_all(&message(&mut server)?).ok()?;
                }
                Some(())
            });
        }
    });
    (address, heads)
}

#[test]
fn a_proxy_is_used_with_its_credentials_and_never_shows_them() {
    let (desk, sim) = (Desk::new(), good());
    // "me:pr0xy-word" encoded for basic authentication.
    let basic = "bWU6cHIweHktd29yZA==";
    let (address, heads) = proxy(&sim, basic);
    let url = format!("http://me:pr0xy-word@{address}");
    let variables = [("HTTP_PROXY", &*url), ("RUST_LOG", "trace")];
    let ended = run(&desk, "http://api.test/v1", &variables).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(ITEMS));
    assert_eq!(sim.stats().calls, ITEMS as u64);
    let heads = heads.lock().unwrap().concat();
    // Many proxies connect to nothing but https.
    let line = "POST http://api.test/v1/chat/completions HTTP/1.1\r\n";
    assert!(
        heads.starts_with(line) && !heads.contains("CONNECT"),
        "{heads}"
    );
    for secret in ["pr0xy-word", basic] {
        ended.hides(secret);
        assert!(!desk.read("out.jsonl").contains(secret));
    }
    // One that is not there is named without its password.
    desk.write("out.jsonl", "");
    let dead = ("HTTP_PROXY", "http://me:pr0xy-word@127.0.0.1:9");
    run(&desk, "http://api.test/v1", &[dead])
        .expect(3)
        .hides("pr0xy-word");
    let message = desk.results("out.jsonl")[0]["error"]["message"].to_string();
    let says = "no connection to its proxy 127.0.0.1:9";
    assert!(
        !message.contains("pr0xy-word") && message.contains(says),
        "{message}"
    );
}

#[test]
fn a_proxy_that_wants_a_login_ends_the_run_at_once() {
    let (desk, sim) = (Desk::new(), good());
    let (address, heads) = proxy(&sim, "a login");
    for scheme in ["http", "https"] {
        let variables = ["HTTP_PROXY", "HTTPS_PROXY"].map(|name| (name, &*address));
        let ended = run(&desk, &format!("{scheme}://api.test/v1"), &variables);
        ended.ends(4, &format!("the proxy {address} wants a login (407)"));
    }
    assert!(heads.lock().unwrap().len() <= 2 * ITEMS);
    assert_eq!(sim.stats().calls, 0);
}
