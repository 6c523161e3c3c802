"""What `serve` has at /metrics, read by the official client of Prometheus: `metrics_format.py BATCHWRIGHT`."""

import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

TYPES = {
    "batchwright_calls_in_flight": "gauge",
    "batchwright_items": "gauge",
    "gen_ai_client_operation_duration_seconds": "histogram",
    "gen_ai_client_token_usage": "histogram",
}


def main(program):
    with tempfile.TemporaryDirectory() as folder:
        desk = pathlib.Path(folder)
        (desk / "in.txt").write_text("".join(f"prompt {n}\n" for n in range(30)))
        simulator = subprocess.Popen(
            [program, "simulate", "--port", "0", "--trouble", "error_500=0.2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server = None
        try:
            url = next(word for line in simulator.stdout for word in line.split() if word.startswith("http://"))
            queue = ["--data-dir", "data"]
            words = ["serve", "--port", "0", *queue, "--provider", "local", "--base-url", url, "--model", "sim-1"]
            server = subprocess.Popen([program, *words], cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
            subprocess.run([program, "submit", "in.txt", *queue], cwd=desk, check=True, stdout=subprocess.DEVNULL)
            for _ in range(1800):
                text = urllib.request.urlopen(address.rstrip("/") + "/metrics").read().decode()
                families = {family.name: family for family in text_string_to_metric_families(text)}
                # There are items once the worker has reported them.
                items = families["batchwright_items"].samples if "batchwright_items" in families else []
                states = {sample.labels["state"]: sample.value for sample in items}
                if states.get("completed") == 30:
                    break
                time.sleep(0.1)
        finally:
            simulator.kill()
            if server:
                server.kill()
    for name, kind in TYPES.items():
        assert families[name].type == kind, (name, families[name].type)
        assert families[name].documentation, name
    assert states["completed"] == 30 and sum(states.values()) == 30, states
    calls = families["gen_ai_client_operation_duration_seconds"].samples
    ends = {s.labels["error_type"]: s.value for s in calls if s.name.endswith("_count")}
    assert ends[""] == 30 and ends["transient"] > 0, ends
    print(f"{len(families)} families are read as they are meant")


main(sys.argv[1])
