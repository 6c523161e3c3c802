//! The price of a model, and the cost of a call by it.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::base::{Error, ErrorKind, Timestamp, Usage, Usd, named_file};

use super::price_table::{Model, Price, PriceEntry, Table};

/// Prices of models, for the cost of calls whose replies do not report it. By default those of a table in the program,
/// which names its sources and their dates. It works alone and makes no calls:
///
/// ```
/// use std::time::SystemTime;
/// use batchwright::{Prices, Usage};
/// let usage = Usage { input_tokens: 1_000, output_tokens: 100, ..Usage::default() };
/// let prices = Prices::default();
/// let model = prices.of_model("openai", "gpt-4o-2024-08-06").expect("in the table");
/// // 2.50 and 10 dollars per million tokens.
/// let cost = model.cost(&usage, "", SystemTime::now().into()).expect("priced");
/// assert_eq!(cost.to_string(), "$0.003500");
/// // A model that the table does not have costs an unknown amount, which is not zero.
/// assert!(prices.of_model("openai", "gpt-4o.1").is_none());
/// ```
#[derive(Clone, PartialEq, derive_more::Debug)]
pub struct Prices {
    /// The first one that has a model counts. The table in the program is the last.
    #[debug("{:?}", layers.iter().map(|layer| &layer.name).collect::<Vec<_>>())]
    layers: Vec<Arc<Layer>>,
}

#[derive(PartialEq)]
struct Layer {
    name: String,
    /// Written by the user, who may mean the name by which a model is requested.
    by_user: bool,
    table: Table,
}

static BUILT_IN: LazyLock<Arc<Layer>> = LazyLock::new(|| {
    Arc::new(Layer {
        name: "table".to_owned(),
        by_user: false,
        table: Table::built_in(),
    })
});

/// Most bytes of a file with prices: the table in the program has 90 kB, and a table takes 23 times the memory.
const LONGEST: u64 = 4 << 20;

/// The table in the program.
impl Default for Prices {
    fn default() -> Self {
        Self {
            layers: vec![BUILT_IN.clone()],
        }
    }
}

impl Prices {
    /// No prices: the cost of a call is known only if the provider reports it.
    pub const fn none() -> Self {
        Self { layers: Vec::new() }
    }

    /// The prices in this file, and for models that it does not have those of the table in the program.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file cannot be read, has more than 4 MiB or is something else.
    pub fn of_file(file: &Path) -> Result<Self, Error> {
        let name = file.display().to_string();
        let json = named_file::read_text(file, LONGEST).map_err(|error| {
            let why = format!("cannot read {name}: {}", Error::from(error).message());
            Error::new(ErrorKind::Invalid, why)
        })?;
        Self::default().overridden(name, &json)
    }

    /// These prices, and for models that they do not have the others.
    pub fn or(mut self, others: Self) -> Self {
        if self.layers.iter().all(|layer| layer.by_user) {
            self.layers.extend(others.layers);
        }
        self
    }

    /// Puts your own prices before these. The JSON has the form of the table in the program: `providers`, for each of
    /// them (`"*"`: any) its `models`, and for each model its names (`models`, or `dated` for names that may be followed
    /// by a date) and its `prices`, see [`PriceEntry`](crate::provider::PriceEntry). `name` tells people where it comes
    /// from.
    ///
    /// ```
    /// use batchwright::Prices;
    /// let mine = r#"{"providers": {"*": {"models": [{"models": ["my-model"], "prices": [{"input": 0.5, "output": 2}]}]}}}"#;
    /// let prices = Prices::default().overridden("mine", mine)?;
    /// assert_eq!(prices.of_model("custom", "my-model").expect("just set").origin(), "mine");
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the JSON is something else.
    pub fn overridden(mut self, name: impl Into<String>, json: &str) -> Result<Self, Error> {
        let name = name.into();
        let table = Table::parse(json).map_err(|why| {
            let why = format!("{name}: these are not prices: {}", why.message());
            Error::new(ErrorKind::Invalid, why)
        })?;
        let layer = Layer {
            name,
            by_user: true,
            table,
        };
        self.layers.insert(0, Arc::new(layer));
        Ok(self)
    }

