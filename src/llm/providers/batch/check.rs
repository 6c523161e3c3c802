//! Rejects requests that no provider accepts before they are sent: one invalid line makes a provider reject the whole
//! batch.

use crate::base::Error;
use crate::llm::providers::content::invalid;
use crate::llm::request::Request;

/// Rejects a request that would make the provider reject its whole batch.
pub(super) fn check(request: &Request) -> Result<(), Error> {
    let wrong = |what: String| Err(invalid(what));
    if request.messages.is_empty() {
        return wrong("it has no messages".to_owned());
    }
    let params = &request.params;
    for (name, value, most) in [
        ("temperature", params.temperature, 2.0),
        ("top_p", params.top_p, 1.0),
    ] {
        if let Some(value) = value
            && !(0.0..=most).contains(&value)
        {
            return wrong(format!(
                "{name} must be between 0 and {most}; it is {value}"
            ));
        }
    }
    if params.max_tokens == Some(0) {
        return wrong("max_tokens must be at least 1".to_owned());
    }
    Ok(())
}
