//! Tests with a real server, which `scripts/with-servers` starts; without one, these tests print that they were
//! skipped.

use std::fs;

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
    for _ in 0..100 {
        one.publish(&topic);
        assert_eq!(theirs.recv_timeout(PATIENCE), Ok(()));
    }
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

#[test]
fn a_wrong_password_is_explained_without_being_repeated() {
    let Some(address) = address() else { return };
    let (_, place) = address.rsplit_once('@').unwrap();
    let wrong = hub(&format!("redis://:wr0ngone@{place}"));
    let error = connect(&wrong.0.shared).err().unwrap();
    let text = explain(&error);
    assert!(
        text.contains("BATCHWRIGHT_REDIS_PASSWORD"),
        "{text} {error:?}"
    );
    assert!(!text.contains("wr0ngone"));
}

#[test]
fn no_text_about_redis_has_its_password() {
    let options = RedisOptions::new("rediss://me:s3cret@cache.example:6380/2");
    assert!(!format!("{options:?}").contains("s3cret"));
    let (client, location) = options.client().unwrap();
    assert_eq!(location, "rediss://cache.example:6380");
    let login = client.get_connection_info().redis_settings();
    let known = (login.username(), login.password(), login.db());
    assert_eq!(known, (Some("me"), Some("s3cret"), 2));
}

#[test]
fn the_password_of_redis_comes_from_a_file_unless_the_address_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "from a file\n").unwrap();
    let found = |address: &str| {
        let options = RedisOptions::new(address).password_file(&file);
        let (client, _) = options.client().unwrap();
        let login = client.get_connection_info().redis_settings();
        login.password().map(str::to_owned)
    };
    assert_eq!(found("redis://127.0.0.1").as_deref(), Some("from a file"));
    assert_eq!(found("redis://:own@127.0.0.1").as_deref(), Some("own"));
}

#[test]
fn invalid_redis_addresses_are_rejected_without_quoting_them() {
    for address in [
        "s3cret",
        "http://me:s3cret@host",
        "redis://me:s3cret@host?what=s3cret",
        "redis://me:s3cret@host/0#insecure",
        "rediss://me:s3cret@host?ca=/nowhere/s",
    ] {
        let error = RedisOptions::new(address).client().expect_err(address);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
