//! Words for the end of an answer, as vendors and the gateways before them have them. No word means two
//! things, so that one table serves all dialects. A word that is missing is kept as it is.

/// What a word for the end of an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

use End::{Blocked, Complete, Cut, Fault, Interrupted, Paused, Tool, ToolFault};

const ENDS: &[(&str, End)] = &[
    // OpenAI's chat API and those like it.
    ("stop", Complete),
    ("length", Cut),
    ("content_filter", Blocked),
    ("tool_calls", Tool),
    ("function_call", Tool),
    // Together: the model said that it has ended.
    ("eos", Complete),
    // Mistral: the end of the context.
    ("model_length", Cut),
    // Mistral and OpenRouter ("Errors and Debugging").
    ("error", Interrupted),
    // DeepSeek, "Create Chat Completion".
    ("insufficient_system_resource", Interrupted),
    // Z.ai, "Chat Completion".
    ("network_error", Interrupted),
    // vLLM and SGLang, in their sources.
    ("abort", Interrupted),
    // OpenAI's Responses API: its status, or why it is incomplete.
    ("completed", Complete),
    ("max_output_tokens", Cut),
    ("failed", Interrupted),
    ("cancelled", Interrupted),
    // Anthropic, "Handling stop reasons".
    ("end_turn", Complete),
    ("stop_sequence", Complete),
    ("max_tokens", Cut),
    ("model_context_window_exceeded", Cut),
    ("refusal", Blocked),
    ("tool_use", Tool),
    ("pause_turn", Paused),
    // Gemini's `FinishReason`.
    ("STOP", Complete),
    ("MAX_TOKENS", Cut),
    ("SAFETY", Blocked),
    ("RECITATION", Blocked),
    ("LANGUAGE", Blocked),
    ("BLOCKLIST", Blocked),
    ("PROHIBITED_CONTENT", Blocked),
    ("SPII", Blocked),
    ("IMAGE_SAFETY", Blocked),
    ("IMAGE_PROHIBITED_CONTENT", Blocked),
    ("IMAGE_RECITATION", Blocked),
    ("IMAGE_OTHER", Blocked),
    // Google's policies: of the answer, and of the account.
    ("ESCALATION", Blocked),
    ("PUP_LIMITED_DISABLED", Blocked),
    ("MALFORMED_FUNCTION_CALL", ToolFault),
    ("UNEXPECTED_TOOL_CALL", ToolFault),
    ("TOO_MANY_TOOL_CALLS", ToolFault),
    // A tool's call in the conversation came without its signature.
    ("MISSING_THOUGHT_SIGNATURE", ToolFault),
    ("OTHER", Fault),
    ("MALFORMED_RESPONSE", Fault),
    ("NO_IMAGE", Fault),
    ("FINISH_REASON_UNSPECIFIED", Fault),
];

/// What a word means, if it is known.
pub(super) fn end(word: &str) -> Option<End> {
    let known = ENDS.iter().find(|(known, _)| *known == word);
    known.map(|(_, end)| *end)
}

/// The word that tells how an answer ended: a gateway's, or that of the provider behind it where the
/// gateway calls an answer complete that is not. LiteLLM says `stop` for every word that it does not know. An end
/// that is not specified counts only where the answer is `silent`: a gateway may have filled it in.
pub(super) fn telling(own: String, native: String, silent: bool) -> String {
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
    fn no_word_stands_twice() {
        let words: std::collections::BTreeSet<_> = ENDS.iter().map(|(word, _)| word).collect();
        assert_eq!(words.len(), ENDS.len());
    }

    #[test]
    fn a_gateways_word_gives_way_only_where_it_hides_a_failure() {
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
