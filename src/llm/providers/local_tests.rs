//! The servers by what they answer, as recorded or documented.

use super::*;

fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Result<HttpReply, Error> {
    Ok(HttpReply {
        status,
        headers: headers.iter().copied().collect(),
        body: body.as_bytes().to_vec(),
    })
}

fn json(body: &str) -> Result<HttpReply, Error> {
    reply(200, &[], body)
}

fn found(replies: Vec<(Probe, Result<HttpReply, Error>)>) -> Result<LocalServer, Error> {
    server("http://me:pw@127.0.0.1:8080/v1", &Replies(replies))
}

fn list(owner: &str) -> Result<HttpReply, Error> {
    json(&format!(
        r#"{{"object":"list","data":[{{"id":"a","owned_by":"{owner}"}},{{"id":"b"}},{{"no":"id"}}]}}"#
    ))
}

#[test]
fn each_server_is_identified_by_its_own_endpoint() {
    use Probe::*;
    let unknown = || json(r#"{"error":"Unexpected endpoint or method."}"#);
    let props = r#"{"total_slots":4,"model_path":"m.gguf"}"#;
    for (name, replies) in [
        ("llama.cpp", vec![(Models, list("llamacpp"))]),
        ("llama.cpp", vec![(Models, list("x")), (Props, json(props))]),
        (
            "llama.cpp",
            vec![(
                Models,
                reply(200, &[("server", "llama.cpp")], r#"{"data":[]}"#),
            )],
        ),
        (
            "Ollama",
            vec![
                (Models, list("library")),
                (Props, reply(404, &[], "404 page not found")),
            ],
        ),
        (
            "Ollama",
            vec![
                (Models, list("me")),
                (ApiVersion, json(r#"{"version":"0.12.0"}"#)),
            ],
        ),
        (
            "LM Studio",
            vec![
                (Models, list("organization_owner")),
                (ApiVersion, unknown()),
            ],
        ),
        (
            "LM Studio",
            vec![(Models, list("x")), (ApiV1Models, json(r#"{"models":[]}"#))],
        ),
        (
            "LM Studio",
            vec![(Models, list("x")), (ApiV0Models, json(r#"{"data":[]}"#))],
        ),
        ("vLLM", vec![(Models, list("vllm"))]),
        (
            "vLLM",
            vec![
                (Models, list("me")),
                (Version, json(r#"{"version":"0.11"}"#)),
            ],
        ),
        (
            "OpenAI-compatible",
            vec![
                (Models, list("me")),
                (Props, unknown()),
                (ApiVersion, unknown()),
                (ApiV1Models, unknown()),
                (ApiV0Models, unknown()),
                (Version, unknown()),
            ],
        ),
        (
            "OpenAI-compatible",
            vec![
                (Models, list("me")),
                (Version, reply(404, &[], r#"{"version":"1"}"#)),
            ],
        ),
    ] {
        let asked: Vec<Probe> = replies.iter().map(|(probe, _)| *probe).collect();
        let server = found(replies).unwrap();
        assert_eq!(server.server, name, "{asked:?}");
        assert_eq!(server.state, ServerState::Ready);
        assert_eq!(server.base_url, "http://***@127.0.0.1:8080/v1");
    }
}

#[test]
fn only_plausible_numbers_of_slots_are_used() {
    for (props, slots) in [
        (r#"{"total_slots":4}"#, Some(4)),
        (r#"{"total_slots":0}"#, None),
        (r#"{"total_slots":100000}"#, None),
        (r#"{"total_slots":"4"}"#, None),
        ("[]", None),
    ] {
        let replies = vec![(Probe::Models, list("x")), (Probe::Props, json(props))];
        assert_eq!(found(replies).unwrap().slots, slots, "{props}");
    }
}

#[test]
fn a_loading_server_is_found_as_loading() {
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    let refused = || reply(503, &[("server", "llama.cpp")], loading);
    let server = found(vec![(Probe::Models, refused()), (Probe::Props, refused())]).unwrap();
    assert_eq!(
        (server.server, server.state),
        ("llama.cpp", ServerState::Loading)
    );
    assert_eq!((server.models.len(), server.slots), (0, None));
    assert_eq!(server.description(), "llama.cpp is loading its model");
    // Another 503 is no reason to wait.
    assert!(found(vec![(Probe::Models, reply(503, &[], "out of order"))]).is_err());
}

#[test]
fn a_reply_without_a_list_of_models_is_not_a_server() {
    let models_of = |reply| found(vec![(Probe::Models, reply)]);
    assert_eq!(models_of(list("x")).unwrap().models, ["a", "b"]);
    for body in ["<html>", "{}", r#"{"data":3}"#] {
        assert!(models_of(json(body)).is_err(), "{body}");
    }
    let refused = models_of(reply(401, &[], "{}")).unwrap_err();
    assert!(refused.message().contains("LOCAL_LLM_API_KEY"), "{refused}");
    assert!(found(Vec::new()).is_err(), "it has not answered");
}

#[test]
fn a_description_names_the_first_models() {
    let mut server = found(vec![(Probe::Models, list("vllm"))]).unwrap();
    assert_eq!(server.description(), "vLLM serves a, b");
    server.models = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
    server.slots = Some(1);
    assert_eq!(
        server.description(),
        "vLLM serves a, b, c and 2 more, 1 slot"
    );
    server.models.clear();
    server.server = UNKNOWN;
    let text = server.description();
    assert!(
        text.starts_with("an OpenAI-compatible server answers"),
        "{text}"
    );
}

#[test]
fn probes_go_next_to_the_base_url_not_below_it() {
    assert_eq!(Probe::Models.url("http://h:1/v1"), "http://h:1/v1/models");
    assert_eq!(Probe::Props.url("http://h:1/v1"), "http://h:1/props");
    assert_eq!(
        Probe::Version.url("http://h/gate/v1"),
        "http://h/gate/version"
    );
    assert_eq!(
        Probe::ApiVersion.url("http://h/gate"),
        "http://h/gate/api/version"
    );
}

#[test]
fn a_run_takes_the_first_server_that_is_ready_and_serves_the_model() {
    let named = |url: &str, model: &str, state| LocalServer {
        base_url: url.to_owned(),
        server: UNKNOWN,
        models: vec![model.to_owned()],
        slots: None,
        state,
        address: Address(url.to_owned()),
    };
    let (ready, loading) = (ServerState::Ready, ServerState::Loading);
    let taken = |model| {
        let mut servers = [
            named("first", "x", loading),
            named("second", "a", ready),
            named("third", "b", ready),
        ];
        best_first(&mut servers, model);
        servers[0].base_url.clone()
    };
    assert_eq!(taken(None), "second");
    assert_eq!(taken(Some("b")), "third");
    assert_eq!(taken(Some("unknown")), "second");
}

#[test]
fn all_servers_are_found_at_once() {
    let listen = |models: &'static str, props: &'static str| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        thread::spawn(move || {
            use std::io::{BufRead, BufReader, Write};
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                let body = match first.split(' ').nth(1).unwrap() {
                    "/v1/models" => models,
                    "/props" => props,
                    _ => "{}",
                };
                while lines
                    .next()
                    .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
                {}
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all((head + body).as_bytes());
            }
        });
        url
    };
    // Nobody answers at the second; the third takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [
        listen(r#"{"data":[{"id":"a"}]}"#, r#"{"total_slots":2}"#),
        "http://127.0.0.1:9/v1".to_owned(),
        format!("http://{}/v1", silent.local_addr().unwrap()),
        listen(r#"{"data":[{"id":"b","owned_by":"vllm"}]}"#, "{}"),
    ];
    let found = find(&addresses, &Vec::new(), PATIENT, true);
    assert_eq!(found.len(), 4);
    let first = found[0].as_ref().unwrap();
    assert_eq!((first.server, first.slots), ("llama.cpp", Some(2)));
    assert!(found[1].is_err() && found[2].is_err());
    let last = found[3].as_ref().unwrap();
    assert_eq!(
        (last.server, &last.models[..]),
        ("vLLM", &["b".to_owned()][..])
    );
    assert_eq!(last.base_url, addresses[3]);
    assert_eq!(slots(&addresses[0], &Vec::new()).unwrap().slots, Some(2));
    assert!(slots(&addresses[2], &Vec::new()).is_none());
    assert!(slots(&addresses[3], &Vec::new()).is_none());
}
