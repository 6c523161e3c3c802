//! Tests with a real server, which `scripts/with-servers` starts; without one, these tests print that they were
//! skipped.

use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};

use super::*;

const PATIENCE: Duration = Duration::from_secs(180);

/// The address of the server; if there is none, prints a line and returns `None`.
pub(crate) fn address() -> Option<String> {
    let address = std::env::var("BATCHWRIGHT_TEST_REDIS").ok();
    if address.is_none() {
        eprintln!("skipped: BATCHWRIGHT_TEST_REDIS names no server; see scripts/with-servers");
    }
    address
}

pub(crate) fn hub(address: &str) -> RedisHub {
    RedisHub::new(RedisOptions::new(address)).unwrap()
}

/// The messages about a topic, as long as the subscriber exists.
fn subscribed(hub: &RedisHub, topic: &str) -> (Arc<Subscriber>, Receiver<()>) {
    let (heard, hears) = unbounded();
    let subscriber: Arc<Subscriber> = Arc::new(move || {
        let _ = heard.send(());
    });
    hub.subscribe(topic, Arc::downgrade(&subscriber));
    // The subscriber is called when the listener starts.
    assert_eq!(hears.recv_timeout(PATIENCE), Ok(()));
    (subscriber, hears)
}

#[test]
fn a_message_reaches_other_subscribers_of_a_topic_and_not_the_own_hub() {
    let Some(address) = address() else { return };
    let topic = uuid::Uuid::now_v7().to_string();
    let (one, other) = (hub(&address), hub(&address));
    let (_keep, own) = subscribed(&one, &topic);
    let (_keep_too, theirs) = subscribed(&other, &topic);
    let mut took = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        one.publish(&topic);
        assert_eq!(theirs.recv_timeout(PATIENCE), Ok(()));
        took.push(began.elapsed());
    }
    took.sort();
    println!(
        "from publish to subscriber: {:?} in the middle, {:?} at most",
        took[50], took[99]
    );
    one.publish("another topic");
    one.publish(&topic);
    assert_eq!(theirs.recv_timeout(PATIENCE), Ok(()));
    assert!(own.is_empty() && theirs.is_empty());
}

#[test]
fn the_last_messages_are_sent_before_the_hub_ends() {
    let Some(address) = address() else { return };
    let topic = uuid::Uuid::now_v7().to_string();
    let listener = hub(&address);
    let (_keep, heard) = subscribed(&listener, &topic);
    let short = hub(&address);
    short.publish(&topic);
    drop(short);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(()));
}

/// A connection between the tests and the server that can be cut and restored.
pub(crate) struct Cable {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Cable {
    pub(crate) fn to(server: &str) -> Self {
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};
        let server = server.rsplit('@').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        let pump = move |mut from: TcpStream, mut to: TcpStream, is_cut: Arc<AtomicBool>| {
            from.set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            let mut bytes = [0; 4096];
            while !is_cut.load(Ordering::SeqCst) {
                match from.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(read) if to.write_all(&bytes[..read]).is_err() => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
            let _ = from.shutdown(std::net::Shutdown::Both);
            let _ = to.shutdown(std::net::Shutdown::Both);
        };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(&server).unwrap();
                let (a, b) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (one, other) = (is_cut.clone(), is_cut.clone());
                std::thread::spawn(move || pump(client, server, one));
                std::thread::spawn(move || pump(b, a, other));
            }
        });
        Self { port, cut }
    }

    /// The address of this cable, which leads to the server at `direct`.
    pub(crate) fn address(&self, direct: &str) -> String {
        let (login, _) = direct.rsplit_once('@').unwrap();
        format!("{login}@127.0.0.1:{}", self.port)
    }

    pub(crate) fn cut(&self, yes: bool) {
        self.cut.store(yes, Ordering::SeqCst);
    }
}

#[test]
fn after_a_reconnect_subscribers_check_for_missed_messages() {
    let Some(address) = address() else { return };
    let topic = uuid::Uuid::now_v7().to_string();
    let cable = Cable::to(&address);
    let behind = hub(&cable.address(&address));
    let (_keep, heard) = subscribed(&behind, &topic);
    let direct = hub(&address);
    cable.cut(true);
    let began = Instant::now();
    while !behind.0.shared.is_away.load(Ordering::SeqCst) {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    direct.publish(&topic);
    cable.cut(false);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(()));
    let began = Instant::now();
    while behind.0.shared.is_away.load(Ordering::SeqCst) {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

#[test]
fn a_wrong_password_is_explained_without_being_repeated() {
    let Some(address) = address() else { return };
    let (_, place) = address.rsplit_once('@').unwrap();
    let wrong = hub(&format!("redis://:wr0ngone@{place}"));
    let error = talker::connect(&wrong.0.shared).err().unwrap();
    let text = explain(&error);
    assert!(
        text.contains("BATCHWRIGHT_REDIS_PASSWORD"),
        "{text} {error:?}"
    );
    assert!(!text.contains("wr0ngone"));
}
