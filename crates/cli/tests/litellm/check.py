"""What LiteLLM makes of its providers' replies, and what the program makes of that: refusals, thoughts that
Anthropic has signed, waits that the provider behind it asks for, accounts without credit, and answers that were
broken off. `check.py BATCHWRIGHT LITELLM`; the providers behind the proxy are played here."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

program, litellm = sys.argv[1:]
KEY = "sk-0123456789abcdef0123456789abcdef0123456789abcdef"
WAIT = 3
THOUGHTS = [
    {"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"},
    {"type": "redacted_thinking", "data": "cmVk"},
]
NO_CREDIT = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)


def openai(finish, **message):
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return 200, {}, {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def refused(kind, message, **headers):
    error = {"message": message, "type": kind, "param": None, "code": kind}
    return 429, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": error}


class Provider(BaseHTTPRequestHandler):
    """OpenAI, Anthropic and DeepSeek: the prompt says what they answer."""

    protocol_version = "HTTP/1.1"
    seen = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        last = body["messages"][-1]["content"]
        prompt = last if isinstance(last, str) else last[0]["text"]
        before = sum(asked == prompt for asked, _, _ in Provider.seen)
        Provider.seen.append((prompt, time.monotonic(), body))
        status, headers, reply = self.answer(prompt, before)
        reply = json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {**headers, "content-type": "application/json", "content-length": str(len(reply))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply)

    def answer(self, prompt, before):
        if self.path.endswith("/messages"):
            content = [*THOUGHTS, {"type": "text", "text": "seven"}]
            usage = {"input_tokens": 9, "output_tokens": 4}
            return 200, {}, {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
                             "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
        if prompt == "refuse":
            return openai("stop", content=None, refusal="I can't help with that.")
        if prompt == "slow" and before == 0:
            return refused("rate_limit_exceeded", "Rate limit reached", retry_after=str(WAIT))
        if prompt == "poor":
            return refused("insufficient_quota", NO_CREDIT)
        if prompt == "cut" and before == 0:
            return openai("insufficient_system_resource", content="Half an ans")
        return openai("stop", content="hello")

    def log_message(self, *_):
        pass


def run(folder, lines, code, *words):
    """The results of these lines, by id, and what the program said."""
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "out.jsonl").unlink(missing_ok=True)
    command = [program, "run", "in.jsonl", "-o", "out.jsonl", "--provider", "custom", "--base-url", proxy, *words]
    env = {**quiet, "CUSTOM_LLM_API_KEY": KEY, "BATCHWRIGHT_DATA_DIR": str(folder / "data")}
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, (ended.returncode, ended.stderr)
    results = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return {line["id"]: line for line in results}, ended.stderr


def check(folder):
    refusal = {"id": "r", "model": "openai", "prompt": "refuse"}
    results, _ = run(folder, [refusal], 3)
    error = results["r"]["error"]
    assert error["kind"] == "blocked" and "I can't help with that." in error["message"], results
    print("a refusal is blocked")

    results, _ = run(folder, [{"id": "t", "model": "anthropic", "prompt": "four and three?"}], 0)
    reasoning = results["t"]["reasoning"]
    assert results["t"]["text"] == "seven" and reasoning == {"text": "hm", "details": THOUGHTS}, results
    messages = [
        {"role": "user", "content": "four and three?"},
        {"role": "assistant", "content": "seven", "reasoning": reasoning},
        {"role": "user", "content": "and one more?"},
    ]
    run(folder, [{"id": "t2", "model": "anthropic", "messages": messages}], 0)
    sent = Provider.seen[-1][2]["messages"][1]["content"]
    assert sent[:2] == THOUGHTS and sent[2]["text"] == "seven", sent
    print("thoughts that Anthropic has signed come back to it unchanged")

    results, _ = run(folder, [{"id": "s", "model": "openai", "prompt": "slow"}], 0)
    first, second = (when for prompt, when, _ in Provider.seen if prompt == "slow")
    assert results["s"]["text"] == "hello" and second - first >= WAIT, second - first
    print(f"the wait that the provider asked for is obeyed: {second - first:.1f} s of {WAIT} s")

    _, said = run(folder, [{"id": f"p{n}", "model": "openai", "prompt": "poor"} for n in range(9)], 4, "-j", "1")
    assert "the account needs credit" in said, said
    assert sum(prompt == "poor" for prompt, _, _ in Provider.seen) == 1, Provider.seen
    print("an account without credit stops the run at its first call")

    results, _ = run(folder, [{"id": "c", "model": "deepseek", "prompt": "cut"}], 0)
    assert results["c"]["text"] == "hello" and results["c"]["usage"]["output_tokens"] == 8, results
    print("an answer that was broken off is asked for again, and both are counted")


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
provider = f"http://127.0.0.1:{server.server_port}"
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
proxy = f"http://127.0.0.1:{port}/v1"
# Nothing outside is reached: what would be asked for there ends at a port where nobody listens.
nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
quiet = {**os.environ, **nowhere, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
quiet |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY}

with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    models = [
        {"model_name": name, "litellm_params": {"model": f"{name}/{model}", "api_base": provider + path, "api_key": "k"}}
        for name, model, path in [
            ("openai", "m", "/v1"),
            ("anthropic", "claude-sonnet-4-5", ""),
            ("deepseek", "deepseek-chat", "/v1"),
        ]
    ]
    # JSON is YAML.
    config = {"model_list": models, "litellm_settings": {"num_retries": 0, "telemetry": False},
              "router_settings": {"num_retries": 0, "disable_cooldowns": True}}
    (folder / "config.yaml").write_text(json.dumps(config))
    with open(folder / "proxy.log", "w") as log:
        words = ["--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        gateway = subprocess.Popen([litellm, *words], cwd=folder, env=quiet, stdout=log, stderr=log)
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(900):
            assert gateway.poll() is None, (folder / "proxy.log").read_text()
            try:
                direct.open(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).read()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        check(folder)
    except AssertionError:
        print((folder / "proxy.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        gateway.terminate()
        gateway.wait()
