//! Keeps credentials out of the store: they belong in the environment.

/// A provider's name, the recognisable prefix of its keys (empty if it has none), and the environment variable for
/// the key. A longer prefix comes before a shorter one that it starts with.
const KEYS: [(&str, &str, &str); 16] = [
    ("anthropic", "sk-ant-", "ANTHROPIC_API_KEY"),
    ("openrouter", "sk-or-", "OPENROUTER_API_KEY"),
    ("cerebras", "csk-", "CEREBRAS_API_KEY"),
    ("nvidia", "nvapi-", "NVIDIA_API_KEY"),
    ("together", "tgp_v1_", "TOGETHER_API_KEY"),
    ("fireworks", "fw_", "FIREWORKS_API_KEY"),
    // Their keys begin like OpenAI's, or have no recognisable prefix.
    ("deepseek", "", "DEEPSEEK_API_KEY"),
    ("deepinfra", "", "DEEPINFRA_API_KEY"),
    ("groq", "gsk_", "GROQ_API_KEY"),
    ("xai", "xai-", "XAI_API_KEY"),
    ("gemini", "AIza", "GOOGLE_API_KEY"),
    // Its variables contain the name of OpenAI's variable.
    ("azure", "", "AZURE_OPENAI_API_KEY"),
    ("openai", "sk-", "OPENAI_API_KEY"),
    ("mistral", "", "MISTRAL_API_KEY"),
    ("custom", "", "CUSTOM_LLM_API_KEY"),
    ("local", "", "LOCAL_LLM_API_KEY"),
];

/// The advice for a key of unknown format.
const ANY: &str = "the variable of its provider, such as MISTRAL_API_KEY";

/// Shorter words do not count as keys.
const SHORTEST: usize = 12;
/// Minimum length of a key without a known prefix: letters and digits without a separator.
const SHAPELESS: usize = 32;

/// The variable to use instead, if the text looks like a credential.
pub(crate) fn in_value(text: &str) -> Option<&'static str> {
    let words = text.split([',', ':', '=', '/', '@', ' ', '\t', '"', '\'']);
    words
        .filter(|word| word.len() >= SHORTEST)
        .find_map(|word| {
            let shaped = KEYS.iter().find_map(|(_, beginning, variable)| {
                (!beginning.is_empty() && word.starts_with(beginning)).then_some(*variable)
            });
            shaped.or_else(|| is_shapeless(word).then_some(ANY))
        })
}

fn is_shapeless(word: &str) -> bool {
    word.len() >= SHAPELESS
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && word.contains(|c: char| c.is_ascii_digit())
        && word.contains(|c: char| c.is_ascii_alphabetic())
}

/// The variable to use instead, if the name is that of a credential.
pub(crate) fn in_name(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let secret = |word: &str| {
        let secrets = ["key", "apikey", "token", "secret", "password", "credential"];
        secrets.contains(&word)
    };
    words.any(secret).then(|| {
        let mut known = KEYS.iter().filter(|(provider, ..)| name.contains(provider));
        known.next().map_or(ANY, |(_, _, variable)| variable)
    })
}

/// The value, or a placeholder if it looks like a credential.
pub(super) fn shown(text: &str) -> &str {
    match in_value(text) {
        Some(_) => "***",
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinguished_from_names_of_models() {
        for (text, variable) in [
            ("sk-ant-api03-abcdef", "ANTHROPIC_API_KEY"),
            ("sk-proj-abcdefgh", "OPENAI_API_KEY"),
            ("gsk_abcdefghijkl", "GROQ_API_KEY"),
            ("xai-abcdefghijkl", "XAI_API_KEY"),
            ("AIzaSyAbcdefgh", "GOOGLE_API_KEY"),
            ("sk-or-v1-0123456789", "OPENROUTER_API_KEY"),
            ("csk-0123456789ab", "CEREBRAS_API_KEY"),
            ("nvapi-0123456789", "NVIDIA_API_KEY"),
            ("tgp_v1_0123456789", "TOGETHER_API_KEY"),
            ("fw_0123456789abc", "FIREWORKS_API_KEY"),
            ("abcdefghijklmnop0123456789ABCDEF", ANY),
            ("groq:gsk_abcdefghijkl,extract", "GROQ_API_KEY"),
            ("http://me:sk-0123456789@host/v1", "OPENAI_API_KEY"),
        ] {
            assert_eq!(in_value(text), Some(variable), "{text}");
            assert_eq!(shown(text), "***");
        }
        for model in [
            "gpt-4.1-mini-2025-04-14",
            "claude-3-5-haiku-20241022",
            "ft:gpt-4o-mini-2024-07-18:my-organisation::AbCd1234",
            "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            "accounts/fireworks/models/llama-v3p1-8b-instruct",
            "SmolLM2-135M-Instruct-Q4_K_M.gguf",
            "sk-small",
            "30s",
        ] {
            assert_eq!(in_value(model), None, "{model}");
            assert_eq!(shown(model), model);
        }
    }

    #[test]
    fn names_of_credentials_lead_to_their_variable() {
        for (name, variable) in [
            ("openai.api_key", "OPENAI_API_KEY"),
            ("llm.gemini-apikey", "GOOGLE_API_KEY"),
            ("XAI_API_KEY", "XAI_API_KEY"),
            ("deepseek.key", "DEEPSEEK_API_KEY"),
            ("llm.api_key", ANY),
            ("password", ANY),
        ] {
            assert_eq!(in_name(name), Some(variable), "{name}");
        }
        assert_eq!(in_name("llm.tokens_per_minute"), None);
        assert_eq!(in_name("llm.monkey"), None);
    }
}
