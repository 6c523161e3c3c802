//! Paid calls without an answer of use: what is asked next, what is paid, what is remembered.

use super::*;
use crate::base::{ErrorKind, Sent, Time, Timestamp, Usage, Usd};
use crate::engine::limiter::Limits;
use crate::llm::params::ResponseFormat;
use crate::llm::prices::Prices;
use crate::llm::request::{Message, Role};
use crate::llm::response::FinishReason;
use crate::llm::route::Route;

/// A client that answers from a list and keeps what it was asked.
struct Listed {
    answers: Mutex<Vec<Result<Response, Error>>>,
    asked: Mutex<Vec<Request>>,
}

impl Listed {
    fn new(answers: impl IntoIterator<Item = Result<Response, Error>>) -> Self {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        Self {
            answers: Mutex::new(answers),
            asked: Mutex::default(),
        }
    }
}

impl LlmClient for Listed {
    fn complete(&self, request: &Request, _: &Context) -> Result<Response, Error> {
        self.asked.lock().push(request.clone());
        self.answers.lock().pop().expect("one call too many")
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

fn first_try() -> Tries {
    Tries {
        first: Time::from_nanos(7).into(),
        ..Tries::default()
    }
}

fn after(errors: &[&Error]) -> Tries {
    let mut tries = first_try();
    errors.iter().for_each(|error| tries.count(error));
    tries
}

fn call(carried: &Carried, client: &Listed, tries: &Tries) -> Reply<Response> {
    carried.call(client, &request(), tries, &NO_PRICES, &Context::new())
}

fn refusal(reply: Reply<Response>) -> Error {
    reply.result.unwrap_err()
}

#[test]
fn the_second_request_shows_the_first_answer_and_what_is_wrong_with_it() {
    let client = Listed::new([
        paid("[1]", 10, Usd::from_dollars(0.5)),
        paid("```{}```", 3, Usd::from_dollars(0.25)),
    ]);
    let carried = Carried::default();
    let reply = call(&carried, &client, &first_try());
    assert_eq!(reply.paid.tokens(), Some((10, 20)));
    let error = refusal(reply);
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Invalid, Sent::Answered)
    );
    assert_eq!(error.raw(), Some("[1]"));
    let expected = "the answer does not fit the JSON object: it is JSON, but no object";
    assert_eq!(error.message(), expected);

    let reply = call(&carried, &client, &after(&[&error]));
    // The limiter was told of the first call before.
    assert_eq!(reply.paid.tokens(), Some((3, 6)));
    let response = reply.result.unwrap();
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

#[test]
fn a_cost_with_an_unknown_part_is_unknown() {
    let client = Listed::new([answer("no"), paid("{}", 3, Usd::from_dollars(0.25))]);
    let carried = Carried::default();
    let error = refusal(call(&carried, &client, &first_try()));
    let response = call(&carried, &client, &after(&[&error])).result.unwrap();
    assert_eq!(response.cost_usd, None);
    assert_eq!(response.usage.unwrap().input_tokens, 3);
}

#[test]
fn a_truncated_answer_is_not_requested_again() {
    let mut cut = Response::new("listed", "{\"a\": \"b");
    cut.finish_reason = FinishReason::Length;
    let mut whole = Response::new("listed", "{}");
    whole.finish_reason = FinishReason::Length;
    let client = Listed::new([Ok(cut), Ok(whole)]);
    let carried = Carried::default();
    let error = refusal(call(&carried, &client, &first_try()));
    assert!(!error.is_schema_mismatch());
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.message().contains("allow more tokens (max_tokens)"),
        "{error}"
    );
    assert_eq!(error.raw(), Some("{\"a\": \"b"));
    // The limit may be reached with the last brace.
    assert!(call(&carried, &client, &first_try()).result.is_ok());
}

#[test]
fn a_failed_call_in_between_keeps_the_note() {
    let trouble = Error::new(ErrorKind::Transient, "cut off");
    let client = Listed::new([answer("no"), Err(trouble), answer("{}")]);
    let carried = Carried::default();
    let misfit = refusal(call(&carried, &client, &first_try()));
    let trouble = refusal(call(&carried, &client, &after(&[&misfit])));
    assert_eq!(trouble.kind(), ErrorKind::Transient);
    let reply = call(&carried, &client, &after(&[&misfit, &trouble]));
    assert!(reply.result.is_ok());
    let asked = client.asked.lock();
    assert_eq!(asked[1].messages.len(), 3);
    assert_eq!(asked[1], asked[2]);
}

