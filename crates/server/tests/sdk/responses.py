"""OpenAI's own client for Python against the endpoints /v1/responses, /v1/completions and /v1/uploads of a server of ours.

    responses.py http://127.0.0.1:PORT
"""

import io
import json
import sys
import time

import openai
from openai import OpenAI
from openai.types.responses import Response, ResponseItemList
from pydantic import BaseModel

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused")
MODEL = "sim-1"


def strict(response):
    """The reply as it was sent has exactly the types that OpenAI documents."""
    return Response.model_validate_json(response.model_dump_json(exclude_unset=True, by_alias=True), strict=True)


def wait(response):
    until = time.monotonic() + 30
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < until, response
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


# Create, retrieve, continue, list, delete.
first = client.responses.create(model=MODEL, input="Hello!", instructions="Be brief.", metadata={"a": "b"})
strict(first)
assert first.status == "completed" and first.output_text and first.metadata == {"a": "b"}
assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens > 0
assert client.responses.retrieve(first.id).output_text == first.output_text
second = client.responses.create(model=MODEL, input="And then?", previous_response_id=first.id)
strict(second)
items = [item for item in client.responses.input_items.list(second.id, limit=2, order="asc")]
assert [item.type for item in items if item.type == "message"] == ["message"] * 3, items
page = client.responses.input_items.list(second.id)
ResponseItemList.model_validate_json(
    json.dumps({"object": "list", "first_id": "", **json.loads(page.model_dump_json(exclude_unset=True, by_alias=True))}),
    strict=True,
)
client.responses.delete(first.id)
for missing in (
    lambda: client.responses.retrieve(first.id),
    lambda: client.responses.create(model=MODEL, input="x", previous_response_id=first.id),
):
    try:
        missing()
        raise AssertionError("the response is still there")
    except openai.APIStatusError as error:
        assert error.status_code in (400, 404), error

# The loop with functions, whose items the client sends back.
tool = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
conversation = [{"role": "user", "content": "How warm is it in Oslo?"}]
called = client.responses.create(model=MODEL, input=conversation, tools=[tool], store=False)
strict(called)
conversation += called.output
calls = [item for item in called.output if item.type == "function_call"]
assert calls and json.loads(calls[0].arguments)
conversation += [{"type": "function_call_output", "call_id": call.call_id, "output": "7 degrees"} for call in calls]
answered = client.responses.create(model=MODEL, input=conversation, tools=[tool], store=False)
strict(answered)
assert answered.output_text


class Number(BaseModel):
    value: int


parsed = client.responses.parse(model=MODEL, input="A number.", text_format=Number)
assert isinstance(parsed.output_parsed, Number), parsed

# Streams, which the client puts together again.
with client.responses.stream(model=MODEL, input="Hello!", tools=[tool]) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response()
assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
strict(final)
assert any(item.type == "function_call" for item in final.output)
pieces = client.responses.create(model=MODEL, input="Hello!", stream=True)
text = "".join(event.delta for event in pieces if event.type == "response.output_text.delta")
assert text == client.responses.create(model=MODEL, input="Hello!").output_text
again = client.responses.retrieve(final.id, stream=True, starting_after=0)
assert next(iter(again)).type == "response.in_progress"

# The background.
queued = client.responses.create(model=MODEL, input="Hello!", background=True)
strict(queued)
done = wait(queued)
strict(done)
assert done.status == "completed" and done.output_text == text
assert client.responses.cancel(done.id).status == "completed"

# Lines of a batch.
line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": MODEL, "input": "Hello!"}}
content = json.dumps(line).encode()
upload = client.uploads.upload_file_chunked(
    file=content, filename="in.jsonl", bytes=len(content), mime_type="application/jsonl", purpose="batch", part_size=50
)
assert upload.status == "completed" and upload.file.bytes == len(content)
batch = client.batches.create(input_file_id=upload.file.id, endpoint="/v1/responses", completion_window="24h")
until = time.monotonic() + 60
while batch.status != "completed":
    assert time.monotonic() < until and batch.status != "failed", batch
    time.sleep(0.1)
    batch = client.batches.retrieve(batch.id)
output = json.loads(client.files.content(batch.output_file_id).text)["response"]["body"]
assert Response.model_validate_json(json.dumps(output), strict=True).output_text == text
assert batch.usage.total_tokens > 0

# Older completions.
completion = client.completions.create(model=MODEL, prompt=["One.", "Two."], n=2)
openai.types.Completion.model_validate(completion.model_dump(), strict=True)
assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
pieces = client.completions.create(model=MODEL, prompt="One.", stream=True)
assert "".join(piece.choices[0].text for piece in pieces) == completion.choices[0].text

# What is not offered is refused at once: the client does not repeat it.
for other in (
    lambda: client.moderations.create(input="x"),
    lambda: client.images.generate(prompt="x"),
    lambda: client.audio.transcriptions.create(model=MODEL, file=("a.wav", io.BytesIO(b"x"))),
    lambda: client.fine_tuning.jobs.list(),
    lambda: client.vector_stores.list(),
):
    try:
        other()
        raise AssertionError("an endpoint that is not offered")
    except openai.NotFoundError as error:
        assert "does not offer" in error.message, error
        assert error.response.request.headers["x-stainless-retry-count"] == "0"

print(f"openai {openai.__version__} for Python: responses, completions and uploads as documented")
