//! Items that fail over to another provider report which one answered and why the earlier ones did not.

use batchwright::client::Sent;
use batchwright::{
    Bulk, Error, ErrorKind, Extract, Limits, Request, RetryPolicy, Route, client_fn,
};

use super::regress_bulk::requests;

#[test]
fn the_result_names_every_provider_before_the_one_that_answered() {
    let failing = |error: Error| client_fn(move |_: &Request, _: &_| Err(error.clone()));
    let busy = Error::new(ErrorKind::Transient, "first: down").with_status(503);
    let wrong = Error::new(ErrorKind::Invalid, "second: too long").with_sent(Sent::Answered);
    let route = Route::new(failing(busy))
        .then(failing(wrong), Limits::default())
        .then(Extract, Limits::default())
        .retry(RetryPolicy::default().max_retries(0));
    for outcome in Bulk::new(route)
        .concurrency(2)
        .collect(&requests(4))
        .unwrap()
    {
        assert_eq!(outcome.result.as_ref().unwrap().provider, "extract");
        let why: Vec<_> = outcome.earlier.iter().map(|e| e.error.message()).collect();
        assert_eq!(why, ["first: down", "second: too long"]);
        assert_eq!(outcome.earlier[0].error.status(), Some(503));
        let line = serde_json::to_value(&outcome).unwrap();
        assert_eq!(line["earlier"][1]["error"]["kind"], "invalid");
        assert_eq!(line["earlier"][1]["provider"], "custom");
    }
}
