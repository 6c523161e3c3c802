use super::*;
use crate::base::ErrorKind;
use crate::llm::providers::dialect::testing::{reply, vendor};

fn texts(n: usize) -> Vec<Request> {
    (0..n)
        .map(|i| Request::embedding(format!("text {i}")))
        .collect()
}

fn each(name: &str, n: usize, body: &str) -> Result<Vec<Result<Response, Error>>, Error> {
    let requests = texts(n);
    let requests: Vec<&Request> = requests.iter().collect();
    decode(
        vendor(name),
        &reply(200, &[("x-request-id", "r-1")], body),
        &requests,
    )
}

fn decoded(name: &str, n: usize, body: &str) -> Result<Vec<Response>, Error> {
    each(name, n, body)?.into_iter().collect()
}

#[test]
fn a_request_with_more_than_one_text_is_rejected() {
    let plain = || Request::embedding("t");
    let mut two = plain();
    two.messages.extend(Request::new("u").messages);
    let none = ["groq", "xai", "anthropic", "deepseek", "cerebras"];
    let none = none.map(|name| (name, plain(), "makes no embeddings; these do: openai"));
    let cases = [
        ("openai", plain().with_system("s"), "not a system text"),
        ("openai", two, "not a conversation"),
        (
            "openai",
            plain().with_max_tokens(1),
            "not sampling parameters",
        ),
    ];
    for (name, request, why) in cases.into_iter().chain(none) {
        let error = encode(vendor(name), &[&request], Some("m")).map(drop);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(why), "{name}: {error}");
    }
    let unnamed = encode(vendor("openai"), &[&plain()], None).map(drop);
    assert!(unnamed.unwrap_err().message().contains("no model named"));
}

/// The cases of `embed_cases.json`: a vendor, the number of texts, and the reply. Of vectors of two lengths none is the
/// right one; and if most are missing, smaller calls may get them.
#[test]
fn an_ambiguous_assignment_is_not_an_answer() {
    let cases = include_str!("embed_cases.json");
    let cases: Vec<(String, usize, String)> = serde_json::from_str(cases).unwrap();
    for (vendor, n, body) in cases {
        let error = decoded(&vendor, n, &body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{body}");
        assert_eq!(error.raw(), Some(&*body));
        // What was cut off may come whole.
        assert_eq!(error.is_unusable_reply(), n == 1 && body != "[", "{body}");
    }
}

#[test]
fn an_unusable_vector_fails_only_its_text() {
    let cases = include_str!("embed_bad_cases.json");
    let cases: Vec<[String; 2]> = serde_json::from_str(cases).unwrap();
    let bad = ["null", "[]", "[1]", "[1,2,3]", "[1,null]", "[1e99,1]", "{}"];
    for ([name, body], bad) in cases.iter().flat_map(|case| bad.map(|bad| (case, bad))) {
        let body = body.replace("BAD", bad);
        let mut answers = each(name, 4, &body).unwrap_or_else(|e| panic!("{e}: {body}"));
        let error = answers.remove(1).unwrap_err();
        assert!(error.is_unusable_reply(), "{body}");
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.request_id(), Some("r-1"));
        assert!(error.raw().unwrap().len() < 16, "{:?}", error.raw());
        let tokens = error.usage().map(|usage| usage.input_tokens);
        assert_eq!(tokens, (name != "local").then_some(2), "{body}");
        for (answer, at) in answers.into_iter().zip([0.0, 2.0, 3.0]) {
            assert_eq!(answer.unwrap().embedding.unwrap(), [at, 1.0], "{body}");
        }
    }
}

/// Not even the place of a number that is none is lost.
#[test]
fn a_vector_with_nan_is_kept_as_it_came_and_the_others_are_answers() {
    let body = r#"{"data":[{"embedding":[1,NaN]},{"embedding":[1,2]},{"embedding":[3,4]}]}"#;
    let answers = each("openai", 3, body).unwrap();
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!((error.raw(), error.is_unusable_reply()), (Some(body), true));
    let second = answers[1].as_ref().unwrap();
    assert_eq!(second.embedding.as_deref(), Some(&[1.0, 2.0][..]));
    assert!(second.warning.as_deref().unwrap().contains("NaN"));
    let error = decoded("openai", 1, r#"{"data":[{"embedding":[NaN]}]}"#).unwrap_err();
    assert!(error.raw().unwrap().contains("NaN"), "{error}");
}

#[test]
fn shares_add_up_to_the_total() {
    for (whole, tokens) in [
        (100, vec![1, 1, 1]),
        (0, vec![5, 6]),
        (7, vec![1000, 1]),
        (u64::MAX, vec![3, 3, 1]),
        (1, vec![4; 50]),
        (12_345, (1..200).collect()),
    ] {
        let texts = tokens.iter().map(|tokens| "word".repeat(*tokens));
        let requests: Vec<Request> = texts.map(Request::embedding).collect();
        let usage = Usage {
            input_tokens: whole,
            cached_input_tokens: whole / 2,
            ..Usage::default()
        };
        let requests: Vec<&Request> = requests.iter().collect();
        let parts = shares(usage, &requests);
        let weight = |request: &&Request| u128::from(request.estimated_tokens());
        let sum: u128 = requests.iter().map(weight).sum();
        for (whole, of) in [
            (whole, (|part| part.input_tokens) as fn(&Usage) -> u64),
            (whole / 2, |part| part.cached_input_tokens),
        ] {
            let parts: Vec<u128> = parts.iter().map(|part| of(part).into()).collect();
            assert_eq!(parts.iter().sum::<u128>(), whole.into());
            for (part, request) in parts.iter().zip(&requests) {
                let exact = u128::from(whole) * weight(request) / sum;
                assert!((exact..=exact + 1).contains(part));
            }
        }
    }
}
