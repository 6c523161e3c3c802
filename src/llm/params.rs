//! The parameters of a request: the task, sampling, and the format of the answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::brief::{Many, Name};
use crate::base::{Error, ErrorKind};

use super::schema::{self, Schema};

/// The format that an answer must have.
#[derive(Clone, PartialEq, Serialize, Deserialize, derive_more::Debug)]
#[serde(tag = "type", content = "json_schema", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Any valid JSON object. For providers with OpenAI's format, a sentence about JSON is added to the system text if
    /// no message mentions JSON, because some of them reject the request otherwise.
    JsonObject,
    /// JSON that fits a schema. With the feature `schema` every answer is held against all of it,
    /// whatever a provider takes of it; without, it is checked for being JSON, and a warning in the
    /// log says so once:
    /// - OpenAI and those like it get it as it is. With `strict` they refuse much of what a schema
    ///   can say, and without it they may stray from it.
    /// - Anthropic gets a copy whose objects are closed and whose bounds and patterns stand in the
    ///   descriptions. A schema without such a copy (maps with any keys, recursion, `allOf`, more than
    ///   24 optional properties or 16 unions) is put into the system text instead.
    /// - Gemini gets it as it is, and knows of it: `$id`, `$defs`, `$ref` (with nothing beside it),
    ///   `$anchor`, `type`, `format`, `title`, `description`, `enum`, `items`, `prefixItems`,
    ///   `minItems`, `maxItems`, `minimum`, `maximum`, `anyOf`, `oneOf`, `properties`,
    ///   `additionalProperties`, `required`; recursion only in optional properties. It may refuse
    ///   large schemas, those with many `maxItems` among them, without saying why.
    JsonSchema {
        /// A name for the schema, of letters, digits, `_` and `-`, at most 64.
        #[debug("{:?}", Name(name))]
        name: String,
        /// The JSON Schema.
        #[debug(skip)]
        schema: Value,
        /// Whether the provider must enforce the schema exactly.
        #[serde(default)]
        strict: bool,
    },
}

/// The task of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestTask {
    /// An answer to a conversation.
    #[default]
    Complete,
    /// The embedding of a text. Embeddings of different models cannot be compared, so a [`Route`](crate::Route) of
    /// several clients needs clients of one model.
    Embed,
    /// The speech of a text, in [`Response::audio`](crate::Response::audio).
    Speech,
}

impl ResponseFormat {
    /// JSON that fits a schema. Its name is the `title` of the schema, or else `answer`. It is strict if every object
    /// in the schema requires all its properties and allows no others, and if OpenAI supports all its other keywords.
    ///
    /// ```
    /// use batchwright::{Request, ResponseFormat};
    /// let schema = serde_json::json!({"type": "object", "required": ["prime"]});
    /// let format = ResponseFormat::json_schema(schema)?;
    /// let request = Request::new("Name a prime.").with_response_format(format);
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the schema is not an object, if it is in the wrapping of an API, or if it does not restrict
    /// an answer, for example `{}` or an example of an answer. With the feature `schema` also if it is not a valid JSON Schema, or refers to a schema
    /// outside of it, which is never fetched.
    pub fn json_schema(schema: Value) -> Result<Self, Error> {
        let invalid = |why| Error::new(ErrorKind::Invalid, why);
        schema::check(&schema).map_err(invalid)?;
        Schema::compile(&schema).map_err(invalid)?;
        Ok(Self::JsonSchema {
            name: schema::name(&schema),
            strict: schema::is_strict(&schema),
            schema,
        })
    }
}

/// Sampling parameters. Unset parameters are not in the request, because some models reject even the default value of a
/// field that they do not support.
#[derive(Clone, Default, PartialEq, derive_more::Debug)]
pub struct Params {
    /// Randomness. A value outside of the provider's range is omitted with a warning. Default: the provider's.
    pub temperature: Option<f64>,
    /// The maximum number of tokens of the answer, including reasoning. Default: the provider's; Anthropic has no
    /// default and gets 4,096 in addition to the budget of `thinking`.
    pub max_tokens: Option<u32>,
    /// Nucleus sampling. Default: the provider's.
    pub top_p: Option<f64>,
    /// Texts that end the answer. Anthropic does not support blank texts. Default: none.
    #[debug("{:?}", Many(stop.len()))]
    pub stop: Vec<String>,
    /// For repeatable sampling. It is omitted with a warning if the provider does not support seeds, or not this one.
    /// Default: none.
    pub seed: Option<i64>,
    /// The format of the answer. Default: text.
    pub response_format: Option<ResponseFormat>,
    /// The length of an embedding, if the model can shorten it. Default: the length of the model.
    pub dimensions: Option<u32>,
}

/// How long a provider keeps the beginning of a prompt after its last use, if it lets the request choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CacheLifetime {
    /// 5 minutes, for calls.
    Minutes,
    /// 1 hour, for batches, whose requests may be processed far apart. Writing costs more.
    Hour,
}
