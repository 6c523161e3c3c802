"""Uses the client that openapi-python-client has generated: `client.py ADDRESS DOCUMENT`."""

import json
import os
import re
import sys
from importlib import import_module
from io import BytesIO

from batchwright_api import AuthenticatedClient
from batchwright_api.api.jobs import create_job, get_job, get_job_payload, list_jobs
from batchwright_api.api.processes import (
    ack_results,
    create_process,
    delete_process,
    get_process,
    get_results,
    list_processes,
)
from batchwright_api.api.server import get_overview, get_readiness
from batchwright_api.api.settings import get_setting, set_setting
from batchwright_api.models import (
    CompletionPayload,
    Job,
    JobStatus,
    JobType,
    MadeJob,
    MadeProcess,
    NewCompletionJob,
    NewValue,
    Overview,
    Problem,
    Process,
    ProcessState,
    Health,
    ResultLine,
    SavedResults,
    Setting,
    SettingKey,
)
from batchwright_api.types import File

address, document = sys.argv[1], json.load(open(sys.argv[2]))
client = AuthenticatedClient(base_url=address, token=os.environ["BATCHWRIGHT_TOKEN"], timeout=60)

# Every operation is there.
for methods in document["paths"].values():
    for operation in methods.values():
        name = re.sub("(?<!^)(?=[A-Z])", "_", operation["operationId"]).lower()
        import_module(f"batchwright_api.api.{operation['tags'][0]}.{name}")

# A job, from its creation to the receipt of its result.
new = NewCompletionJob(type_="completion", payload=CompletionPayload.from_dict({"prompt": "Say hello."}), item_id="greeting")
made = create_job.sync(client=client, body=new, idempotency_key="order-17")
assert isinstance(made, MadeJob) and made.status != JobStatus.FAILED, made
assert create_job.sync(client=client, body=new, idempotency_key="order-17").job_id == made.job_id
job = get_job.sync(made.job_id, client=client, wait=30)
assert isinstance(job, Job) and job.status == JobStatus.COMPLETED, job
assert job.result["text"] == "echo: Say hello.", job
assert get_job_payload.sync(made.job_id, client=client).payload["messages"][0]["content"] == "Say hello."
found = list_jobs.sync(client=client, process_id=made.process_id).data
assert [one.item_id for one in found] == ["greeting"], found
assert ack_results.sync(made.process_id, client=client, body=SavedResults(receipts=[job.receipt])).consumed == 1
gone = get_job.sync(made.job_id, client=client)
assert isinstance(gone, Problem) and gone.status == 404, gone

# JSON lines in and out.
lines = "".join(json.dumps({"id": f"a-{at}", "prompt": f"Name the river number {at}."}) + "\n" for at in range(50))
made = create_process.sync(client=client, body=File(payload=BytesIO(lines.encode())), type_=JobType.COMPLETION, name="rivers")
assert isinstance(made, MadeProcess) and made.total == 50, made
results, after = [], None
while len(results) < 50:
    # The generated function reads all lines at once; the same request can be read line by line.
    request = get_results._get_kwargs(made.process_id, **({"after": after} if after else {}))
    with client.get_httpx_client().stream(**request) as response:
        assert response.status_code == 200, response
        results += [ResultLine.from_dict(json.loads(line)) for line in response.iter_lines()]
    after = results[-1].job_id if results else None
assert [one.id for one in results] == [f"a-{at}" for at in range(50)], results
assert all(one.success and one.usage.output_tokens > 0 for one in results)
whole = get_results.sync(made.process_id, client=client)
assert isinstance(whole, File) and len(whole.payload.read().splitlines()) == 50
process = get_process.sync(made.process_id, client=client)
assert isinstance(process, Process) and process.state == ProcessState.FINISHED and process.completed == 50, process
assert list_processes.sync(client=client).data[0].process_id == made.process_id
saved = SavedResults(receipts=[one.receipt for one in results])
assert ack_results.sync(made.process_id, client=client, body=saved).consumed == 50
assert delete_process.sync_detailed(made.process_id, client=client).status_code in (200, 404)
refused = create_process.sync(client=client, body=File(payload=BytesIO(b"no JSON")))
assert isinstance(refused, Problem) and refused.status == 400, refused

# The server and its settings.
assert isinstance(get_readiness.sync(client=client), Health)
assert isinstance(get_overview.sync(client=client), Overview)
setting = set_setting.sync(SettingKey.LLM_SYNC_CONCURRENCY, client=client, body=NewValue(value="8"))
assert isinstance(setting, Setting) and setting.stored == "8", setting
assert get_setting.sync(SettingKey.LLM_SYNC_CONCURRENCY, client=client).value == "8"
print("ok  openapi-python-client")
