//! Words for the end of an answer, as vendors and the gateways before them have them. No word means two
//! things, so that one table serves all dialects. A word that is missing is kept as it is.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// What a word for the end of an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    Complete,
    /// Cut at the token limit or the end of the context.
    Cut,
    /// A safety filter, or the model refused.
    Blocked,
    /// The model wants a tool called.
    Tool,
    /// The provider paused a turn in which it carries out tools itself.
    Paused,
    /// The model failed in calling a tool.
    ToolFault,
    /// The model failed while answering.
    Fault,
    /// The provider broke the answer off, and may well finish the next one.
    Interrupted,
}

use End::{Complete, Fault, Interrupted, ToolFault};

/// `tables/ends.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ends {
    #[serde(rename = "sources")]
    _sources: IgnoredAny,
    words: BTreeMap<String, End>,
}

static ENDS: LazyLock<Ends> = LazyLock::new(|| {
    let ends = serde_json::from_str(include_str!("tables/ends.json"));
    ends.expect("the tests read this file too")
});

/// What a word means, if it is known.
pub(super) fn end(word: &str) -> Option<End> {
    ENDS.words.get(word).copied()
}

/// The word that tells how an answer ended: a gateway's, or that of the provider behind it where the
/// gateway calls an answer complete that is not. LiteLLM says `stop` for every word that it does not know. An end
/// that is not specified counts only where the answer is `silent`: a gateway may have filled it in.
pub(super) fn telling(own: String, native: String, silent: bool) -> String {
    if native.is_empty() {
        return own;
    }
    let is_broken = match end(&native) {
        Some(Interrupted | ToolFault) => true,
        Some(Fault) => silent || !native.eq_ignore_ascii_case("finish_reason_unspecified"),
        _ => false,
    };
    if is_broken && end(&own) == Some(Complete) {
        native
    } else {
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_finish_reason_is_replaced_only_if_it_hides_a_failure() {
        let word = |own: &str, native: &str| telling(own.to_owned(), native.to_owned(), false);
        let broken = "insufficient_system_resource";
        assert_eq!(word("stop", broken), broken);
        assert_eq!(
            word("stop", "MALFORMED_FUNCTION_CALL"),
            "MALFORMED_FUNCTION_CALL"
        );
        assert_eq!(word("stop", "STOP"), "stop");
        assert_eq!(word("stop", ""), "stop");
        assert_eq!(word("stop", "of the future"), "stop");
        assert_eq!(word("length", "error"), "length");
        let unspecified = "FINISH_REASON_UNSPECIFIED";
        assert_eq!(word("stop", unspecified), "stop");
        for fault in ["MALFORMED_RESPONSE", unspecified] {
            assert_eq!(telling("stop".into(), fault.into(), true), fault);
        }
        assert_eq!(word("stop", "MALFORMED_RESPONSE"), "MALFORMED_RESPONSE");
        assert_eq!(word("content_filter", "OTHER"), "content_filter");
    }
}