#[test]
fn an_empty_answer_is_not_added_to_the_conversation() {
    let client = Listed::new([answer(" \n"), answer("{}")]);
    let carried = Carried::default();
    let error = refusal(call(&carried, &client, &first_try()));
    assert!(call(&carried, &client, &after(&[&error])).result.is_ok());
    assert_eq!(client.asked.lock()[1], request());
}

#[test]
fn a_route_corrects_once_and_then_sends_the_original_to_the_next_provider() {
    let first = Listed::new([answer("one"), answer("two")]);
    let second = Listed::new([answer("three"), answer("{\"four\": 4}")]);
    let retry = crate::RetryPolicy::default().base_delay(std::time::Duration::from_millis(1));
    let route = Route::new(&first)
        .then(&second, Default::default())
        .retry(retry);
    let answer = route.complete(&request(), &Context::new()).unwrap();
    assert_eq!(answer.text, "{\"four\": 4}");
    let lengths = |client: &Listed| {
        let asked = client.asked.lock();
        asked.iter().map(|r| r.messages.len()).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&first), [1, 3]);
    assert_eq!(lengths(&second), [1, 3]);
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

fn blocked(tokens: u64) -> Result<Response, Error> {
    let usage = paid("", tokens, None)?.usage.unwrap();
    Err(Error::new(ErrorKind::Blocked, "no").with_usage(usage))
}

#[test]
fn a_failure_has_the_cost_of_all_calls_of_its_item() {
    let trouble = || Err(Error::new(ErrorKind::Transient, "cut off"));
    let client = Listed::new([paid("no", 10, None), trouble(), blocked(3)]);
    let carried = Carried::default();
    let misfit = refusal(call(&carried, &client, &first_try()));
    assert_eq!(misfit.usage().unwrap().input_tokens, 10);
    let reply = call(&carried, &client, &after(&[&misfit]));
    assert_eq!(reply.paid.tokens(), None);
    let trouble = refusal(reply);
    assert_eq!(trouble.usage().unwrap().input_tokens, 10);

    let tries = after(&[&misfit, &trouble]);
    let reply = call(&carried, &client, &tries);
    assert_eq!(reply.paid.tokens(), Some((3, 6)));
    assert_eq!(refusal(reply).usage().unwrap().output_tokens, 26);
    let unsent = carried.at_end(Error::cancelled());
    assert_eq!(unsent.usage().unwrap().input_tokens, 13);
}

#[test]
fn the_usage_of_a_billed_failure_is_added_to_the_next_answer() {
    let usage = paid("", 7, None).unwrap().usage.unwrap();
    let empty = Error::new(ErrorKind::Malformed, "empty")
        .with_usage(usage)
        .with_cost(Usd::from_picos(500_000_000_000));
    let client = Listed::new([Err(empty), paid("text", 3, Usd::from_dollars(0.25))]);
    let retry = crate::RetryPolicy::default().base_delay(std::time::Duration::from_millis(1));
    let route = Route::new(&client).retry(retry);
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
    let (mut tries, carried) = (first_try(), Carried::default());
    let call = |tries: &Tries| {
        let reply = route.answers(&[request()], tries, &carried, &Context::new());
        reply.map(|mut answers| answers.remove(0).unwrap())
    };
    for _ in 0..2 {
        let error = refusal(call(&tries));
        assert_eq!(error.paid().tokens(), Some((10, 20)));
        tries.count(&error);
    }
    tries.next_step(None);
    let response = call(&tries).result.unwrap();
    let usage = response.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (13, 26));
    assert_eq!(response.cost_usd, Usd::from_dollars(0.75));
}

/// The answer was billed, but the reply does not say what it cost.
#[test]
fn an_answer_in_a_wrong_format_without_tokens_is_a_billed_call_of_unknown_cost() {
    let client = Listed::new([answer("no JSON")]);
    let error = refusal(call(&Carried::default(), &client, &first_try()));
    let charge = error.charge().unwrap();
    assert_eq!((charge.calls, charge.cost_usd), (1, None));
}
