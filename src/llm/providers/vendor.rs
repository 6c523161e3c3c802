//! The table of vendors: addresses, variables, and the ways they differ from their dialect.

use crate::base::error::{Error, ErrorKind};
use crate::engine::pack::PackLimits;
use crate::llm::batch::BatchLimits;

use super::error_body::ErrorBody;
use super::fields::{Fields, hosts, vendors};
use super::limits::RateHeaders;
use super::retention::Retention;
use super::rules::{
    self, DEEPSEEK, FIREWORKS, GROQ, LOCAL, MISTRAL, NVIDIA, OPENROUTER, Rule, XAI, classify,
};

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
    /// Answered on this machine, without a network.
    Extract,
}

/// The field that caps the answer's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CapField {
    MaxTokens,
    MaxCompletionTokens,
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
    /// Azure's addresses: the model in them, or the version of the API behind them.
    pub azure: bool,
    pub key_vars: &'static [&'static str],
    pub url_var: &'static str,
    pub needs_key: bool,
    /// Servers of this machine, asked what they serve before a run.
    pub probed: bool,
    /// The header that takes the key; `authorization` takes it as a bearer token.
    pub key_header: &'static str,
    /// The header that names the version of the API, and that version.
    pub version: Option<(&'static str, &'static str)>,
    /// A variable with a bearer token instead of a key.
    pub token_var: &'static str,
    pub cap: CapField,
    pub seed_field: &'static str,
    /// The field for the length of a vector.
    pub dimensions_field: &'static str,
    /// Headers that name the account more closely, and the variables that hold them.
    pub identity: &'static [(&'static str, &'static str)],
    /// Whether it may still load its model when it is called.
    pub may_load: bool,
    /// Whether it takes the role `developer`; it means `system`.
    pub developer_role: bool,
    /// What becomes of the fields that prompt files carry.
    pub(super) fields: Fields,
    pub tells: RateHeaders,
    /// What it reports in another way than its dialect.
    pub(super) errors: &'static [Rule],
    pub concurrency: usize,
    /// Its Batch API, where it has one.
    pub batches: Option<Batches>,
    /// How much one call embeds; none where it makes no embeddings. Well below what each takes:
    /// tokens are estimated, a reply holds all vectors at once, and what is killed in flight is
    /// paid again.
    pub embeds: Option<PackLimits>,
    /// Whether it reads texts out by OpenAI's call for that.
    pub speaks: bool,
}

/// A Batch API: how it is spoken to, and what one batch may hold. Somewhat below what each takes:
/// an upload that is refused for its size has been made for nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batches {
    pub wire: BatchWire,
    pub limits: BatchLimits,
    #[cfg_attr(
        not(feature = "queue"),
        expect(dead_code, reason = "only who collects batches asks")
    )]
    pub retention: Retention,
}

/// A wire format of Batch APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchWire {
    OpenAi,
    Groq,
    Azure,
    Together,
    Xai,
    Mistral,
    Anthropic,
    Gemini,
}

const fn batches(
    wire: BatchWire,
    requests: usize,
    megabytes: u64,
    retention: Retention,
) -> Option<Batches> {
    let bytes = megabytes * 1_000_000;
    Some(Batches {
        wire,
        limits: BatchLimits { requests, bytes },
        retention,
    })
}

const fn pack(inputs: u16, tokens: u32) -> Option<PackLimits> {
    Some(PackLimits { inputs, tokens })
}

