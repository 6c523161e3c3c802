//! Error bodies and their statuses, vendor by vendor.

use serde_json::{Value, json};

use crate::Vendor;
use crate::prompt::{Fault, Problem};
use crate::reply::quote;

/// OpenAI's terms for an error, from which the others are made.
struct Terms<'a> {
    status: u16,
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
    message: &'a str,
}

/// Writes an error body and returns its status.
pub(crate) fn write(out: &mut Vec<u8>, problem: &Problem<'_>, vendor: Option<Vendor>) -> u16 {
    if let Problem::Loading = problem {
        let body =
            br#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
        out.extend_from_slice(body);
        return 503;
    }
    let message = match problem {
        Problem::Fault(fault) => describe(fault),
        Problem::NoModel(model) if vendor == Some(Vendor::Mistral) => {
            format!("Invalid model: {model}")
        }
        Problem::NoModel(model) if vendor == Some(Vendor::Xai) => {
            format!("The model {model} does not exist or your team has no access to it.")
        }
        Problem::NoModel(_) if vendor == Some(Vendor::DeepSeek) => "Model Not Exist".to_owned(),
        Problem::NoModel(model) if vendor == Some(Vendor::OpenRouter) => {
            format!("{model} is not a valid model ID")
        }
        Problem::NoModel(_) if vendor == Some(Vendor::Fireworks) => {
            "Model not found, inaccessible, and/or not deployed".to_owned()
        }
        Problem::NoModel(model) if vendor == Some(Vendor::Nvidia) => {
            format!("Function '{model}': Not found for account 'sim'")
        }
        Problem::NoCredit if vendor == Some(Vendor::Xai) => "Your team has used all available \
            credits or reached its monthly spending limit."
            .to_owned(),
        problem => problem.message().into_owned(),
    };
    let mut terms = terms(problem, &message);
    match vendor {
        Some(Vendor::Xai) => xai(out, problem, &mut terms),
        Some(Vendor::Mistral) => mistral(out, problem, &mut terms),
        Some(Vendor::Groq) => groq(out, problem, &mut terms),
        Some(Vendor::OpenRouter) => openrouter(out, problem, &mut terms),
        Some(Vendor::DeepSeek) => {
            terms.status = match problem {
                Problem::NoModel(_) => 400,
                Problem::NoCredit => 402,
                Problem::Fault(fault) if !matches!(fault, Fault::NotJson) => 422,
                _ => terms.status,
            };
            terms.code = Some("invalid_request_error");
            plain(out, &terms);
        }
        Some(Vendor::Together) => {
            match problem {
                Problem::NoModel(_) => terms.code = Some("model_not_available"),
                Problem::NoCredit => terms.status = 402,
                _ => {}
            }
            plain(out, &terms);
        }
        Some(Vendor::Fireworks) => {
            if let Problem::NoCredit = problem {
                terms.status = 412;
            }
            put(
                out,
                &json!({"error": {"object": "error", "type": terms.kind, "code": terms.code,
                    "message": terms.message}}),
            );
        }
        Some(Vendor::DeepInfra) => deepinfra(out, problem, &mut terms),
        Some(Vendor::Cerebras) => {
            match problem {
                Problem::NoCredit => terms.status = 402,
                Problem::Limited { .. } | Problem::RateLimit { .. } => {
                    terms.kind = "too_many_requests_error";
                    terms.code = Some("request_quota_exceeded");
                }
                _ => {}
            }
            put(
                out,
                &json!({"message": terms.message, "type": terms.kind, "param": terms.param,
                    "code": terms.code}),
            );
        }
        Some(Vendor::Azure) => azure(out, problem, &mut terms),
        Some(Vendor::Nvidia) => nvidia(out, problem, &mut terms),
        Some(Vendor::Local) => {
            let error = json!({"error": {"code": terms.status, "message": terms.message,
                "type": terms.kind}});
            put(out, &error);
        }
        None | Some(Vendor::OpenAi) => plain(out, &terms),
    }
    terms.status
}

fn describe(fault: &Fault) -> String {
    match fault {
        Fault::NotJson => "We could not parse the JSON body of your request.".to_owned(),
        Fault::Unknown(at) => format!("Unknown parameter: '{at}'."),
        Fault::Missing(at) if at == "model" => "you must provide a model parameter".to_owned(),
        Fault::Missing(at) => format!("Missing required parameter: '{at}'."),
        Fault::Invalid { message, .. } => message.clone(),
    }
}

