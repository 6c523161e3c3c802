//! Start, stop, and start again.

use super::common::Desk;

#[test]
fn a_server_stops_and_starts_again_on_its_folder() {
    let mut desk = Desk::new();
    assert_eq!(desk.get("/healthz").is(200).json()["status"], "ok");
    let text = desk.get("/metrics").is(200).text;
    assert!(text.contains("batchwright_"), "{text}");
    assert!(!desk.server().is_finished());
    desk.stop();
    desk.start(|server| server);
    desk.get("/healthz").is(200);
}