    /// The prices of a model at a provider, by its exact name; a date may follow the name if the table says so.
    pub fn of_model(&self, provider: &str, model: &str) -> Option<ModelPrices<'_>> {
        self.of_call(provider, Some(model), Some(model))
    }

    /// The prices of a call by the name of the model that answered, which the reply may lack, and by that of the request.
    pub(crate) fn of_call(
        &self,
        provider: &str,
        answered: Option<&str>,
        requested: Option<&str>,
    ) -> Option<ModelPrices<'_>> {
        let plain = |name| str::strip_prefix(name, "models/").unwrap_or(name);
        let requested = requested.map(plain);
        let answered = answered.map(plain).or(requested)?;
        self.layers.iter().find_map(|layer| {
            let by_request = requested.filter(|_| layer.by_user);
            let find = |name| layer.table.find(provider, name, requested);
            // A router may answer with any of its models, and that one is billed.
            let found = find(answered).or_else(|| by_request.and_then(find));
            let (model, by_likeness) = found?;
            // A price of the user is complete. An alias may have any word in its name.
            let asked = || requested.filter(|name| searches(name)).and_then(find);
            let bills_searches = !layer.by_user && (searches(answered) || asked().is_some());
            Some(ModelPrices {
                layer,
                model,
                by_likeness,
                bills_searches,
            })
        })
    }
}

/// The prices of one model.
#[derive(derive_more::Debug)]
#[debug("ModelPrices({})", self.origin())]
pub struct ModelPrices<'p> {
    layer: &'p Layer,
    model: &'p Model,
    /// Found at a provider with like prices.
    by_likeness: bool,
    /// Whether the model searches by itself, and each search has a price of its own. `false` if the price is your own.
    pub bills_searches: bool,
}

/// Whether calls of a model also search, by the words of its name: `gpt-4o-search-preview` and `sonar-pro`, not `research`.
pub(crate) fn searches(model: &str) -> bool {
    let mut words = model.split(|c: char| !c.is_alphanumeric());
    words.any(|word| {
        ["search", "sonar"]
            .iter()
            .any(|name| word.eq_ignore_ascii_case(name))
    })
}

impl<'p> ModelPrices<'p> {
    /// Where the prices come from: the name that was given to [`Prices::overridden`], or `table`.
    pub fn origin(&self) -> &'p str {
        &self.layer.name
    }

    /// The most output tokens of an answer, if that is known.
    pub fn max_output_tokens(&self) -> Option<u64> {
        self.model.max_output
    }

    /// The prices at a tier at a point in time. A provider's word for its usual tier (`default`, `standard`, `on_demand`,
    /// `auto`) means the standard one, like an empty text.
    pub fn entry(&self, tier: &str, at: Timestamp) -> Option<&'p PriceEntry> {
        let tier = tier_name(tier);
        // Azure's batches cost half as OpenAI's do; its other tiers have prices of their own.
        if self.by_likeness && !matches!(tier, "" | "batch") {
            return None;
        }
        let has_begun =
            |entry: &&PriceEntry| entry.from.as_ref().is_none_or(|day| day.start() <= at);
        let entries = self.model.prices.iter();
        let mut of_tier = entries.filter(|entry| entry.tier.eq_ignore_ascii_case(tier));
        of_tier.rfind(has_begun)
    }

    /// The cost of a call; `None` if the price of something that it used is unknown, or if it reports no tokens. A model
    /// that [bills searches](Self::bills_searches) has to report them. `tier` as in [`entry`](Self::entry).
    pub fn cost(&self, usage: &Usage, tier: &str, at: Timestamp) -> Option<Usd> {
        let entry = self.entry(tier, at)?;
        let is_complete = !self.bills_searches || usage.web_search_calls > 0;
        entry.cost(usage).filter(|_| is_complete)
    }
}

/// The name of a tier in tables; empty for the usual one.
pub(crate) fn tier_name(tier: &str) -> &str {
    let is = |word: &str| tier.eq_ignore_ascii_case(word);
    match tier {
        _ if USUAL_TIER.into_iter().any(is) => "",
        // OpenAI's new word.
        _ if is("fast") => "priority",
        _ => tier,
    }
}

/// The words of providers for their usual tier.
const USUAL_TIER: [&str; 4] = ["default", "standard", "on_demand", "auto"];

impl PriceEntry {
    /// The cost of a call at these prices, exactly. See [`ModelPrices::cost`].
    pub fn cost(&self, usage: &Usage) -> Option<Usd> {
        if (usage.input_tokens, usage.output_tokens) == (0, 0) {
            return None;
        }
        self.of_length(usage.input_tokens).cost_of_tokens(usage)
    }