fn terms<'a>(problem: &'a Problem<'_>, message: &'a str) -> Terms<'a> {
    let bad = "invalid_request_error";
    let (status, kind, code) = match problem {
        Problem::NoKey | Problem::WrongKey => (401, bad, Some("invalid_api_key")),
        Problem::Fault(fault) => {
            let code = match fault {
                Fault::NotJson => None,
                Fault::Unknown(_) => Some("unknown_parameter"),
                Fault::Missing(_) => Some("missing_required_parameter"),
                Fault::Invalid { code, .. } => Some(*code),
            };
            (400, bad, code)
        }
        Problem::NoModel(_) => (404, bad, Some("model_not_found")),
        Problem::Limited { denial, .. } => (429, denial.bucket, Some("rate_limit_exceeded")),
        Problem::RateLimit { .. } => (429, "requests", Some("rate_limit_exceeded")),
        Problem::NoCredit => (429, "insufficient_quota", Some("insufficient_quota")),
        Problem::BadPrompt { .. } => (400, bad, None),
        Problem::ServerError => (500, "server_error", None),
        Problem::Loading | Problem::Unavailable { .. } | Problem::Overloaded => {
            let overloaded = Some("server_is_overloaded");
            (503, "service_unavailable_error", overloaded)
        }
    };
    let param = match problem {
        Problem::Fault(fault) => Some(fault.at()).filter(|at| !at.is_empty()),
        Problem::BadPrompt { at } => Some(*at),
        _ => None,
    };
    Terms {
        status,
        kind,
        param,
        code,
        message,
    }
}

