"""OpenAI's asynchronous client for Python, as it is by default: 1,000 calls at once, each answered and bought once.

    thousand.py http://SERVER http://PROVIDER SERVER_PID
"""

import asyncio
import json
import pathlib
import sys
import time
import urllib.request

import openai
from openai import AsyncOpenAI

server, provider, process = sys.argv[1:]
CALLS = 1_000
AT_ONCE = 16


def stats():
    with urllib.request.urlopen(provider + "/_sim/stats") as answer:
        return json.load(answer)


def peak():
    """The most memory that the server has taken so far, in MiB; `None` where the system does not tell it."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


async def ask_all():
    client = AsyncOpenAI(base_url=server + "/v1", api_key="unused")

    async def ask(number):
        messages = [{"role": "user", "content": f"Question {number} of Python."}]
        return await client.chat.completions.create(model="sim-1", messages=messages)

    return await asyncio.gather(*map(ask, range(CALLS)))


before = stats()["calls"]
began = time.monotonic()
answers = asyncio.run(ask_all())
took = time.monotonic() - began
after = stats()
assert len({answer.id for answer in answers}) == CALLS
assert all(answer.choices[0].message.content for answer in answers)
assert after["calls"] - before == CALLS, after
assert after["max_in_flight"] <= AT_ONCE, after
print(
    f"openai {openai.__version__} for Python: {CALLS:,} calls at once answered in {took:.1f} s, {AT_ONCE} at a time, "
    f"each bought once; peak memory of the server: {peak()} MiB"
)
