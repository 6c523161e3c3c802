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

fn vectors(name: &str, n: usize, body: &str) -> Vec<Vec<f32>> {
    let answers = decoded(name, n, body).unwrap_or_else(|e| panic!("{e}: {body}"));
    answers.into_iter().map(|a| a.embedding.unwrap()).collect()
}

#[test]
fn a_request_with_more_than_one_text_is_rejected() {
    let refused = |name: &str, request: Request, model| {
        let error = encode(vendor(name), &[&request], model).map(drop);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().to_owned()
    };
    let error_body = refused(
        "openai",
        Request::embedding("t").with_system("s"),
        Some("m"),
    );
    assert!(error_body.ends_with("not a system text"), "{error_body}");
    let mut two = Request::embedding("t");
    two.messages.extend(Request::new("u").messages);
    let error_body = refused("openai", two, Some("m"));
    assert!(error_body.ends_with("not a conversation"), "{error_body}");
    let error_body = refused(
        "openai",
        Request::embedding("t").with_max_tokens(1),
        Some("m"),
    );
    assert!(
        error_body.ends_with("not sampling parameters"),
        "{error_body}"
    );
    assert!(refused("openai", Request::embedding("t"), None).contains("no model named"));
    for none in ["groq", "xai", "anthropic", "deepseek", "cerebras"] {
        let error_body = refused(none, Request::embedding("t"), Some("m"));
        assert!(
            error_body.contains("makes no embeddings; these do: openai"),
            "{error_body}"
        );
    }
}

#[test]
fn the_index_assigns_a_vector_to_its_text() {
    let body = r#"{"object":"list","model":"m-1","data":[
        {"object":"embedding","index":2,"embedding":[2.5,-0.1]},
        {"object":"embedding","index":0,"embedding":[0.0,1]},
        {"object":"embedding","index":1,"embedding":[1e-7,-3]}],
        "usage":{"prompt_tokens":9,"total_tokens":9}}"#;
    let all = vec![vec![0.0, 1.0], vec![1e-7, -3.0], vec![2.5, -0.1]];
    assert_eq!(vectors("openai", 3, body), all);
    let answers = decoded("openai", 3, body).unwrap();
    assert_eq!(answers[0].model.as_deref(), Some("m-1"));
    let used: Vec<_> = answers
        .iter()
        .map(|a| a.usage.unwrap().input_tokens)
        .collect();
    assert_eq!(used, [3, 3, 3]);

    let unnamed = r#"{"data":[{"embedding":[1]},{"embedding":[2]}]}"#;
    assert_eq!(vectors("local", 2, unnamed), [[1.0], [2.0]]);
    assert_eq!(decoded("local", 2, unnamed).unwrap()[0].usage, None);
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
    let openai = |embedding: &str| {
        format!(
            r#"{{"data":[{{"index":3,"embedding":[3,1]}},{{"index":1,"embedding":{embedding}}},
            {{"index":0,"embedding":[0,1]}},{{"index":2,"embedding":[2,1]}}],"usage":{{"prompt_tokens":8}}}}"#
        )
    };
    let gemini = |values: &str| {
        format!(
            r#"{{"embeddings":[{{"values":[0,1]}},{{"values":{values}}},{{"values":[2,1]}},
            {{"values":[3,1]}}],"usageMetadata":{{"promptTokenCount":8}}}}"#
        )
    };
    let bad = ["null", "[]", "[1]", "[1,2,3]", "[1,null]", "[1e99,1]", "{}"];
    let bodies = bad.map(|bad| [("openai", openai(bad)), ("gemini", gemini(bad))]);
    let in_place = r#"{"data":[{"embedding":[0,1]},null,{"embedding":[2,1]},{"embedding":[3,1]}]}"#;
    let missing = r#"{"data":[{"index":0,"embedding":[0,1]},null,{"index":2,"embedding":[2,1]},
        {"index":3,"embedding":[3,1]}]}"#;
    let bodies = bodies.into_iter().flatten().chain([
        ("local", in_place.to_owned()),
        ("local", missing.to_owned()),
    ]);
    for (name, body) in bodies {
        let answers = each(name, 4, &body).unwrap_or_else(|e| panic!("{e}: {body}"));
        for (at, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(answer) => {
                    assert_ne!(at, 1, "{body}");
                    assert_eq!(answer.embedding.unwrap(), [at as f32, 1.0], "{body}");
                }
                Err(error) => {
                    assert_eq!(at, 1, "{body}");
                    assert!(error.is_unusable_reply(), "{body}");
                    assert_eq!(error.kind(), ErrorKind::Malformed);
                    assert_eq!(error.request_id(), Some("r-1"));
                    assert!(error.raw().unwrap().len() < 16, "{:?}", error.raw());
                    let tokens = error.usage().map(|usage| usage.input_tokens);
                    assert_eq!(tokens, (name != "local").then_some(2), "{body}");
                }
            }
        }
    }
}

#[test]
fn shares_add_up_to_the_total() {
    for (whole, weights) in [
        (100, vec![1, 1, 1]),
        (0, vec![5, 6]),
        (7, vec![1000, 1]),
        (u64::MAX, vec![3, 3, 1]),
        (1, vec![4; 50]),
        (12_345, (1..200).collect()),
    ] {
        let parts = share(whole, &weights);
        assert_eq!(
            parts.iter().map(|p| u128::from(*p)).sum::<u128>(),
            whole.into()
        );
        let sum: u64 = weights.iter().sum();
        for (part, weight) in parts.iter().zip(&weights) {
            let exact = u128::from(whole) * u128::from(*weight) / u128::from(sum);
            assert!((exact..=exact + 1).contains(&u128::from(*part)));
        }
    }
}
