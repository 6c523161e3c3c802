//! The fingerprint of a request: what makes two prompts the same.
//!
//! SHA-256 over canonical JSON (RFC 8785) of the rendered request, without provider, key, URL,
//! timeouts and retries. One difference from the RFC: integers beyond 2^53 keep their digits
//! instead of being rounded to a double, so that two seeds never look alike.
//!
//! Canonical JSON sorts the fields of an object. In a schema, a tool or another value that a request takes along, the
//! order of the fields is sent to the model and changes its answers. So the first 8 bytes of the fingerprint are also
//! changed by a hash of that order.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::base::json_text::{hex, set, write_string};

use super::attachment;
use super::native::Native;
use super::params::{RequestTask, ResponseFormat};
use super::request::{Request, Text};

/// The fingerprint as 64 hexadecimal digits.
///
/// ```
/// use batchwright::Request;
/// use batchwright::client::request_hash;
/// let a = Request::new("hello").with_id("a");
/// let b = Request::new("hello").with_id("b");
/// assert_eq!(request_hash(&a), request_hash(&b));
/// assert_ne!(request_hash(&a), request_hash(&a.clone().with_model("m")));
/// ```
pub fn request_hash(request: &Request) -> String {
    hex(&digest(request))
}

pub(crate) fn digest(request: &Request) -> [u8; 32] {
    let mut text = Vec::with_capacity(256 + request.text_bytes());
    write_request(request, &mut text);
    let mut digest: [u8; 32] = Sha256::digest(&text).into();
    let mask = order_mask(request).to_be_bytes();
    digest
        .iter_mut()
        .zip(mask)
        .for_each(|(byte, mask)| *byte ^= mask);
    digest
}

/// A hash of the order of fields, by which the first 8 bytes of a fingerprint are changed. 0 if no value of the request has two fields. The order of the request's own fields,
/// and of those of its messages, does not count: no model sees it.
fn order_mask(request: &Request) -> u64 {
    const MESSAGES: [&str; 4] = ["contents", "input", "messages", "system"];
    let (mut names, mut is_ordered) = (Vec::new(), false);
    let mut add = |fields: &Map<String, Value>| {
        let seen = fields.iter();
        let seen = seen.filter(|(name, _)| !MESSAGES.contains(&name.as_str()));
        let mut seen: Vec<_> = seen.collect();
        seen.sort_unstable_by_key(|(name, _)| *name);
        for (_, value) in seen {
            is_ordered |= write_order(value, &mut names);
        }
    };
    if let Some(native) = &request.native {
        add(native.body());
    }
    add(&request.extra);
    if let Some(schema) = request.schema() {
        is_ordered |= write_order(schema, &mut names);
    }
    if !is_ordered {
        return 0;
    }
    let digest = Sha256::digest(&names);
    let first = digest.first_chunk().copied().unwrap_or_default();
    // 0 stands for no order.
    u64::from_be_bytes(first).max(1)
}

/// Appends the order of the fields in all objects. Returns whether an object has two fields.
fn write_order(value: &Value, names: &mut Vec<u8>) -> bool {
    let mut is_ordered = false;
    match value {
        Value::Object(fields) => {
            is_ordered = fields.len() > 1;
            names.push(b'{');
            for (name, value) in fields {
                write_string(name, names);
                is_ordered |= write_order(value, names);
            }
            names.push(b'}');
        }
        Value::Array(items) => {
            for item in items {
                is_ordered |= write_order(item, names);
            }
        }
        _ => {}
    }
    is_ordered
}

/// The canonical form. Its keys are written in sorted order by hand, so that the common request
/// needs no intermediate tree.
fn write_request(request: &Request, out: &mut Vec<u8>) {
    match &request.native {
        Some(native) => write_native(native, request, out),
        None => write_neutral(request, out),
    }
    // Completions came first; without the field their fingerprints stay what they were.
    match request.task {
        RequestTask::Complete => {}
        RequestTask::Embed => out.extend_from_slice(b",\"task\":\"embed\""),
        RequestTask::Speech => out.extend_from_slice(b",\"task\":\"speech\""),
    }
    if request.unchecked {
        out.extend_from_slice(b",\"unchecked\":true");
    }
    out.push(b'}');
}

fn write_neutral(request: &Request, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"extra\":");
    write_map(&request.extra, out);
    out.extend_from_slice(b",\"messages\":[");
    each(request.rendered(), out, |(role, content, extra), out| {
        out.extend_from_slice(b"{\"content\":");
        match content {
            Text::Plain(text) => write_string(text, out),
            Text::Parts(parts) => write_parts(parts, out),
            Text::Other(value) => write_value(value, out),
        }
        if let Some(extra) = extra.filter(|extra| !extra.is_empty()) {
            out.extend_from_slice(b",\"extra\":");
            write_map(extra, out);
        }
        out.extend_from_slice(b",\"role\":");
        write_string(role, out);
        out.push(b'}');
    });
    out.push(b']');
    write_model(request, out);
    out.extend_from_slice(b",\"params\":");
    write_map(&params(request), out);
    out.extend_from_slice(b",\"schema\":");
    match &request.params.response_format {
        None => out.extend_from_slice(b"null"),
        Some(ResponseFormat::JsonObject) => write_string("json_object", out),
        Some(ResponseFormat::JsonSchema {
            name,
            schema,
            strict,
        }) => write_value(
            &json!({"name": name, "schema": schema, "strict": strict}),
            out,
        ),
    }
}

