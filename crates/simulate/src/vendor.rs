//! The services with OpenAI's API, each with its own variant of it. The modules of `openai` contain the differences.

use std::fmt;
use std::str::FromStr;

/// A service with OpenAI's API: the simulator uses its errors, bodies and headers on the paths of that API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
#[non_exhaustive]
pub enum Vendor {
    /// `openai`.
    OpenAi,
    /// `xai`: usage without reasoning, errors as plain strings, a wrong key is status 400.
    Xai,
    /// `groq`: request limits per day, `x_groq`, no embeddings.
    Groq,
    /// `mistral`: `random_seed`, status 422 with a list of details, content as chunks.
    Mistral,
    /// `openrouter`: errors with what the one behind it said, and passes over fields it does not know.
    OpenRouter,
    /// `deepseek`: blank lines before a reply, no schemas, usage of its cache in words of its own.
    DeepSeek,
    /// `together`: an answer ends with `eos`, `logprobs` is a number.
    Together,
    /// `fireworks`: status 412 for an account that is suspended.
    Fireworks,
    /// `deepinfra`: status 422 with a list of details, an estimate of the cost.
    DeepInfra,
    /// `cerebras`: limits of a day and of a minute by names of their own, no embeddings.
    Cerebras,
    /// `nvidia`: an unknown model is an unknown function, as problem details.
    Nvidia,
    /// `azure`: the key in `api-key`, deployments in the address, a version behind it; batches of files that
    /// are looked at first.
    Azure,
    /// `local`: a server on this machine. It ignores keys, fields it does not know and
    /// `max_completion_tokens`.
    Local,
}

impl Vendor {
    /// Every vendor.
    pub const ALL: [Vendor; 13] = [
        Vendor::OpenAi,
        Vendor::Xai,
        Vendor::Groq,
        Vendor::Mistral,
        Vendor::OpenRouter,
        Vendor::DeepSeek,
        Vendor::Together,
        Vendor::Fireworks,
        Vendor::DeepInfra,
        Vendor::Cerebras,
        Vendor::Nvidia,
        Vendor::Azure,
        Vendor::Local,
    ];

    /// The name, as [`FromStr`] accepts it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub(super) fn has_embeddings(self) -> bool {
        !matches!(self, Vendor::Groq | Vendor::DeepSeek | Vendor::Cerebras)
    }

    /// Whether its replies contain the requested wait in headers.
    pub(super) fn tells_waits(self) -> bool {
        matches!(
            self,
            Vendor::OpenAi | Vendor::Groq | Vendor::OpenRouter | Vendor::Azure | Vendor::Local
        )
    }
}

impl FromStr for Vendor {
    type Err = UnknownVendor;

    fn from_str(text: &str) -> Result<Vendor, UnknownVendor> {
        Vendor::ALL
            .into_iter()
            .find(|vendor| vendor.name() == text)
            .ok_or_else(|| UnknownVendor(text.to_owned()))
    }
}

/// A name that is no [`Vendor`]; its message lists the names that are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVendor(String);

impl fmt::Display for UnknownVendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Vendor::ALL.map(Vendor::name).join(", ");
        write!(f, "unknown vendor \"{}\"; known ones: {known}", self.0)
    }
}

impl std::error::Error for UnknownVendor {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vendor_is_read_back_from_its_name() {
        for vendor in Vendor::ALL {
            assert_eq!(vendor.to_string().parse(), Ok(vendor));
        }
        let error = "acme".parse::<Vendor>().unwrap_err().to_string();
        assert!(
            error.contains("\"acme\"; known ones: openai, xai"),
            "{error}"
        );
    }
}
