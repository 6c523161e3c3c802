"""OpenAI's own client for Python against a server of ours: its documented batch example, with another base URL.

    batch.py http://127.0.0.1:PORT
"""

import json
import pathlib
import sys
import tempfile
import time

import openai
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused")
folder = pathlib.Path(tempfile.mkdtemp())


def write(name, count):
    path = folder / name
    with path.open("w") as out:
        for n in range(count):
            messages = [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": f"Hello world {n}!"},
            ]
            body = {"model": "sim-1", "messages": messages, "max_tokens": 1000}
            line = {"custom_id": f"request-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            out.write(json.dumps(line) + "\n")
    return path


def wait(batch):
    until = time.monotonic() + 60
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < until, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def start(path):
    batch_input_file = client.files.create(file=path.open("rb"), purpose="batch")
    assert batch_input_file.filename == path.name and batch_input_file.bytes == path.stat().st_size
    batch = client.batches.create(
        input_file_id=batch_input_file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"description": "nightly eval job"},
    )
    assert batch.status == "validating" and batch.metadata == {"description": "nightly eval job"}
    return batch


# Upload, create, poll, download; with an error file, as one prompt in ten is refused.
batch = wait(start(write("batchinput.jsonl", 100)))
assert batch.status == "completed", batch
counts = batch.request_counts
output = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
errors = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
assert counts.total == 100 and counts.failed > 0
assert (counts.completed, counts.failed) == (len(output), len(errors)), batch
assert {line["custom_id"] for line in output + errors} == {f"request-{n}" for n in range(100)}
for line in output:
    answer = openai.types.chat.ChatCompletion.model_validate(line["response"]["body"], strict=True)
    assert answer.choices[0].message.content and answer.usage.total_tokens > 0
assert all(line["response"]["status_code"] == 400 for line in errors)
assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0

# Cancel.
cancelled = start(write("large.jsonl", 5000))
cancelled = wait(client.batches.cancel(cancelled.id))
assert cancelled.status == "cancelled", cancelled

# A faulty input.
(folder / "faulty.jsonl").write_text("{}\n")
failed = wait(start(folder / "faulty.jsonl"))
assert failed.status == "failed" and failed.errors.data[0].line == 1, failed

# Lists with pages: the client asks for the next one by itself.
assert [batch.id for batch in client.batches.list(limit=2)] == [failed.id, cancelled.id, batch.id]
files = list(client.files.list(limit=2, purpose="batch"))
assert [file.filename for file in files] == ["faulty.jsonl", "large.jsonl", "batchinput.jsonl"]
assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
assert client.files.delete(batch.input_file_id).deleted
try:
    client.files.retrieve(batch.input_file_id)
    raise AssertionError("the file is still there")
except openai.NotFoundError as error:
    assert "No such File object" in error.message

# Requests whose caller waits.
question = [{"role": "user", "content": "Hello!"}]
completion = client.chat.completions.create(model="sim-1", messages=question)
assert completion.choices[0].message.content and completion.choices[0].finish_reason == "stop"
with client.chat.completions.stream(
    model="sim-1", messages=question, stream_options={"include_usage": True}
) as stream:
    for _ in stream:
        pass
    final = stream.get_final_completion()
assert final.choices[0].message.content == completion.choices[0].message.content
assert final.usage.total_tokens > 0
try:
    client.chat.completions.create(model="sim-1", messages=[])
    raise AssertionError("no message is no question")
except openai.BadRequestError as error:
    assert error.type == "invalid_request_error"
vectors = client.embeddings.create(model="sim-1", input=["one", "two"]).data
plain = client.embeddings.create(model="sim-1", input="one", encoding_format="float").data[0].embedding
assert len(vectors) == 2 and all(abs(a - b) < 1e-6 for a, b in zip(vectors[0].embedding, plain))
assert [model.id for model in client.models.list()] == ["sim-1"]
assert client.models.retrieve("sim-1").owned_by

print(f"openai {openai.__version__} for Python: {len(output)} answers, {len(errors)} errors, all as documented")