    /// The prices of a request with this number of input tokens.
    pub(super) fn of_length(&self, input_tokens: u64) -> &Self {
        let mut longer = self.above.iter().rev();
        longer
            .find(|longer| input_tokens > longer.tokens)
            .unwrap_or(self)
    }

    /// The cost of this usage, of one or of several requests, exactly at these prices.
    pub(super) fn cost_of_tokens(&self, usage: &Usage) -> Option<Usd> {
        let input = self.input_cost(usage)?;
        let output = self.output_cost(usage)?;
        let tools = self.tool_cost(usage)?;
        Some(usd(input.checked_add(output)?.checked_add(tools)?))
    }

    /// The most that this number of tokens can cost, whatever they are made of. `None` if the price of output is unknown.
    pub(crate) fn most(&self, input_tokens: u64, output_tokens: u64) -> Option<Usd> {
        let mut most = Usd::ZERO;
        for prices in self.above.iter().chain([self]) {
            let input = [
                Some(prices.input),
                prices.cached_input,
                prices.cache_write,
                prices.cache_write_1h,
                prices.input_audio,
                prices.input_image,
            ];
            let text = match output_tokens {
                0 => None,
                _ => Some(prices.output?),
            };
            let output = [text, prices.output_audio, prices.output_image];
            let [input, output] = [&input[..], &output]
                .map(|prices| prices.iter().flatten().max().copied().unwrap_or_default());
            most = most.max(usd(input.of(input_tokens) + output.of(output_tokens)));
        }
        Some(most)
    }

    fn input_cost(&self, usage: &Usage) -> Option<u128> {
        let hour = usage.cache_write_1h_tokens;
        let written = usage
            .cache_write_tokens
            .max(usage.cache_write_5m_tokens.checked_add(hour)?);
        let hour_price = match (self.cache_write_1h, self.cache_write) {
            (None, Some(_)) if hour > 0 => return None,
            (own, _) => own,
        };
        let audio = (usage.input_audio_tokens, self.input_audio);
        let image = (usage.input_image_tokens, self.input_image);
        let counts = |(tokens, price): (u64, Option<Price>)| tokens > 0 && price.is_some();
        // Replies do not say how many of the cached tokens were audio.
        if usage.cached_input_tokens > 0 && (counts(audio) || counts(image)) {
            return None;
        }
        let parts = [
            (usage.cached_input_tokens, self.cached_input),
            (written - hour, self.cache_write),
            (hour, hour_price),
            audio,
            image,
        ];
        parted(usage.input_tokens, self.input, parts)
    }

    fn output_cost(&self, usage: &Usage) -> Option<u128> {
        if usage.output_tokens == 0 {
            return Some(0);
        }
        let parts = [
            (usage.output_audio_tokens, self.output_audio),
            (usage.output_image_tokens, self.output_image),
        ];
        parted(usage.output_tokens, self.output?, parts)
    }

    /// Only searches have a known price.
    fn tool_cost(&self, usage: &Usage) -> Option<u128> {
        let searches = usage.web_search_calls;
        if usage.server_tool_calls > searches || usage.sources_used > 0 {
            return None;
        }
        match searches {
            0 => Some(0),
            // The price is per thousand, that of tokens per million.
            _ => Some(self.web_search?.of(searches) * 1_000),
        }
    }
}

/// The cost of tokens if some parts of them have their own prices. `None` if the parts exceed the total.
fn parted<const N: usize>(
    all: u64,
    price: Price,
    parts: [(u64, Option<Price>); N],
) -> Option<u128> {
    let (mut rest, mut sum) = (all, 0);
    for (tokens, own) in parts {
        if let Some(own) = own {
            rest = rest.checked_sub(tokens)?;
            sum += own.of(tokens);
        }
    }
    Some(sum + price.of(rest))
}

/// As much as fits into an amount.
fn usd(picos: u128) -> Usd {
    Usd::from_picos(u64::try_from(picos).unwrap_or(u64::MAX))
}

impl Price {
    /// The price of this number of tokens, in picodollars.
    fn of(self, tokens: u64) -> u128 {
        u128::from(self.0) * u128::from(tokens)
    }
}

#[cfg(test)]
#[path = "prices_tests.rs"]
mod tests;