/// What was written in a provider's own words, whatever it comes to in others.
fn write_native(native: &Native, request: &Request, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"body\":");
    write_map(native.body(), out);
    out.extend_from_slice(b",\"format\":");
    write_string(native.format().into(), out);
    write_model(request, out);
}

fn write_model(request: &Request, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"model\":");
    match &request.model {
        Some(model) => write_string(model, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Writes all of these with commas between them.
fn each<T>(all: impl IntoIterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    for (i, one) in all.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(one, out);
    }
}

/// Local files count for what they hold.
fn write_parts(parts: &[Value], out: &mut Vec<u8>) {
    out.push(b'[');
    each(parts, out, |part, out| {
        if attachment::is_local(part) {
            write_value(&attachment::fingerprint(part), out);
        } else {
            write_value(part, out);
        }
    });
    out.push(b']');
}

fn params(request: &Request) -> Map<String, Value> {
    let params = &request.params;
    let mut map = Map::new();
    set(&mut map, "temperature", params.temperature);
    set(&mut map, "max_tokens", params.max_tokens);
    set(&mut map, "top_p", params.top_p);
    set(&mut map, "seed", params.seed);
    let stop = (!params.stop.is_empty()).then(|| params.stop.clone());
    set(&mut map, "stop", stop);
    set(&mut map, "dimensions", params.dimensions);
    map
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            out.extend_from_slice(ryu_js::Buffer::new().format(number).as_bytes());
        }
        // Whole numbers are written with all their digits.
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            out.extend_from_slice(value.to_string().as_bytes());
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            each(items, out, write_value);
            out.push(b']');
        }
        Value::Object(map) => write_map(map, out),
    }
}

fn write_map(map: &Map<String, Value>, out: &mut Vec<u8>) {
    if map.is_empty() {
        return out.extend_from_slice(b"{}");
    }
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    // RFC 8785 sorts by UTF-16 code units, which differs from UTF-8 beyond the basic plane.
    entries.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
    out.push(b'{');
    each(entries, out, |(key, value), out| {
        write_string(key, out);
        out.push(b':');
        write_value(value, out);
    });
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::request::{Message, Role};

    #[test]
    fn json_is_written_as_rfc_8785_says_and_large_integers_keep_their_digits() {
        for (json, expected) in [
            (
                r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
                r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#,
            ),
            // Keys are sorted by UTF-16.
            (
                r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#,
                "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}",
            ),
            (
                "[9007199254740993, -9007199254740993, 18446744073709551615]",
                "[9007199254740993,-9007199254740993,18446744073709551615]",
            ),
        ] {
            let mut out = Vec::new();
            write_value(&serde_json::from_str(json).unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn the_hash_ignores_the_id_and_where_the_system_text_stands() {
        let by_field = Request::new("q").with_system("be brief").with_id("1");
        let by_message = Request::chat(vec![
            Message::new(Role::System, "be brief"),
            Message::new(Role::User, "q"),
        ]);
        assert_eq!(request_hash(&by_field), request_hash(&by_message));
    }

    fn read(json: &str) -> Request {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_part_of_a_request_changes_the_hash() {
        let mut embedded = Request::embedding("q");
        let mut all = vec![embedded.clone()];
        embedded.params.dimensions = Some(8);
        all.push(embedded);
        all.extend(
            [
                r#"{"prompt": "q"}"#,
                r#"{"prompt": "r"}"#,
                r#"{"prompt": "q", "model": "m"}"#,
                r#"{"prompt": "q", "system": "s"}"#,
                r#"{"prompt": "q", "temperature": 0.5}"#,
                r#"{"prompt": "q", "max_tokens": 1}"#,
                r#"{"prompt": "q", "top_p": 0.5}"#,
                r#"{"prompt": "q", "stop": ["x"]}"#,
                r#"{"prompt": "q", "seed": 1}"#,
                r#"{"prompt": "q", "extra": {"top_k": 5}}"#,
                r#"{"prompt": "q", "unchecked": true}"#,
                r#"{"prompt": "q", "response_format": {"type": "json_object"}}"#,
            ]
            .map(read),
        );
        let mut hashes: Vec<String> = all.iter().map(request_hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn the_order_of_fields_that_a_model_sees_changes_the_hash() {
        for request in [
            r#"{"prompt": "q", "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}"#,
            r#"{"prompt": "q", "extra": {"tools": [{"type": "function", "function": {"parameters": SCHEMA}}]}}"#,
        ] {
            let [ab, ba] = [r#"{"a": {}, "b": {}}"#, r#"{"b": {}, "a": {}}"#].map(|properties| {
                let schema = format!(r#"{{"properties": {properties}}}"#);
                digest(&read(&request.replace("SCHEMA", &schema)))
            });
            assert_ne!(ab, ba);
        }
        // Fields of the request itself are names of parameters.
        let extra = |names: [&str; 2]| {
            let value = || json!({"x": 1, "y": 2});
            let request = Request::new("q").with_extra(names[0], value());
            request_hash(&request.with_extra(names[1], value()))
        };
        assert_eq!(extra(["a", "b"]), extra(["b", "a"]));
    }

    #[test]
    fn the_hash_is_stable_across_releases() {
        // Changing this value reruns everybody's finished work.
        let request = Request::new("hello").with_model("m").with_temperature(0.5);
        assert_eq!(
            request_hash(&request),
            "dd2a373b53857bb9aba822ba90884ca7e83a4a59232db484a5fc312749692a47"
        );
    }
}
