//! Paid calls without an answer of use: what is asked next, what is paid, what is remembered.

use super::*;
use crate::base::{ErrorKind, Sent, Timestamp, Usage, Usd};
use crate::engine::limiter::Limits;
use crate::llm::params::ResponseFormat;
use crate::llm::prices::Prices;
use crate::llm::request::{Message, Role};
use crate::llm::response::FinishReason;
use crate::llm::route::Route;

/// A client that answers from a list and keeps what it was asked.
struct Listed {
    answers: Mutex<std::vec::IntoIter<Result<Response, Error>>>,
    asked: Mutex<Vec<Request>>,
}

impl Listed {
    fn new<const N: usize>(answers: [Result<Response, Error>; N]) -> Self {
        Self {
            answers: Mutex::new(Vec::from(answers).into_iter()),
            asked: Mutex::default(),
        }
    }
}

impl LlmClient for Listed {
    fn complete(&self, request: &Request, _: &Context) -> Result<Response, Error> {
        self.asked.lock().push(request.clone());
        self.answers.lock().next().expect("one call too many")
    }
}

fn answer(text: &str) -> Result<Response, Error> {
    Ok(Response::new("listed", text))
}

fn paid(text: &str, tokens: u64, cost_usd: Option<Usd>) -> Result<Response, Error> {
    let usage = Usage {
        input_tokens: tokens,
        output_tokens: 2 * tokens,
        ..Usage::default()
    };
    let mut response = Response::new("listed", text).with_usage(usage);
    response.cost_usd = cost_usd;
    Ok(response)
}

static NO_PRICES: Pricing<'static> = Pricing {
    prices: &Prices::none(),
    at: Timestamp(0),
};

fn request() -> Request {
    Request::new("q").with_response_format(ResponseFormat::JsonObject)
}

/// The replies of calls of one item, each after the failures before it.
fn calls<const N: usize>(carried: &Carried, client: &Listed) -> [Reply<Response>; N] {
    let mut tries = Tries::default();
    [(); N].map(|()| {
        let reply = carried.call(client, &request(), &tries, &NO_PRICES, &Context::new());
        if let Err(error) = &reply.result {
            tries.count(error);
        }
        reply
    })
}

fn refusal(reply: &Reply<Response>) -> &Error {
    reply.result.as_ref().unwrap_err()
}

fn trouble() -> Result<Response, Error> {
    Err(Error::new(ErrorKind::Transient, "cut off"))
}

fn one_retry() -> crate::RetryPolicy {
    crate::RetryPolicy::default().base_delay(std::time::Duration::from_millis(1))
}

#[test]
fn the_second_request_shows_the_first_answer_and_what_is_wrong_with_it() {
    let client = Listed::new([
        paid("[1]", 10, Usd::from_dollars(0.5)),
        paid("```{}```", 3, Usd::from_dollars(0.25)),
    ]);
    let [first, second] = calls(&Carried::default(), &client);
    assert_eq!(first.paid.tokens(), Some((10, 20)));
    let error = refusal(&first);
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Invalid, Sent::Answered)
    );
    assert_eq!(error.raw(), Some("[1]"));
    let expected = "the answer does not fit the JSON object: it is JSON, but no object";
    assert_eq!(error.message(), expected);
    // The limiter was told of the first call before.
    assert_eq!(second.paid.tokens(), Some((3, 6)));
    let response = second.result.unwrap();
    assert_eq!(response.text, "{}");
    let usage = response.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (13, 26));
    assert_eq!(response.cost_usd, Usd::from_dollars(0.75));

    let asked = client.asked.lock();
    assert_eq!(asked[0], request());
    let [question, answer, wrong] = &asked[1].messages[..] else {
        panic!("{:?}", asked[1]);
    };
    assert_eq!(question, &request().messages[0]);
    assert_eq!(answer, &Message::new(Role::Assistant, "[1]"));
    assert_eq!(wrong.role, Role::User);
    assert!(wrong.text().contains("it is JSON, but no object"));
}

/// The answer was billed, but its reply does not say what it cost.
#[test]
fn a_cost_with_an_unknown_part_is_unknown() {
    let client = Listed::new([answer("no"), paid("{}", 3, Usd::from_dollars(0.25))]);
    let [first, second] = calls(&Carried::default(), &client);
    let charge = refusal(&first).charge().unwrap();
    assert_eq!((charge.calls, charge.cost_usd), (1, None));
    let response = second.result.unwrap();
    assert_eq!(response.cost_usd, None);
    assert_eq!(response.usage.unwrap().input_tokens, 3);
}

#[test]
fn a_truncated_answer_is_not_requested_again() {
    // The limit may be reached with the last brace.
    for (text, is_whole) in [("{\"a\": \"b", false), ("{}", true)] {
        let mut cut = Response::new("listed", text);
        cut.finish_reason = FinishReason::Length;
        let [reply] = calls(&Carried::default(), &Listed::new([Ok(cut)]));
        assert_eq!(reply.result.is_ok(), is_whole);
        if !is_whole {
            let error = refusal(&reply);
            assert!(!error.is_schema_mismatch());
            assert_eq!(
                (error.kind(), error.raw()),
                (ErrorKind::Invalid, Some(text))
            );
            let advice = "allow more tokens (max_tokens)";
            assert!(error.message().contains(advice), "{error}");
        }
    }
}