const OPENAI: Vendor = Vendor {
    name: "openai",
    dialect: Dialect::OpenAi,
    base_url: "https://api.openai.com/v1",
    segment: "/v1",
    segment_always: false,
    azure: false,
    key_vars: &["OPENAI_API_KEY"],
    url_var: "OPENAI_BASE_URL",
    needs_key: true,
    probed: false,
    key_header: "authorization",
    version: None,
    token_var: "",
    cap: CapField::MaxCompletionTokens,
    seed_field: "seed",
    dimensions_field: "dimensions",
    identity: &[],
    may_load: false,
    developer_role: true,
    fields: vendors::OPENAI,
    tells: RateHeaders::XRateLimit { request_period: 60 },
    errors: &[],
    concurrency: 5,
    // It takes 200 MB.
    batches: batches(BatchWire::OpenAi, 50_000, 190, Retention::FromEnd(30)),
    // It takes 2,048 texts and 300,000 tokens.
    embeds: pack(128, 150_000),
    speaks: true,
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
        tells: RateHeaders::XRateLimit {
            request_period: 86_400,
        },
        fields: vendors::GROQ,
        developer_role: false,
        errors: GROQ,
        // Its sources say 100 MB or 200.
        batches: batches(BatchWire::Groq, 50_000, 95, Retention::FromEnd(30)),
        embeds: None,
        ..OPENAI
    },
    Vendor {
        name: "anthropic",
        dialect: Dialect::Anthropic,
        base_url: "https://api.anthropic.com/v1",
        segment_always: true,
        key_vars: &["ANTHROPIC_API_KEY"],
        key_header: "x-api-key",
        // What Anthropic's SDKs send. The newer one, 2026-10-21, refuses sampling fields outright.
        version: Some(("anthropic-version", "2023-06-01")),
        token_var: "ANTHROPIC_AUTH_TOKEN",
        fields: vendors::ANTHROPIC,
        tells: RateHeaders::Anthropic,
        url_var: "ANTHROPIC_BASE_URL",
        batches: batches(
            BatchWire::Anthropic,
            100_000,
            245,
            Retention::FromCreation(29),
        ),
        embeds: None,
        speaks: false,
        ..OPENAI
    },
    Vendor {
        identity: &[
            ("openai-organization", "OPENAI_ORG_ID"),
            ("openai-project", "OPENAI_PROJECT_ID"),
        ],
        ..OPENAI
    },
    Vendor {
        name: "gemini",
        dialect: Dialect::Gemini,
        // The version that Google's SDK asks for unless told otherwise, for files and batches too.
        base_url: "https://generativelanguage.googleapis.com/v1beta",
        segment: "/v1beta",
        segment_always: true,
        key_vars: &["GOOGLE_API_KEY", "GEMINI_API_KEY"],
        url_var: "GOOGLE_GEMINI_BASE_URL",
        key_header: "x-goog-api-key",
        dimensions_field: "outputDimensionality",
        // It takes 100 texts.
        embeds: pack(100, 20_000),
        fields: vendors::GEMINI,
        batches: batches(BatchWire::Gemini, 20_000, 1_000, Retention::FromEnd(2)),
        tells: RateHeaders::Nothing,
        speaks: false,
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
        dimensions_field: "output_dimension",
        developer_role: false,
        fields: vendors::MISTRAL,
        errors: MISTRAL,
        batches: batches(BatchWire::Mistral, 100_000, 500, Retention::Unlimited),
        // It takes 512 texts and 16,384 tokens.
        embeds: pack(64, 8_000),
        speaks: false,
        ..OPENAI
    },
    Vendor {
        name: "xai",
        base_url: "https://api.x.ai/v1",
        key_vars: &["XAI_API_KEY"],
        url_var: "XAI_BASE_URL",
        developer_role: false,
        fields: vendors::XAI,
        errors: XAI,
        batches: batches(BatchWire::Xai, 50_000, 190, Retention::UNKNOWN),
        embeds: None,
        speaks: false,
        ..OPENAI
    },
    // Those behind it are newer here: whoever has a key of one above goes on with that one.
    Vendor {
        name: "openrouter",
        base_url: "https://openrouter.ai/api/v1",
        segment: "/api/v1",
        key_vars: &["OPENROUTER_API_KEY"],
        url_var: "OPENROUTER_BASE_URL",
        fields: hosts::OPENROUTER,
        errors: OPENROUTER,
        // Those of free models alone are told, with times of their own.
        tells: RateHeaders::Nothing,
        batches: None,
        embeds: pack(32, 8_192),
        speaks: false,
        ..OPENAI
    },
    Vendor {
        name: "deepseek",
        base_url: "https://api.deepseek.com/v1",
        key_vars: &["DEEPSEEK_API_KEY"],
        url_var: "DEEPSEEK_BASE_URL",
        cap: CapField::MaxTokens,
        developer_role: false,
        fields: hosts::DEEPSEEK,
        errors: DEEPSEEK,
        tells: RateHeaders::Nothing,
        batches: None,
        embeds: None,
        speaks: false,
        ..OPENAI
    },
    Vendor {
        name: "together",
        base_url: "https://api.together.ai/v1",
        key_vars: &["TOGETHER_API_KEY"],
        url_var: "TOGETHER_BASE_URL",
        cap: CapField::MaxTokens,
        developer_role: false,
        fields: hosts::TOGETHER,
        // Its headers count seconds, and change with the load.
        tells: RateHeaders::Nothing,
        // It takes 100 MB; for how long results are kept it does not say.
        batches: batches(BatchWire::Together, 50_000, 95, Retention::UNKNOWN),
        embeds: pack(32, 8_192),
        ..OPENAI
    },
    Vendor {
        name: "fireworks",
        base_url: "https://api.fireworks.ai/inference/v1",
        segment: "/inference/v1",
        segment_always: true,
        key_vars: &["FIREWORKS_API_KEY"],
        url_var: "FIREWORKS_BASE_URL",
        cap: CapField::MaxTokens,
        developer_role: false,
        fields: hosts::FIREWORKS,
        errors: FIREWORKS,
        // It tells limits of prompt and answer apart, which change with the load.
        tells: RateHeaders::Nothing,
        // Its batches are of data sets, and not in this form.
        batches: None,
        embeds: pack(32, 8_192),
        speaks: false,
        ..OPENAI
    },
    Vendor {
        name: "deepinfra",
        base_url: "https://api.deepinfra.com/v1/openai",
        segment: "/v1/openai",
        // The second is the one of its own documentation.
        key_vars: &["DEEPINFRA_API_KEY", "DEEPINFRA_TOKEN"],
        url_var: "DEEPINFRA_BASE_URL",
        cap: CapField::MaxTokens,
        developer_role: false,
        fields: hosts::DEEPINFRA,
        tells: RateHeaders::Nothing,
        // Its limits are not told; OpenAI's, whose API it takes over, and half the bytes.
        batches: batches(BatchWire::OpenAi, 50_000, 95, Retention::FromEnd(30)),
        embeds: pack(32, 8_192),
        ..OPENAI
    },
    Vendor {
        name: "cerebras",
        base_url: "https://api.cerebras.ai/v1",
        segment_always: true,
        key_vars: &["CEREBRAS_API_KEY"],
        url_var: "CEREBRAS_BASE_URL",
        developer_role: false,
        fields: hosts::CEREBRAS,
        tells: RateHeaders::Cerebras,
        batches: None,
        embeds: None,
        speaks: false,
        ..OPENAI
    },
    Vendor {
        name: "nvidia",
        base_url: "https://integrate.api.nvidia.com/v1",
        key_vars: &["NVIDIA_API_KEY"],
        url_var: "NVIDIA_BASE_URL",
        cap: CapField::MaxTokens,
        developer_role: false,
        // What is taken differs from model to model, and is told nowhere for all.
        fields: vendors::ALL,
        errors: NVIDIA,
        tells: RateHeaders::Nothing,
        batches: None,
        embeds: pack(32, 8_192),
        speaks: false,
        ..OPENAI
    },
    Vendor {
        name: "azure",
        // Each resource has an address of its own.
        base_url: "",
        segment: "/openai",
        segment_always: true,
        azure: true,
        key_vars: &["AZURE_OPENAI_API_KEY"],
        url_var: "AZURE_OPENAI_ENDPOINT",
        key_header: "api-key",
        token_var: "AZURE_OPENAI_AD_TOKEN",
        fields: vendors::AZURE,
        // It takes 100,000 requests and 200 MB, and keeps files until they are deleted.
        batches: batches(BatchWire::Azure, 100_000, 190, Retention::Unlimited),
        ..OPENAI
    },
    Vendor {
        name: "custom",
        base_url: "",
        key_vars: &["CUSTOM_LLM_API_KEY"],
        url_var: "CUSTOM_LLM_BASE_URL",
        needs_key: false,
        may_load: true,
        // The older name is the one that every server of this style knows.
        cap: CapField::MaxTokens,
        developer_role: false,
        fields: vendors::ALL,
        batches: None,
        errors: LOCAL,
        embeds: pack(32, 8_192),
        ..OPENAI
    },
    Vendor {
        name: "local",
        base_url: "http://127.0.0.1:8080/v1",
        key_vars: &["LOCAL_LLM_API_KEY"],
        url_var: "LOCAL_LLM_BASE_URL",
        needs_key: false,
        probed: true,
        may_load: true,
        // Ollama ignores the newer name without a word.
        cap: CapField::MaxTokens,
        developer_role: false,
        fields: vendors::ALL,
        concurrency: 1,
        batches: None,
        errors: LOCAL,
        embeds: pack(32, 8_192),
        ..OPENAI
    },
    Vendor {
        name: "extract",
        dialect: Dialect::Extract,
        base_url: "",
        key_vars: &[],
        url_var: "",
        needs_key: false,
        batches: None,
        embeds: None,
        speaks: false,
        ..OPENAI
    },
];