fn plain(out: &mut Vec<u8>, terms: &Terms<'_>) {
    out.extend_from_slice(br#"{"error":{"message":"#);
    quote(out, terms.message);
    out.extend_from_slice(br#","type":"#);
    quote(out, terms.kind);
    for (name, value) in [(",\"param\":", terms.param), (",\"code\":", terms.code)] {
        out.extend_from_slice(name.as_bytes());
        match value {
            Some(value) => quote(out, value),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b"}}");
}

fn groq(out: &mut Vec<u8>, problem: &Problem<'_>, terms: &mut Terms<'_>) {
    match problem {
        Problem::Overloaded => {
            terms.status = 498;
            terms.kind = "capacity_exceeded";
            terms.code = Some("capacity_exceeded");
        }
        Problem::NoCredit => {
            terms.status = 403;
            terms.kind = "permissions_error";
            terms.code = Some("spend_limit_reached");
        }
        _ => {}
    }
    let mut error = json!({"message": terms.message, "type": terms.kind});
    if let Some(code) = terms.code {
        error["code"] = code.into();
    }
    put(out, &json!({"error": error}));
}

/// Both fields are strings.
fn xai(out: &mut Vec<u8>, problem: &Problem<'_>, terms: &mut Terms<'_>) {
    let code = match problem {
        Problem::WrongKey => {
            terms.status = 400;
            terms.message = "Incorrect API key provided.";
            "Client specified an invalid argument"
        }
        Problem::NoKey => "The request does not have valid authentication credentials",
        Problem::NoCredit => {
            terms.status = 403;
            "The caller does not have permission to execute the specified operation"
        }
        Problem::NoModel(_) => "Some requested entity was not found",
        Problem::Fault(_) | Problem::BadPrompt { .. } => "Client specified an invalid argument",
        Problem::Limited { .. } | Problem::RateLimit { .. } => "Some resource has been exhausted",
        Problem::ServerError => "Internal error",
        Problem::Loading | Problem::Unavailable { .. } | Problem::Overloaded => {
            "The service is currently unavailable"
        }
    };
    put(out, &json!({"code": code, "error": terms.message}));
}

fn mistral(out: &mut Vec<u8>, problem: &Problem<'_>, terms: &mut Terms<'_>) {
    let error = |kind: &str, code: &str, message: &str| json!({"object": "error", "message": message, "type": kind, "param": null, "code": code});
    let body = match problem {
        Problem::Fault(fault) => {
            terms.status = 422;
            let (kind, message) = match fault {
                Fault::NotJson => ("json_invalid", "JSON decode error"),
                Fault::Unknown(_) => ("extra_forbidden", "Extra inputs are not permitted"),
                Fault::Missing(_) => ("missing", "Field required"),
                Fault::Invalid { message, .. } => ("value_error", message.as_str()),
            };
            json!({"detail": [{"loc": place(fault.at()), "msg": message, "type": kind}]})
        }
        Problem::NoKey | Problem::WrongKey => json!({"message": "Unauthorized"}),
        Problem::NoModel(_) => {
            terms.status = 400;
            error("invalid_model", "1500", terms.message)
        }
        Problem::NoCredit => {
            terms.status = 402;
            error("payment_required", "1700", terms.message)
        }
        Problem::Limited { .. } | Problem::RateLimit { .. } => {
            error("rate_limited", "1300", terms.message)
        }
        Problem::BadPrompt { .. } => error("invalid_request_prompt", "1800", terms.message),
        _ => error("internal_server_error", "3000", terms.message),
    };
    put(out, &body);
}

/// Codes are statuses; what comes from behind it is told beside.
fn openrouter(out: &mut Vec<u8>, problem: &Problem<'_>, terms: &mut Terms<'_>) {
    let metadata = match problem {
        Problem::NoModel(_) => {
            terms.status = 400;
            Value::Null
        }
        Problem::NoCredit => {
            terms.status = 402;
            json!({"limit_source": "openrouter_credits"})
        }
        Problem::ServerError | Problem::Overloaded => {
            let raw = terms.message;
            terms.status = 502;
            terms.message = "Provider returned error";
            json!({"raw": raw, "provider_name": "Somebody"})
        }
        _ => Value::Null,
    };
    let mut error = json!({"code": terms.status, "message": terms.message});
    if !metadata.is_null() {
        error["metadata"] = metadata;
    }
    put(out, &json!({"error": error}));
}

fn deepinfra(out: &mut Vec<u8>, problem: &Problem<'_>, terms: &mut Terms<'_>) {
    let body = match problem {
        Problem::Fault(fault) => {
            terms.status = 422;
            json!({"detail": [{"loc": place(fault.at()), "msg": terms.message,
                "type": "value_error"}]})
        }
        Problem::NoCredit => {
            terms.status = 402;
            json!({"error": {"message": terms.message}})
        }
        _ => json!({"error": {"message": terms.message}}),
    };
    put(out, &body);
}

/// Codes are names or statuses as text.
fn azure(out: &mut Vec<u8>, problem: &Problem<'_>, terms: &mut Terms<'_>) {
    let status = terms.status.to_string();
    let code = match problem {
        Problem::NoModel(_) => Some("DeploymentNotFound"),
        Problem::NoKey
        | Problem::WrongKey
        | Problem::Limited { .. }
        | Problem::RateLimit { .. } => Some(status.as_str()),
        _ => terms.code,
    };
    put(
        out,
        &json!({"error": {"code": code, "message": terms.message, "type": terms.kind,
            "param": terms.param}}),
    );
}

/// Its gateway tells problem details, the servers behind it what vLLM does.
fn nvidia(out: &mut Vec<u8>, problem: &Problem<'_>, terms: &mut Terms<'_>) {
    let body = match problem {
        Problem::Fault(_) | Problem::BadPrompt { .. } => json!({"object": "error",
            "message": terms.message, "type": "BadRequestError", "param": terms.param,
            "code": terms.status}),
        problem => {
            if let Problem::NoCredit = problem {
                terms.status = 402;
            }
            json!({"status": terms.status, "title": crate::reply::reason(terms.status),
                "detail": terms.message})
        }
    };
    put(out, &body);
}

/// `messages[0].role` as `["body", "messages", 0, "role"]`.
fn place(at: &str) -> Vec<Value> {
    let parts = at.split(['.', '[', ']']).filter(|part| !part.is_empty());
    let part = |part: &str| {
        part.parse::<u64>()
            .map_or_else(|_| part.into(), Value::from)
    };
    std::iter::once("body".into())
        .chain(parts.map(part))
        .collect()
}

fn put(out: &mut Vec<u8>, value: &Value) {
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(problem: &Problem<'_>, vendor: Option<Vendor>) -> (u16, Value) {
        let mut out = Vec::new();
        let status = write(&mut out, problem, vendor);
        (status, serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn an_error_body_has_all_four_fields() {
        let fault = Problem::Fault(Fault::NotJson);
        let message = "We could not parse the JSON body of your request.";
        let wanted = json!({"error": {"message": message, "type": "invalid_request_error",
            "param": null, "code": null}});
        assert_eq!(body(&fault, None), (400, wanted));
    }

    #[test]
    fn an_unknown_field_is_refused_in_each_vendors_words() {
        let fault = Problem::Fault(Fault::Unknown("messages[2].x".to_owned()));
        let message = "Unknown parameter: 'messages[2].x'.";
        let bad = "invalid_request_error";
        let cases = [
            (
                Vendor::OpenAi,
                400,
                json!({"error": {"message": message, "type": bad,
                "param": "messages[2].x", "code": "unknown_parameter"}}),
            ),
            (
                Vendor::Groq,
                400,
                json!({"error": {"message": message, "type": bad,
                "code": "unknown_parameter"}}),
            ),
            (
                Vendor::Xai,
                400,
                json!({"code": "Client specified an invalid argument",
                "error": message}),
            ),
            (
                Vendor::Mistral,
                422,
                json!({"detail": [{"loc": ["body", "messages", 2, "x"],
                "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]}),
            ),
            (
                Vendor::Local,
                400,
                json!({"error": {"code": 400, "message": message,
                "type": bad}}),
            ),
        ];
        for (vendor, status, wanted) in cases {
            assert_eq!(body(&fault, Some(vendor)), (status, wanted), "{vendor}");
        }
    }
}
