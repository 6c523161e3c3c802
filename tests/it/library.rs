//! What a program finds in the outcomes of its requests.

use std::ops::ControlFlow;

use batchwright::client::request_hash;
use batchwright::testing::{ScriptedClient, scripted_vector};
use batchwright::{
    Bulk, Context, Error, ErrorKind, FinishReason, Outcome, Request, Response, Route,
    execute_bulk_sync,
};
use serde::Deserialize;

#[track_caller]
fn belongs(outcome: &Outcome, n: usize) {
    assert_eq!(outcome.index, Some(n));
    if let Ok(answer) = &outcome.result {
        assert_eq!(answer.text, format!("echo: p{n}"));
    }
}

#[test]
fn kept_fields_are_in_the_outcome_and_not_in_the_request() {
    let fields = serde_json::json!({"n": 7, "note": "x"});
    let row = Request::new("p1").with_input(fields.as_object().unwrap().clone());
    assert_eq!(request_hash(&row), request_hash(&Request::new("p1")));
    let client = ScriptedClient::new();
    let outcomes = execute_bulk_sync(&Context::new(), &client, &[row], 1).unwrap();
    let input = outcomes[0].input.as_ref().unwrap();
    assert_eq!(input.as_str(), fields.to_string());
    let line = serde_json::to_string(&outcomes[0]).unwrap();
    let read: Outcome = serde_json::from_str(&line).unwrap();
    assert_eq!(read.input.as_ref(), Some(input));
}

#[test]
fn embeddings_of_one_call_are_assigned_to_their_items() {
    let client = ScriptedClient::new();
    let texts = (0..40).map(|n| Request::embedding(format!("p{n}")));
    let mut seen = 0;
    let sink = |outcome: Outcome| {
        let n = outcome.index.unwrap();
        let vector = scripted_vector(&format!("p{n}"));
        assert_eq!(outcome.result.unwrap().embedding, Some(vector));
        seen += 1;
        ControlFlow::Continue(())
    };
    Bulk::new(&client).for_each(texts, sink).unwrap();
    assert_eq!(seen, 40);
    let one = Route::new(&client).complete(&Request::embedding("p1"), &Context::new());
    assert!(one.unwrap().embedding.is_some());
}

#[test]
fn outcomes_have_their_index_also_if_nothing_was_sent() {
    let client = ScriptedClient::new();
    client.fail("p3", Error::new(ErrorKind::Invalid, "no"));
    let requests: Vec<Request> = (0..20).map(|n| Request::new(format!("p{n}"))).collect();
    let outcomes = execute_bulk_sync(&Context::new(), &client, &requests, 4).unwrap();
    let ctx = Context::new();
    ctx.cancel();
    let unsent = execute_bulk_sync(&ctx, &client, &requests, 4).unwrap_err();
    for outcomes in [&outcomes, &unsent.outcomes] {
        assert_eq!(outcomes.len(), 20);
        (0..20).for_each(|n| belongs(&outcomes[n], n));
    }
    assert!(outcomes[3].result.is_err());
    assert_eq!(client.calls().len(), 20);
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Person {
    name: String,
    age: u8,
}

#[derive(Debug, Deserialize)]
enum Colour {
    Red,
}

#[test]
fn an_answer_is_read_as_a_type() {
    let person = Person {
        name: "Ada".to_owned(),
        age: 36,
    };
    for text in [
        r#"{"name": "Ada", "age": 36}"#,
        "\n```json\n{\"name\": \"Ada\", \"age\": 36}\n```\n",
    ] {
        assert_eq!(Response::new("x", text).parse::<Person>().unwrap(), person);
    }
}

#[test]
fn a_parse_error_does_not_quote_the_answer() {
    let deep = "[".repeat(100_000);
    let (no_json, other) = (
        "the answer is no JSON (at line 1 column ",
        "the answer is JSON of another form than expected",
    );
    let misfit = |why: &str| format!("{other}{why} (at line 1 column ");
    use ErrorKind::{Invalid, Malformed};
    let wanted = [
        ("", Malformed, "the answer is empty".to_owned()),
        ("```json\n```", Malformed, "the answer is empty".to_owned()),
        ("Mallory, he said", Malformed, format!("{no_json}1)")),
        (&deep, Malformed, no_json.to_owned()),
        (
            r#"{"name": "Mallory", "age": "Mallory, expected Mallory"}"#,
            Invalid,
            misfit(": u8 was expected"),
        ),
        (
            r#"{"name": "Mallory"}"#,
            Invalid,
            misfit(": `age` is missing"),
        ),
        (
            r#"{"name": "x", "age": 1, "Mallory, expected Mallory": 1}"#,
            Invalid,
            misfit(""),
        ),
        (
            r#"{"name": "x", "age": 123456}"#,
            Invalid,
            misfit(": u8 was expected"),
        ),
    ];
    for (text, kind, why) in wanted {
        let error = Response::new("x", text).parse::<Person>().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().starts_with(&why), "{error}");
        assert!(
            !format!("{error} {error:?}").contains("Mallory"),
            "{error:?}"
        );
    }
    let error = Response::new("x", r#""Mallory""#).parse::<Colour>();
    let error = error.map(|Colour::Red| ()).unwrap_err();
    assert!(
        error.message().len() < 100 && !error.message().contains("Mallory"),
        "{error}"
    );

    let mut cut = Response::new("x", r#"{"name": "Mal"#);
    cut.finish_reason = FinishReason::Length;
    let error = cut.parse::<Person>().unwrap_err();
    let said = "it was cut at the token limit (max_tokens)";
    assert!(error.message().ends_with(said), "{error}");
}