impl Vendor {
    /// How long this provider keeps results of batches.
    #[cfg(feature = "queue")]
    pub fn retention_of(provider: &str) -> Retention {
        let batches = Vendor::named(provider).and_then(|vendor| vendor.batches);
        batches.map_or(Retention::UNKNOWN, |batches| batches.retention)
    }

    /// What a failed reply means.
    pub(super) fn rule(&self, status: u16, error_body: &ErrorBody) -> &'static Rule {
        let dialect = match self.dialect {
            Dialect::OpenAi => rules::OPENAI,
            Dialect::Anthropic => rules::ANTHROPIC,
            Dialect::Gemini => rules::GEMINI,
            Dialect::Extract => &[],
        };
        classify([self.errors, dialect, rules::GATEWAYS], status, error_body)
    }

    pub(crate) fn named(name: &str) -> Option<&'static Vendor> {
        VENDORS.iter().find(|vendor| vendor.name == name)
    }

    /// Refuses a vendor that makes no embeddings, with the names of those that do.
    pub(crate) fn check_embeddings(&self) -> Result<(), Error> {
        if self.embeds.is_some() {
            return Ok(());
        }
        let embedding = VENDORS.iter().filter(|vendor| vendor.embeds.is_some());
        let names: Vec<&str> = embedding.map(|vendor| vendor.name).collect();
        let (name, names) = (self.name, names.join(", "));
        let why = format!("{name} makes no embeddings; these do: {names}");
        Err(Error::new(ErrorKind::Invalid, why))
    }

    /// The vendor's Batch API, or the refusal of one that has none, with the names of those that do.
    pub(crate) fn batch_api(&self) -> Result<Batches, Error> {
        self.batches.ok_or_else(|| {
            let having = VENDORS.iter().filter(|vendor| vendor.batches.is_some());
            let names: Vec<&str> = having.map(|vendor| vendor.name).collect();
            let (name, names) = (self.name, names.join(", "));
            let why = format!("{name} has no Batch API; these have one: {names}");
            Error::new(ErrorKind::Invalid, why)
        })
    }

    /// The base URL that a value of [`url_var`](Self::url_var) is. OpenAI's SDKs put their paths
    /// behind theirs as it stands, and whoever set it for them means that, also where it has no path.
    /// The SDKs of the others add the version themselves, and the variables that no SDK reads are
    /// taken as `--base-url` is.
    pub(crate) fn base_from_variable(&self, url: &str) -> String {
        let as_it_stands = url.trim().trim_end_matches('/');
        match self.url_var {
            "OPENAI_BASE_URL" if path_of(as_it_stands).is_empty() => as_it_stands.to_owned(),
            _ => self.normalise(url),
        }
    }

    /// A base URL as somebody names it for this vendor: with the version, where that is left out.
    pub(crate) fn normalise(&self, url: &str) -> String {
        let url = url.trim().trim_end_matches('/');
        if url.is_empty() {
            return String::new();
        }
        if self.azure {
            // As Azure shows where to call a model.
            let url = url.split("/openai/deployments/").next().unwrap_or(url);
            let (root, newer) = match url.split_once("/openai/v1") {
                Some((root, _)) => (root, "/v1"),
                None => (url.strip_suffix(self.segment).unwrap_or(url), ""),
            };
            return format!("{root}{}{newer}", self.segment);
        }
        // The address of the one call is easily taken for the base.
        let calls = [
            "/chat/completions",
            "/messages",
            "/embeddings",
            "/audio/speech",
        ];
        let url = calls
            .iter()
            .find_map(|call| url.strip_suffix(call))
            .unwrap_or(url);
        if url.ends_with(self.segment) {
            return url.to_owned();
        }
        if self.segment_always || path_of(url).is_empty() {
            format!("{url}{}", self.segment)
        } else {
            url.to_owned()
        }
    }
}

/// What stands behind the host of a URL.
fn path_of(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let slash = url[after_scheme..].find('/');
    slash.map_or("", |slash| &url[after_scheme + slash..])
}

#[cfg(test)]
#[path = "vendor_tests.rs"]
mod tests;
