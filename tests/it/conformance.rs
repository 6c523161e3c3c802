//! The requests that clients send, checked against the schemas of the providers.
//!
//! `BATCHWRIGHT_OPENAPI=DIR` adds the published schemas, see `tests/data/openapi/README.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{Client, Context, Error, LlmClient, LlmConfig, Request, Secret};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A schema, and the field names that it allows in an object.
pub(crate) struct Schema {
    source: String,
    root: Value,
    validator: jsonschema::Validator,
}

impl Schema {
    fn load(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("{name}.json"));
        let root: Value = serde_json::from_str(&read(&path)).unwrap();
        Self {
            source: path.display().to_string(),
            validator: jsonschema::draft202012::new(&root).unwrap(),
            root,
        }
    }

    /// The schema in this repository, and the published one if it is available.
    pub(crate) fn all(name: &str) -> Vec<Self> {
        let published = std::env::var_os("BATCHWRIGHT_OPENAPI").map(PathBuf::from);
        let folders = std::iter::once(data("openapi")).chain(published);
        folders.map(|folder| Self::load(&folder, name)).collect()
    }

    pub(crate) fn faults(&self, body: &Value) -> Vec<String> {
        let faults = self.validator.iter_errors(body);
        faults
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect()
    }

    pub(crate) fn check(&self, body: &Value, what: &str) {
        let faults = self.faults(body);
        assert!(
            faults.is_empty(),
            "{what}, by {}: {faults:#?}\n{body:#}",
            self.source
        );
    }

    /// Published schemas rarely forbid unknown fields, so unknown names are searched separately.
    fn check_names(&self, body: &Value, what: &str) {
        let known = self.names();
        for name in body.as_object().unwrap().keys() {
            assert!(
                known.contains(name),
                "{what}: {} knows no `{name}`",
                self.source
            );
        }
    }

    fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.collect(&self.root, &mut names);
        names
    }

    fn collect(&self, schema: &Value, names: &mut BTreeSet<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            names.extend(properties.keys().cloned());
        }
        for branch in ["allOf", "anyOf", "oneOf"] {
            for inner in schema[branch].as_array().into_iter().flatten() {
                self.collect(inner, names);
            }
        }
        if let Some(target) = schema["$ref"].as_str() {
            let target = self.root.pointer(target.trim_start_matches('#'));
            self.collect(target.unwrap(), names);
        }
    }
}

/// Stores the received body and returns the given answer.
pub(crate) struct Recorder {
    sent: Mutex<Option<Value>>,
    reply: HttpReply,
}

impl Recorder {
    pub(crate) fn answering(reply: HttpReply) -> Arc<Self> {
        let sent = Mutex::default();
        Arc::new(Self { sent, reply })
    }

    fn silent() -> Arc<Self> {
        Self::answering(HttpReply {
            status: 200,
            headers: HttpHeaders::default(),
            body: Vec::new(),
        })
    }
}

impl Transport for Recorder {
    fn send(&self, request: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        *self.sent.lock() = Some(serde_json::from_slice(request.body.unwrap()).unwrap());
        Ok(self.reply.clone())
    }
}

pub(crate) fn client(provider: &str, transport: Arc<dyn Transport>) -> Result<Client, Error> {
    let config = LlmConfig::new(provider).model("model-x");
    let config = config.api_key(Secret::new("test-key-of-nobody-0123456789"));
    config.base_url("http://127.0.0.1:9").client_over(transport)
}

fn sent_by(provider: &str, call: impl FnOnce(&Client)) -> Value {
    let recorder = Recorder::silent();
    call(&client(provider, recorder.clone()).unwrap());
    recorder.sent.lock().take().expect("nothing was sent")
}

fn sent(provider: &str, request: &Request) -> Value {
    sent_by(provider, |client| {
        let _ = client.complete(request, &Context::new());
    })
}

fn sent_to_embed(provider: &str, requests: &[Request]) -> Value {
    let requests: Vec<&Request> = requests.iter().collect();
    sent_by(provider, |client| {
        let _ = client.embed(&requests, &Context::new());
    })
}

