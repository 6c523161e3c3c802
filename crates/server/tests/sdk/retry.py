"""OpenAI's own client for Python at a slow provider: retries and idempotency keys get answers that are bought once.

    retry.py http://SERVER http://PROVIDER
"""

import concurrent.futures
import json
import sys
import urllib.request

import openai
from openai import OpenAI

server, provider = sys.argv[1:]
client = OpenAI(base_url=server + "/v1", api_key="unused", timeout=1.5, max_retries=2)
patient = client.with_options(timeout=60, max_retries=0)


def bought():
    with urllib.request.urlopen(provider + "/_sim/stats") as stats:
        return json.load(stats)["calls"]


def ask(client, text, **more):
    return client.chat.completions.create(model="sim-1", messages=[{"role": "user", "content": text}], **more)


# The client gives up, retries by itself, and gets the answer of its first attempt; so do two that ask the same.
before = bought()
with concurrent.futures.ThreadPoolExecutor() as pool:
    answers = list(pool.map(lambda _: ask(client, "Retried."), range(2)))
assert all(answer.choices[0].message.content for answer in answers)
assert answers[0].id != answers[1].id and bought() - before == 2, (answers, before, bought())

# A client that leaves fetches its answer by its key.
before = bought()
key = {"Idempotency-Key": "order-17", "X-Request-ID": "mine"}
try:
    ask(client.with_options(max_retries=0), "Fetched.", extra_headers=key)
    raise AssertionError("it was to be too slow")
except openai.APITimeoutError:
    pass
fetched, again = (ask(patient, "Fetched.", extra_headers=key) for _ in range(2))
assert fetched == again and fetched._request_id == "mine" and bought() - before == 1
try:
    ask(patient, "Another.", extra_headers=key)
    raise AssertionError("the key belongs to another request")
except openai.UnprocessableEntityError as error:
    assert error.code == "idempotency_key_reused" and error.request_id == "mine"

print(f"openai {openai.__version__} for Python: retries join, keys get one answer")