#[test]
fn a_failed_call_in_between_keeps_the_note_and_an_empty_answer_makes_none() {
    let client = Listed::new([answer("no"), trouble(), answer("{}")]);
    let [_, second, third] = calls(&Carried::default(), &client);
    assert_eq!(refusal(&second).kind(), ErrorKind::Transient);
    assert!(third.result.is_ok());
    let asked = client.asked.lock();
    assert_eq!(asked[1].messages.len(), 3);
    assert_eq!(asked[1], asked[2]);
    let client = Listed::new([answer(" \n"), answer("{}")]);
    let [_, second] = calls(&Carried::default(), &client);
    assert!(second.result.is_ok());
    assert_eq!(client.asked.lock()[1], request());
}

#[test]
fn a_route_corrects_once_and_then_sends_the_original_to_the_next_provider() {
    let first = Listed::new([answer("one"), answer("two")]);
    let second = Listed::new([answer("three"), answer("{\"four\": 4}")]);
    let route = Route::new(&first)
        .then(&second, Limits::default())
        .retry(one_retry());
    let answer = route.complete(&request(), &Context::new()).unwrap();
    assert_eq!(answer.text, "{\"four\": 4}");
    for client in [&first, &second] {
        let asked = client.asked.lock();
        let lengths: Vec<_> = asked.iter().map(|r| r.messages.len()).collect();
        assert_eq!(lengths, [1, 3]);
    }
    assert_eq!(second.asked.lock()[1].messages[1].text(), "three");
}

#[cfg(feature = "schema")]
#[test]
fn a_schema_that_cannot_be_used_is_never_sent() {
    let client = Listed::new([]);
    let format = ResponseFormat::JsonSchema {
        name: "a".to_owned(),
        schema: serde_json::json!({"type": "strin"}),
        strict: false,
    };
    let request = Request::new("q").with_response_format(format);
    let error = Route::new(&client).complete(&request, &Context::new());
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
    assert!(error.message().contains("at /type"), "{error}");
}

fn billed(kind: ErrorKind, tokens: u64) -> Error {
    let usage = paid("", tokens, None).unwrap().usage.unwrap();
    Error::new(kind, "no").with_usage(usage)
}

#[test]
fn a_failure_has_the_cost_of_all_calls_of_its_item() {
    let blocked = Err(billed(ErrorKind::Blocked, 3));
    let client = Listed::new([paid("no", 10, None), trouble(), blocked]);
    let carried = Carried::default();
    let [misfit, trouble, blocked] = calls(&carried, &client);
    assert_eq!(refusal(&misfit).usage().unwrap().input_tokens, 10);
    assert_eq!(trouble.paid.tokens(), None);
    assert_eq!(refusal(&trouble).usage().unwrap().input_tokens, 10);
    assert_eq!(blocked.paid.tokens(), Some((3, 6)));
    assert_eq!(refusal(&blocked).usage().unwrap().output_tokens, 26);
    let unsent = carried.at_end(Error::cancelled());
    assert_eq!(unsent.usage().unwrap().input_tokens, 13);
}

#[test]
fn the_usage_of_a_billed_failure_is_added_to_the_next_answer() {
    let empty = billed(ErrorKind::Malformed, 7).with_cost(Usd::from_picos(500_000_000_000));
    let client = Listed::new([Err(empty), paid("text", 3, Usd::from_dollars(0.25))]);
    let route = Route::new(&client).retry(one_retry());
    let answer = route.complete(&Request::new("q"), &Context::new()).unwrap();
    assert_eq!(answer.usage.unwrap().input_tokens, 10);
    assert_eq!(answer.cost_usd, Usd::from_dollars(0.75));
}

/// The item goes on at another provider, and what it had paid goes along.
#[test]
fn a_call_without_a_reply_keeps_the_cost_for_its_item() {
    let lost = Err(Error::cancelled().with_sent(Sent::Maybe));
    let first = Listed::new([paid("[1]", 10, Usd::from_dollars(0.5)), lost]);
    let second = Listed::new([paid("{}", 3, Usd::from_dollars(0.25))]);
    let route = Route::new(&first).then(&second, Limits::default());
    let (mut tries, carried) = (Tries::default(), Carried::default());
    let call = |tries: &Tries| {
        let reply = route.answers(&[request()], tries, &carried, &Context::new());
        reply.map(|mut answers| answers.remove(0).unwrap())
    };
    for _ in 0..2 {
        let error = call(&tries).result.unwrap_err();
        assert_eq!(error.paid().tokens(), Some((10, 20)));
        tries.count(&error);
    }
    tries.next_step(None);
    let response = call(&tries).result.unwrap();
    let usage = response.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (13, 26));
    assert_eq!(response.cost_usd, Usd::from_dollars(0.75));
}
