//! The items that a list returns, and how far it reads ahead, while quotas are closed or providers are unavailable.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::base::{Context, ErrorKind};
use crate::engine::limiter::{Limits, QuotaKey};
use crate::llm::client::LlmClient;
use crate::llm::request::{Message, Role};
use crate::llm::response::Response;

const NOW: Time = Time::from_nanos(1_000);

struct NamedClient(&'static str);

impl LlmClient for NamedClient {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        unreachable!("nothing is called here")
    }
    fn quota(&self, _: &Request) -> QuotaKey {
        QuotaKey::new(&[self.0])
    }
}

fn two_steps() -> Route<'static> {
    Route::new(NamedClient("first")).then(NamedClient("second"), Limits::default())
}

fn class(route: &Route<'_>) -> Class {
    route.class(&Request::new("p"), &mut None)
}

fn refused() -> Error {
    Error::new(ErrorKind::Auth, "refused")
}

/// A backlog whose source has all of these items available.
fn fed<'r>(route: &'r Route<'r>, items: Vec<Request>) -> ListBacklog<'r, Request> {
    let (waker, _) = Waker::new();
    let (feeder, source, _) = feed(items.len() + 1, PackLimits::ONE, waker);
    feeder.feed(items.into_iter().map(Ok));
    ListBacklog::new(route, source)
}

/// Takes several times; nothing can run, and no more is read than may wait.
fn waits_with(backlog: &mut ListBacklog<'_, Request>, availability: &Availability, read: usize) {
    for _ in 0..3 {
        match backlog.take(4, availability, NOW) {
            Ok(Take::Idle { until, source_open }) => {
                assert_eq!((until, source_open), (None, false));
            }
            _ => panic!("something could run"),
        }
        assert_eq!(backlog.read, read);
    }
}

#[test]
fn waiting_items_are_limited_by_their_real_size() {
    let half = || "A".repeat(1 << 19);
    let mut image = Message::new(Role::User, "");
    image.content = json!([{"type": "image_url", "image_url": {"url": half()}}]);
    let mut named = Message::new(Role::User, "p");
    named.extra.insert("name".to_owned(), json!(half()));
    for request in [
        Request::chat(vec![image]),
        Request::new("p").with_extra("schema", json!({"deep": [half()]})),
        Request::chat(vec![named]),
    ] {
        let route = Route::new(NamedClient("first"));
        let mut backlog = fed(&route, vec![request; 64]);
        let mut availability = Availability::default();
        availability.pauses.set(class(&route).quota(0), Time::FAR);
        waits_with(&mut backlog, &availability, (2 * WAITING_BYTES) >> 20);
        // When the quota is open again, items are returned and more are read.
        availability.pauses.set(class(&route).quota(0), Time::ZERO);
        let mut taken = 0;
        while let Ok(Take::Items(items)) = backlog.take(4, &availability, NOW) {
            taken += items.len();
        }
        assert_eq!((taken, backlog.read, backlog.waiting_bytes), (64, 64, 0));
    }
}

#[test]
fn a_paused_fallback_of_an_excluded_provider_delays_items() {
    let route = two_steps();
    let class = class(&route);
    let mut availability = Availability::default();
    availability.exclude_step(&class, 0, &refused(), Time::FAR);
    availability.pauses.set(class.quota(1), Time::FAR);
    let mut backlog = fed(&route, vec![Request::new("A".repeat(1 << 20)); 40]);
    waits_with(&mut backlog, &availability, WAITING_BYTES >> 20);
    availability.pauses.set(class.quota(1), Time::ZERO);
    let Ok(Take::Items(items)) = backlog.take(4, &availability, NOW) else {
        panic!("nothing could run");
    };
    let orders: Vec<u64> = items.iter().map(|ticket| ticket.order).collect();
    assert_eq!(orders, [0, 1, 2, 3]);
}

#[test]
fn when_a_paused_provider_is_excluded_waiting_items_continue_at_once() {
    let route = two_steps();
    let class = class(&route);
    let mut availability = Availability::default();
    availability.pauses.set(class.quota(0), Time::FAR);
    let items: Vec<Request> = (0..10).map(|i| Request::new(format!("p{i}"))).collect();
    let mut backlog = ListBacklog::new(&route, Source::Ready(Box::new(items.iter())));
    assert!(matches!(
        backlog.take(4, &availability, NOW),
        Ok(Take::Idle { .. })
    ));
    availability.exclude_step(&class, 0, &refused(), Time::FAR);
    assert!(backlog.has_more());
    let mut taken = Vec::new();
    while let Ok(Take::Items(items)) = backlog.take(4, &availability, NOW) {
        taken.extend(items.iter().map(|ticket| ticket.order));
    }
    assert_eq!(taken, Vec::from_iter(0..10));
    assert!(!backlog.has_more());
}

#[test]
fn items_read_before_a_fault_are_returned_before_it() {
    let route = Route::new(NamedClient("first"));
    let (waker, _) = Waker::new();
    let (feeder, source, tail) = feed(9, PackLimits::ONE, waker);
    let items = [Ok(Request::new("a")), Ok(Request::new("b")), Err(refused())];
    feeder.feed(items.into_iter());
    let mut backlog = ListBacklog::new(&route, source);
    let availability = Availability::default();
    let Ok(Take::Items(items)) = backlog.take(4, &availability, NOW) else {
        panic!("the fault came first");
    };
    assert_eq!(items.len(), 2);
    assert!(!backlog.has_more());
    // When the fault is reported, one of them waits again; it is returned.
    let ticket = items.into_iter().next().unwrap();
    backlog.wait(ticket, NOW.after(Duration::from_secs(9)));
    assert!(backlog.has_more());
    assert!(backlog.take(4, &availability, NOW).is_err());
    assert_eq!(backlog.rest().len(), 1);
    assert!(tail.drain().1.is_empty());
}
