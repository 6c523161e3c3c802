//! What is asked of a model beside the conversation: the task, sampling, the shape of the answer.

use serde_json::Value;

use crate::base::brief::{Many, Name};
use crate::base::error::{Error, ErrorKind};

use super::schema::{self, Schema};
use super::schema_given;

/// What shape the answer must have.
#[derive(Clone, PartialEq, derive_more::Debug)]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Any valid JSON object. Where no message mentions JSON, a sentence that does is added to the
    /// system text for OpenAI and those like it, some of which refuse the request otherwise.
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
        /// Whether the provider should enforce it to the letter.
        strict: bool,
    },
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestTask {
    /// An answer to a conversation.
    #[default]
    Complete,
    /// The vector of a text. Vectors of different models cannot be compared, so a
    /// [`Route`](crate::Route) of several clients suits it only if all of them serve one model.
    Embed,
    /// The sound of a text being read out, in [`Response::audio`](crate::Response::audio).
    Speech,
}

impl ResponseFormat {
    /// JSON that fits a schema. The schema's `title` names it, else it is called `answer`; it is
    /// strict if every object in it requires all its properties and allows no others, and OpenAI is
    /// known to take all else that it says. OpenAI's and Anthropic's wrapping of a schema
    /// (`{"type": "json_schema", "json_schema": {"name": …, "strict": …, "schema": …}}`, or a part of
    /// it) is taken off; its name and its `strict` are kept.
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
    /// [`ErrorKind::Invalid`] when the schema is no object, or when nothing in it restricts an
    /// answer, as in `{}` or an example of an answer. With the feature `schema` also when it
    /// is no valid JSON Schema or refers to something outside of it, which is never fetched.
    pub fn json_schema(schema: Value) -> Result<Self, Error> {
        let invalid = |why| Error::new(ErrorKind::Invalid, why);
        let given = schema_given::read(schema).map_err(invalid)?;
        let schema = given.schema;
        Schema::compile(&schema).map_err(invalid)?;
        Ok(Self::JsonSchema {
            name: given.name.unwrap_or_else(|| schema::name(&schema)),
            strict: given.strict.unwrap_or_else(|| schema::is_strict(&schema)),
            schema,
        })
    }
}

/// Sampling parameters. What is unset is absent from the request: some models refuse even the
/// default value of a field they do not take.
#[derive(Clone, Default, PartialEq, derive_more::Debug)]
pub struct Params {
    /// Randomness; left out, with a warning, beyond the provider's range. Default: the provider's.
    pub temperature: Option<f64>,
    /// The most tokens to answer with, reasoning included. Default: the provider's; Anthropic has
    /// none and is sent 4,096, on top of what `thinking` may use.
    pub max_tokens: Option<u32>,
    /// Nucleus sampling. Default: the provider's.
    pub top_p: Option<f64>,
    /// Texts that end the answer; Anthropic takes no blank ones. Default: none.
    #[debug("{:?}", Many(stop.len()))]
    pub stop: Vec<String>,
    /// For repeatable sampling; left out, with a warning, where the provider has none or not this
    /// one. Default: none.
    pub seed: Option<i64>,
    /// The shape of the answer. Default: text.
    pub response_format: Option<ResponseFormat>,
    /// Numbers in the vector of an embedding, where the model can shorten it. Default: the
    /// model's own length.
    pub dimensions: Option<u32>,
}
