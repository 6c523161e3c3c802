"""What `profile-call` and `function-order` share: a program with its symbols, the simulated provider, valgrind."""

import contextlib
import json
import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def build(*options):
    """The program as released, but with its symbols. The options are those of rustc."""
    words = ["cargo", "rustc", "--release", "-p", "batchwright-cli", "--bin", "batchwright"]
    words += ["--message-format", "json-render-diagnostics", "--", "-C", "strip=none", *options]
    built = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    return next(message["executable"] for message in messages if message.get("executable"))


@contextlib.contextmanager
def simulated(program, *options):
    """The address of a simulated provider."""
    process = subprocess.Popen([program, "simulate", "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield next(re.search(r"http://\S+/v1", line)[0] for line in process.stdout if "/v1" in line)
    finally:
        process.terminate()
        process.wait()


def write_prompts(path, count):
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            text = f"word {i} " * 40
            file.write(json.dumps({"id": f"row-{i}", "prompt": text[:200]}) + "\n")


def valgrind(counts, *options):
    """The words that start a command under callgrind, which writes the file `counts`."""
    return ["valgrind", "--quiet", "--tool=callgrind", *options, f"--callgrind-out-file={counts}"]
