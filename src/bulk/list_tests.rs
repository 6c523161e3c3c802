//! The items that a list returns, and how far it reads ahead, while quotas are closed or providers are unavailable.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

#[test]
fn waiting_items_are_limited_by_their_real_size() {
    let image = || {
        let mut message = Message::new(Role::User, "");
        message.content = json!([{"type": "image_url", "image_url": {"url": "A".repeat(1 << 19)}}]);
        Request::chat(vec![message])
    };
    let extra = || Request::new("p").with_extra("schema", json!({"deep": ["A".repeat(1 << 19)]}));
    let beside = || {
        let mut message = Message::new(Role::User, "p");
        let name = json!("A".repeat(1 << 19));
        message.extra.insert("name".to_owned(), name);
        Request::chat(vec![message])
    };
    let makers: [&dyn Fn() -> Request; 3] = [&image, &extra, &beside];
    for make in makers {
        let route = Route::new(NamedClient("first"));
        let mut backlog = fed(&route, (0..64).map(|_| make()).collect());
        let mut availability = Availability::default();
        availability.pauses.set(class(&route).quota(0), Time::FAR);
        for _ in 0..3 {
            match backlog.take(4, &availability, NOW) {
                Ok(Take::Idle { source_open, .. }) => assert!(!source_open),
                _ => panic!("something could run"),
            }
            // Each item has half a mebibyte.
            assert_eq!(backlog.read, (2 * WAITING_BYTES) >> 20);
        }
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
    let large = || Request::new("A".repeat(1 << 20));
    let mut backlog = fed(&route, (0..40).map(|_| large()).collect());
    for _ in 0..3 {
        match backlog.take(4, &availability, NOW) {
            Ok(Take::Idle { until, source_open }) => {
                assert_eq!((until, source_open), (None, false));
            }
            _ => panic!("something could run"),
        }
        assert_eq!(backlog.read, WAITING_BYTES >> 20);
    }
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
    let ready = items.iter().enumerate();
    let ready = ready.map(Item::new);
    let mut backlog = ListBacklog::new(&route, Source::Ready(Box::new(ready)));
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
fn alike_texts_share_calls_also_after_a_pause_and_fewer_after_a_division() {
    struct Embeds;
    impl LlmClient for Embeds {
        fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
            unreachable!("nothing is called here")
        }
        fn quota(&self, _: &Request) -> QuotaKey {
            QuotaKey::new(&["embeds"])
        }
        fn pack_limits(&self) -> PackLimits {
            PackLimits {
                inputs: 3,
                tokens: 1000,
            }
        }
    }
    let route = Route::new(Embeds);
    let text = |i: usize| {
        let other = (4..6).contains(&i).then(|| "other".to_owned());
        Request {
            model: other,
            ..Request::embedding(format!("text {i}"))
        }
    };
    let mut backlog = fed(&route, (0..8).map(text).collect());
    let mut availability = Availability::default();
    let class = route.class(&text(0), &mut None);
    availability.pauses.set(class.quota(0), Time::FAR);
    assert!(matches!(
        backlog.take(9, &availability, NOW),
        Ok(Take::Idle { .. })
    ));
    availability.pauses.set(class.quota(0), Time::ZERO);
    let take = |backlog: &mut ListBacklog<'_, Request>| match backlog.take(9, &availability, NOW) {
        Ok(Take::Items(items)) => items,
        _ => panic!("nothing could run"),
    };
    let indices = |items: &[Ticket<Pack<Item<Request>>>]| -> Vec<Vec<usize>> {
        let items = items.iter();
        items
            .map(|ticket| ticket.task.iter().map(|item| item.index).collect())
            .collect()
    };
    let mut items = take(&mut backlog);
    let packs = [vec![0, 1, 2], vec![3], vec![4, 5], vec![6, 7]];
    assert_eq!(indices(&items), packs);
    let texts = |pack: &[usize]| pack.iter().map(|i| cost(&text(*i)).input).sum::<u32>();
    assert!(
        items
            .iter()
            .zip(&packs)
            .all(|(item, pack)| item.cost.input == texts(pack))
    );
    items[0].tries.divide(3);
    for ticket in items {
        backlog.wait(ticket, NOW);
    }
    let packs = [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6, 7]];
    assert_eq!(indices(&take(&mut backlog)), packs);
    assert!(matches!(
        backlog.take(9, &availability, NOW),
        Ok(Take::Done)
    ));
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

#[test]
fn an_abandoned_source_is_returned_completely() {
    let (waker, _) = Waker::new();
    let (feeder, source, tail) = feed(2, PackLimits::ONE, waker);
    let pulled = Arc::new(AtomicUsize::new(0));
    let count = pulled.clone();
    let items = (0..).map(move |i| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Request::new(i.to_string()))
    });
    drop(source);
    let left = std::thread::scope(|scope| {
        scope.spawn(move || feeder.feed(items));
        tail.drain().1.len()
    });
    assert_eq!(left, pulled.load(Ordering::SeqCst));
}
