//! Tokens of a text as OpenAI's models count them, with the optional feature `tokenizer`.

/// Counts the tokens of a text; `None` if the tokenizer cannot read it, such as a million spaces in a row.
pub(super) type Count = fn(&str) -> Option<u64>;

/// The tokenizer of a model. `None` for models of other vendors and for unknown ones, because a wrong tokenizer would look
/// exact.
#[cfg(feature = "tokenizer")]
pub(super) fn of_model(model: &str) -> Option<Count> {
    use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

    // Other providers put the vendor before the name, and Ollama puts the size after it.
    let name = model.rsplit('/').next().unwrap_or(model);
    let tokenizer = get_tokenizer(name).or_else(|| {
        let family = name.split(':').next().unwrap_or(name);
        (family == "gpt-oss").then_some(Tokenizer::O200kHarmony)
    });
    match tokenizer? {
        // They differ only in tokens that no text contains.
        Tokenizer::O200kBase | Tokenizer::O200kHarmony => Some(o200k),
        Tokenizer::Cl100kBase => Some(cl100k),
        _ => None,
    }
}

#[cfg(not(feature = "tokenizer"))]
pub(super) fn of_model(_: &str) -> Option<Count> {
    None
}

#[cfg(feature = "tokenizer")]
fn o200k(text: &str) -> Option<u64> {
    counted(tiktoken_rs::o200k_base_singleton(), text)
}

#[cfg(feature = "tokenizer")]
fn cl100k(text: &str) -> Option<u64> {
    counted(tiktoken_rs::cl100k_base_singleton(), text)
}

#[cfg(feature = "tokenizer")]
fn counted(tokenizer: &tiktoken_rs::CoreBPE, text: &str) -> Option<u64> {
    // `count_ordinary` would panic where this reports an error.
    let tokens = tokenizer.count(text, &std::collections::HashSet::new());
    tokens.ok().map(|tokens| tokens as u64)
}

#[cfg(all(test, feature = "tokenizer"))]
mod tests {
    use super::*;

    /// Two independent implementations agree on these numbers: tiktoken-rs 0.12 and GitHub's bpe-openai 0.3.
    #[test]
    fn texts_have_the_tokens_that_openai_counts() {
        let count = |model: &str, text: &str| of_model(model).unwrap()(text).unwrap();
        for (text, o200k, cl100k) in [
            ("", 0, 0),
            ("hello world", 2, 2),
            ("Hello!", 2, 2),
            ("tiktoken is great!", 6, 6),
            (
                "Die größten Flüsse Europas heißen Wolga und Donau, schön übersichtlich für Käufer geprüft.",
                19,
                30,
            ),
            ("人工智能正在改变世界各地的工作方式。", 11, 19),
            ("Great 👍🏽 party 🎉👨‍👩‍👧‍👦!", 19, 29),
            (
                "fn main() {\n    let x: Vec<u64> = (0..10).map(|i| i * 2).collect();\n    println!(\"{x:?}\");\n}\n",
                36,
                36,
            ),
            ("1234567890", 4, 4),
            ("a \n\n\n  b\t\t  c  ", 7, 7),
            (".\n/", 1, 2),
        ] {
            assert_eq!(count("gpt-4o-mini", text), o200k, "{text}");
            assert_eq!(count("openai/gpt-oss-120b", text), o200k, "{text}");
            assert_eq!(count("gpt-4-turbo", text), cl100k, "{text}");
        }
        // A text that looks like a special token is counted as text.
        assert!(count("gpt-5", "<|endoftext|>") > 1);
    }

    #[test]
    fn only_models_whose_tokenizer_is_known_are_counted() {
        for model in [
            "gpt-4o",
            "gpt-4.1-nano",
            "gpt-5",
            "gpt-5.6-mini",
            "o3-pro",
            "o4-mini",
            "ft:gpt-4o-mini-2024-07-18:org::id",
            "openai/gpt-4o",
            "accounts/fireworks/models/gpt-oss-120b",
            "gpt-oss:20b",
        ] {
            assert_eq!(
                of_model(model).unwrap()("größer"),
                o200k("größer"),
                "{model}"
            );
        }
        for model in ["gpt-4", "gpt-3.5-turbo", "text-embedding-3-small"] {
            assert_eq!(
                of_model(model).unwrap()("größer"),
                cl100k("größer"),
                "{model}"
            );
        }
        for model in [
            "claude-sonnet-5-5",
            "anthropic/claude-opus-5",
            "gemini-3-pro",
            "mistral-large-latest",
            "llama3.3:70b",
            "deepseek-v4-pro",
            "gpt-6",
            "davinci",
            "",
        ] {
            assert!(of_model(model).is_none(), "{model}");
        }
    }

    #[test]
    fn a_text_that_cannot_be_read_is_not_counted() {
        let spaces = " ".repeat(2_000_000) + "x";
        assert_eq!(of_model("gpt-4o").unwrap()(&spaces), None);
    }
}
