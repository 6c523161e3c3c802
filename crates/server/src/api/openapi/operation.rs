//! One operation of the document, put together word by word.

use serde_json::{Value, json};

use super::schemas::{self, id, of};

/// What one method of a path does.
pub(super) struct Operation(pub Value);

impl Operation {
    pub fn new(tag: &str, id: &str, summary: &str) -> Self {
        Self(json!({
            "tags": [tag],
            "operationId": id,
            "summary": summary,
            "parameters": [],
            "responses": {"default": {"$ref": "#/components/responses/Problem"}},
        }))
    }

    pub fn says(mut self, description: &str) -> Self {
        self.0["description"] = json!(description);
        self
    }

    pub fn parameter(mut self, place: &str, name: &str, schema: Value, description: &str) -> Self {
        let parameter = json!({
            "name": name,
            "in": place,
            "required": place == "path",
            "schema": schema,
            "description": description,
        });
        self.0["parameters"]
            .as_array_mut()
            .expect("a list")
            .push(parameter);
        self
    }

    pub fn query(self, name: &str, schema: Value, description: &str) -> Self {
        self.parameter("query", name, schema, description)
    }

    /// A query parameter that must be there.
    pub fn needs(self, name: &str, schema: Value, description: &str) -> Self {
        let mut this = self.query(name, schema, description);
        let parameters = this.0["parameters"].as_array_mut();
        parameters.and_then(|all| all.last_mut()).expect("a list")["required"] = json!(true);
        this
    }

    pub fn path(self, name: &str, description: &str) -> Self {
        let schema = match name {
            "key" => json!({"type": "string", "enum": schemas::keys()}),
            _ => id(),
        };
        self.parameter("path", name, schema, description)
    }

    pub fn process(self) -> Self {
        self.path("process_id", "The process").problem(
            404,
            "The process does not exist, or all its results were fetched",
        )
    }

    pub fn job(self) -> Self {
        self.path("job_id", "The job")
            .problem(404, "The job does not exist, or its result was fetched")
    }

    pub fn limit(self, default: u64, most: u64) -> Self {
        let schema = json!({"type": "integer", "minimum": 1, "maximum": most, "default": default});
        self.query("limit", schema, "Maximum number of entries")
    }

    pub fn once(self) -> Self {
        let schema =
            json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"});
        self.parameter(
            "header",
            "Idempotency-Key",
            schema,
            "The server processes requests with the same key once within 24 hours",
        )
        .problem(422, "Another request used this key")
    }

    pub fn body(mut self, kind: &str, schema: Value) -> Self {
        self.0["requestBody"] = json!({"required": true, "content": {kind: {"schema": schema}}});
        self
    }

    pub fn answer(self, status: u16, description: &str, schema: Value) -> Self {
        self.answer_as(status, description, "application/json", schema)
    }

    pub fn answer_as(mut self, status: u16, description: &str, kind: &str, schema: Value) -> Self {
        self.0["responses"][status.to_string()] = json!({
            "description": description,
            "content": {kind: {"schema": schema}},
        });
        self
    }

    /// 201 with the path of the new resource.
    pub fn made(mut self, schema: Value) -> Self {
        self = self.answer(201, "Created", schema);
        self.0["responses"]["201"]["headers"] = json!({
            "location": {"schema": {"type": "string"}, "description": "Path of the new resource"},
            "idempotency-replayed": {
                "schema": {"type": "string", "enum": ["true"]},
                "description": "The request was processed before; this is the reply of that time",
            },
        });
        self
    }

    /// A status with its own meaning.
    pub fn problem(mut self, status: u16, description: &str) -> Self {
        self.0["responses"][status.to_string()] = json!({
            "description": description,
            "content": {"application/problem+json": {"schema": of("Problem")}},
        });
        self
    }
}
