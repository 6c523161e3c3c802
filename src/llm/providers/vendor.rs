//! The table of vendors: addresses, variables, and the ways they differ from their dialect.

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    /// Known, its client comes in a later release.
    Later,
    /// Answered on this machine, without a network.
    Extract,
}

/// The field that caps the answer's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CapField {
    MaxTokens,
    MaxCompletionTokens,
}

/// Which errors a vendor reports in an unusual way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quirk {
    None,
    /// A wrong key is a 400, an empty account a 403 or 429 told by its text.
    Xai,
    /// 498 means the flexible tier is full.
    Groq,
}

/// One provider.
#[derive(Debug)]
pub(crate) struct Vendor {
    pub name: &'static str,
    pub dialect: Dialect,
    pub base_url: &'static str,
    /// Added to a base URL that does not end with it; for the OpenAI style, only to an empty path.
    pub segment: &'static str,
    pub segment_always: bool,
    pub key_vars: &'static [&'static str],
    pub url_var: &'static str,
    pub needs_key: bool,
    pub cap: CapField,
    pub seed_field: &'static str,
    /// Seconds over which the limits in its request headers hold.
    pub request_period: u64,
    pub concurrency: usize,
    pub has_batches: bool,
    pub quirk: Quirk,
}

const OPENAI: Vendor = Vendor {
    name: "openai",
    dialect: Dialect::OpenAi,
    base_url: "https://api.openai.com/v1",
    segment: "/v1",
    segment_always: false,
    key_vars: &["OPENAI_API_KEY"],
    url_var: "OPENAI_BASE_URL",
    needs_key: true,
    cap: CapField::MaxCompletionTokens,
    seed_field: "seed",
    request_period: 60,
    concurrency: 5,
    has_batches: true,
    quirk: Quirk::None,
};

/// Every provider, in the order in which the first usable one is looked for.
pub(crate) const VENDORS: &[Vendor] = &[
    Vendor {
        name: "groq",
        base_url: "https://api.groq.com/openai/v1",
        segment: "/openai/v1",
        segment_always: true,
        key_vars: &["GROQ_API_KEY"],
        url_var: "GROQ_BASE_URL",
        // Its request headers count a day, its token headers a minute.
        request_period: 86_400,
        quirk: Quirk::Groq,
        ..OPENAI
    },
    Vendor {
        name: "anthropic",
        dialect: Dialect::Later,
        base_url: "https://api.anthropic.com",
        segment_always: true,
        key_vars: &["ANTHROPIC_API_KEY"],
        url_var: "ANTHROPIC_BASE_URL",
        ..OPENAI
    },
    OPENAI,
    Vendor {
        name: "gemini",
        dialect: Dialect::Later,
        base_url: "https://generativelanguage.googleapis.com/v1beta",
        segment: "/v1beta",
        segment_always: true,
        key_vars: &["GOOGLE_API_KEY", "GEMINI_API_KEY"],
        url_var: "GOOGLE_GEMINI_BASE_URL",
        ..OPENAI
    },
    Vendor {
        name: "mistral",
        base_url: "https://api.mistral.ai/v1",
        segment_always: true,
        key_vars: &["MISTRAL_API_KEY"],
        url_var: "MISTRAL_BASE_URL",
        cap: CapField::MaxTokens,
        seed_field: "random_seed",
        ..OPENAI
    },
    Vendor {
        name: "xai",
        base_url: "https://api.x.ai/v1",
        key_vars: &["XAI_API_KEY"],
        url_var: "XAI_BASE_URL",
        quirk: Quirk::Xai,
        ..OPENAI
    },
    Vendor {
        name: "local",
        base_url: "http://127.0.0.1:8080/v1",
        key_vars: &["LOCAL_LLM_API_KEY"],
        url_var: "LOCAL_LLM_BASE_URL",
        needs_key: false,
        // Ollama ignores the newer name without a word.
        cap: CapField::MaxTokens,
        concurrency: 1,
        has_batches: false,
        ..OPENAI
    },
    Vendor {
        name: "extract",
        dialect: Dialect::Extract,
        base_url: "",
        key_vars: &[],
        url_var: "",
        needs_key: false,
        has_batches: false,
        ..OPENAI
    },
];

impl Vendor {
    pub(crate) fn named(name: &str) -> Option<&'static Vendor> {
        VENDORS.iter().find(|vendor| vendor.name == name)
    }

    pub(crate) fn names() -> String {
        let names: Vec<&str> = VENDORS.iter().map(|vendor| vendor.name).collect();
        names.join(", ")
    }

    /// A base URL as this vendor's own SDK takes it.
    pub(crate) fn normalise(&self, url: &str) -> String {
        let url = url.trim().trim_end_matches('/');
        // The address of the one call is easily taken for the base.
        let url = url.strip_suffix("/chat/completions").unwrap_or(url);
        if url.ends_with(self.segment) {
            return url.to_owned();
        }
        let after_scheme = url.find("://").map_or(0, |at| at + 3);
        let has_path = url[after_scheme..].contains('/');
        if self.segment_always || !has_path {
            format!("{url}{}", self.segment)
        } else {
            url.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_mean_what_each_sdk_takes_them_to_mean() {
        for (vendor, given, meant) in [
            ("openai", "http://h:1", "http://h:1/v1"),
            ("openai", "http://h:1/", "http://h:1/v1"),
            ("openai", "http://h:1/v1/", "http://h:1/v1"),
            ("openai", "http://h:1/gateway", "http://h:1/gateway"),
            ("local", "http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
            ("groq", "http://h", "http://h/openai/v1"),
            ("groq", "http://h/openai/v1", "http://h/openai/v1"),
            ("mistral", "http://h/x", "http://h/x/v1"),
            ("gemini", "http://h", "http://h/v1beta"),
            ("xai", "http://h/api", "http://h/api"),
            ("openai", "http://h/v1/chat/completions", "http://h/v1"),
        ] {
            assert_eq!(Vendor::named(vendor).unwrap().normalise(given), meant);
        }
    }
}
