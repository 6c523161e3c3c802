"""What the scripts that measure share: a program with its symbols, the simulated provider, valgrind, times of commands."""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time

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


def timed(command, environment, **options):
    """The seconds of a command, and those of its CPU time."""
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment, **options)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return seconds, used.ru_utime + used.ru_stime


def compare(results):
    """Prints a line for each name with the seconds and CPU seconds of its runs, compared with the first name, run by run."""
    print(f"median of {len(results[0][1])} rounds            time   CPU time   throughput and CPU time as multiples of the first line")
    for name, runs in results:
        seconds, used = (statistics.median(column) for column in zip(*runs))
        pairs = list(zip(results[0][1], runs))
        speed = statistics.median(first[0] / own[0] for first, own in pairs)
        cpu = statistics.median(own[1] / first[1] for first, own in pairs)
        print(f"{name:<26} {seconds:8.2f} s {used:8.2f} s {speed:12.3f} {cpu:11.3f}")
