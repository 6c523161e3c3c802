//! Connections, waiting, stopping, and the endpoints' manners.

use super::test_client::{Client, PATIENCE, start};
use super::{SimConfig, Simulator};

#[test]
fn wrong_paths_methods_and_bodies_are_refused() {
    let (sim, mut client) = start(SimConfig::default());
    client.get("/v1/nothing").is(404);
    client.get("/v1/chat/completions").is(404);
    for bad in ["", "{", r#"{"model":"m","messages":[]}"#] {
        let reply = client
            .call("POST /v1/chat/completions", "", bad.as_bytes())
            .is(400);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    client.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(client.read().status, 411);
    assert!(client.is_closed());
    assert_eq!((sim.stats().calls, sim.stats().accepted), (3, 0));
}

#[test]
fn a_client_that_hangs_up_may_pay_again() {
    let sim = Simulator::start(SimConfig::default()).unwrap();
    sim.hold();
    let mut client = Client::connect(&sim);
    client.ask("x");
    assert!(sim.wait_until(|stats| stats.in_flight == 1, PATIENCE));
    client.hang_up();
    sim.release();
    assert!(sim.wait_until(|stats| stats.in_flight == 0, PATIENCE));
    let stats = sim.stats();
    assert_eq!(stats.answered, 0);
    assert_eq!(Client::connect(&sim).chat("x").status, 200);
    let stats = sim.stats();
    assert_eq!(stats.paid_twice, 1);
}
