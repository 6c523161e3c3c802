#!/usr/bin/env python3
"""Runs the Python blocks of docs/python.md, in their order, against `batchwright simulate`, and kills a kernel.

    python_page.py PATH/TO/batchwright

The Python that runs it needs pandas, polars and pyarrow.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = Path(sys.argv[1]).resolve()
PAGE = Path(__file__).resolve().parents[3] / "docs/python.md"
ROWS = 400

# What a cell of a notebook does, in a kernel that is killed.
CELL = """
import subprocess
import pandas as pd
pd.DataFrame({"id": [f"r-{i}" for i in range(%d)], "review": "Good"}).to_json("many.jsonl", orient="records", lines=True)
subprocess.run(["batchwright", "run", "many.jsonl", "-o", "many-answers.jsonl", "--quiet", "--provider", "openai",
                "--model", "gpt-x", "-j", "8", "--template", "{{review}} {{id}}"], check=True)
""" % ROWS


def blocks():
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(found) >= 4, found
    return found


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.endswith("}")]


def examples():
    names = {"__name__": "notebook"}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    topics = list(names["reviews"]["topic"])
    assert len(topics) == 3 and "Fits well" in topics[0], topics
    checked = names["checked"]
    assert checked.columns == ["id", "stars", "topic", "angry"], checked
    assert checked["stars"].to_list() == [5, 1, 4], checked
    assert checked["angry"].dtype == names["pl"].Boolean and checked["topic"].null_count() == 0, checked
    assert names["done"].returncode == 0 and names["summary"]["calls"] == 0, names["summary"]
    assert len(lines_of("short.jsonl")) == 3
    print(f"{len(blocks())} blocks of {PAGE.name}")


def killed_kernel():
    """The kernel is killed with all that it started, as by a container that ends."""
    kernel = subprocess.Popen([sys.executable, "-c", CELL], start_new_session=True)
    output = Path("many-answers.jsonl")
    while not output.exists() or len(output.read_bytes().splitlines()) < ROWS // 8:
        assert kernel.poll() is None, "the cell ended before the kernel was killed"
        time.sleep(0.01)
    os.killpg(kernel.pid, signal.SIGKILL)
    kernel.wait()
    before = len(lines_of(output))
    assert before < ROWS
    subprocess.run([sys.executable, "-c", CELL], check=True)
    answers = lines_of(output)
    assert len({answer["id"] for answer in answers if answer["success"]}) == ROWS
    assert len(answers) == ROWS, len(answers)
    print(f"a kernel was killed after {before} of {ROWS} answers; the same cell bought the other {ROWS - before}")


def main():
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ |= {
            "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",
            "BATCHWRIGHT_HOME": place,
            "OPENAI_API_KEY": "sk-of-the-simulator",
        }
        simulated = subprocess.Popen([PROGRAM, "simulate", "--port", "0", "--latency", "20"], stdout=subprocess.PIPE, text=True)
        try:
            os.environ["BATCHWRIGHT_BASE_URL"] = simulated.stdout.readline().split()[1]
            examples()
            killed_kernel()
        finally:
            simulated.kill()
            simulated.wait()


main()