/// The requests of `requests.json`: every parameter, alone and in combination.
#[derive(Deserialize)]
struct Conformance {
    requests: Vec<(String, Value)>,
    vendors: Vec<Differences>,
}

/// How a vendor differs from the others.
#[derive(Deserialize)]
struct Differences {
    provider: String,
    schema: String,
    /// What not every vendor takes.
    requests: Vec<(String, Value)>,
    /// The fields that a vendor accepts in addition to its schema.
    added: Vec<String>,
    /// The fields of the schema that it rejects. Reasoning models of OpenAI reject `max_tokens`.
    refused: Vec<String>,
}

#[test]
fn requests_match_the_documentation_of_the_providers() {
    let file = read(&data("openapi/requests.json"));
    let known: Conformance = serde_json::from_str(&file).unwrap();
    for vendor in &known.vendors {
        let schemas = Schema::all(&vendor.schema);
        for (name, request) in known.requests.iter().chain(&vendor.requests) {
            let what = format!("{}, {name}", vendor.provider);
            let request: Request = serde_json::from_value(request.clone()).unwrap();
            let mut body = sent(&vendor.provider, &request);
            let fields = body.as_object_mut().unwrap();
            for refused in &vendor.refused {
                assert!(!fields.contains_key(refused), "{what}: sends {refused}");
            }
            fields.retain(|field, _| !vendor.added.contains(field));
            for schema in &schemas {
                schema.check(&body, &what);
                schema.check_names(&body, &what);
            }
        }
    }
}

const EMBEDDINGS: [(&str, &str); 2] = [
    ("openai", "openai/CreateEmbeddingRequest"),
    ("mistral", "mistral/EmbeddingRequest"),
];

#[test]
fn embedding_requests_match_the_documentation_of_the_providers() {
    let text = |i| Request::embedding(format!("Text {i}, „Größe“ 🌍 \u{0} \u{2028}"));
    let two = |set: &dyn Fn(Request) -> Request| vec![set(text(0)), set(text(1))];
    let shortened = |mut text: Request| {
        text.params.dimensions = Some(256);
        text
    };
    for (provider, schema) in EMBEDDINGS {
        let client = client(provider, Recorder::silent()).unwrap();
        let most = client.pack_limits().inputs;
        // Mistral does not support the field `user`.
        let (field, value) = match provider {
            "mistral" => ("output_dtype", "float"),
            _ => ("user", "u"),
        };
        for (name, requests) in [
            ("one", vec![text(0)]),
            ("a full call", (0..most.into()).map(text).collect()),
            ("dimensions", two(&shortened)),
            ("own model", two(&|text| text.with_model("model-y"))),
            (
                "encoding",
                two(&|text| text.with_extra("encoding_format", json!("float"))),
            ),
            (
                "overruled extra",
                two(&|text| text.with_extra("input", json!([[7]]))),
            ),
            ("further", two(&|text| text.with_extra(field, json!(value)))),
        ] {
            let what = format!("{provider}, {name}");
            let body = sent_to_embed(provider, &requests);
            assert_eq!(body["input"].as_array().unwrap().len(), requests.len());
            for schema in &Schema::all(schema) {
                schema.check(&body, &what);
                schema.check_names(&body, &what);
            }
        }
    }
}

const SCHEMAS: [&str; 10] = [
    "openai/CreateChatCompletionRequest",
    "openai/CreateChatCompletionResponse",
    "openai/CreateEmbeddingRequest",
    "openai/CreateEmbeddingResponse",
    "openai/ErrorResponse",
    "mistral/ChatCompletionRequest",
    "mistral/ChatCompletionResponse",
    "mistral/EmbeddingRequest",
    "mistral/EmbeddingResponse",
    "mistral/HTTPValidationError",
];

#[test]
fn our_schemas_have_only_fields_of_the_published_ones() {
    for name in SCHEMAS {
        let schemas = Schema::all(name);
        let own = schemas[0].names();
        assert!(!own.is_empty(), "{name} names nothing");
        for published in &schemas[1..] {
            let invented: Vec<_> = own.difference(&published.names()).cloned().collect();
            assert!(invented.is_empty(), "{name}: {invented:?}");
        }
    }
}
