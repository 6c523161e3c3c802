"""The API as its OpenAPI document tells it, tried by schemathesis: `schemathesis.py BATCHWRIGHT SCHEMATHESIS [MORE…]`.

A server of its own, with `extract` behind it, so that nothing leaves this machine and jobs end at once."""

import pathlib
import subprocess
import sys
import tempfile

# Of some payloads words say what no schema does, such as names that must not come twice; and a value of a setting is
# judged by that setting. That such a request is refused with 400 is as the document has it.
# What a key led to is told for a day, also when it has been consumed since: a job that was "made" need not be there.
CONFIG = """
hooks = "hooks.py"

[checks.ensure_resource_availability]
enabled = false

[[operations]]
include-name = "POST /api/v1/jobs"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "409", "422"]

[[operations]]
include-name = "POST /api/v1/processes"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "422"]

[[operations]]
include-name = "PUT /api/v1/config/{key}"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "403"]
"""
# A request names a limit in dollars or in tokens, and not both.
CONFIG += """
[[operations]]
include-name = "POST /api/v1/processes/{process_id}/budget"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "409"]
"""
# DELETE of a setting gives it its default: the setting is still there.
STILL_THERE = ["/api/v1/config/{key}"]
CONFIG += "".join(
    f"""
[[operations]]
include-path = "{path}"
[operations.checks.use_after_free]
enabled = false
"""
    for path in STILL_THERE
)

HOOKS = """
import schemathesis

@schemathesis.serializer("application/jsonl")
def lines(context, value):
    return value.encode() if isinstance(value, str) else str(value).encode()
"""


def address(server):
    """Where it says that it listens; what it says behind that is read and forgotten."""
    for line in server.stderr:
        for word in line.split():
            if word.startswith("http://"):
                return "/".join(word.split("/")[:3])
    sys.exit("the server says nothing of where it is")


def main(program, schemathesis, *more):
    with tempfile.TemporaryDirectory() as folder:
        desk = pathlib.Path(folder)
        (desk / "schemathesis.toml").write_text(CONFIG)
        (desk / "hooks.py").write_text(HOOKS)
        server = subprocess.Popen(
            [program, "serve", "--port", "0", "--provider", "extract", "--data-dir", "data"],
            cwd=desk,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = address(server)
            words = [schemathesis, "--config-file", "schemathesis.toml", "run", f"{url}/api/v1/openapi.json"]
            # The stream of events has no end of its own.
            words += ["--exclude-path", "/api/v1/events", "--no-color", "--request-timeout", "40"]
            words += more or ["--max-examples", "40", "--seed", "17"]
            code = subprocess.run(words, cwd=desk, stdin=subprocess.DEVNULL).returncode
            if server.poll() is not None:
                sys.exit("the server has ended")
        finally:
            server.kill()
            server.wait()
    sys.exit(code)


main(*sys.argv[1:])
