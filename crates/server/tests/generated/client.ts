// Uses the types that openapi-typescript has generated: `client.js ADDRESS TOKEN`.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Job = components["schemas"]["Job"];
type NewJob = components["schemas"]["NewCompletionJob"];
type ResultLine = components["schemas"]["ResultLine"];

declare const process: { argv: string[] };
const [, , address, token] = process.argv;
const client = createClient<paths>({ baseUrl: address, headers: { authorization: `Bearer ${token}` } });

function check(holds: boolean, what: unknown): asserts holds {
  if (!holds) throw new Error(JSON.stringify(what));
}
function data<T>(reply: { data?: T; error?: unknown }): T {
  check(reply.data !== undefined, reply.error);
  return reply.data;
}

// A job, from its creation to the receipt of its result.
const body: NewJob = { type: "completion", payload: { prompt: "Say hello." }, item_id: "greeting" };
const made = data(await client.POST("/api/v1/jobs", { body }));
const path = { job_id: made.job_id };
const job: Job = data(await client.GET("/api/v1/jobs/{job_id}", { params: { path, query: { wait: 30 } } }));
check(job.status === "completed" && (job.result as ResultLine).text === "echo: Say hello.", job);
const found = data(await client.GET("/api/v1/jobs", { params: { query: { process_id: made.process_id } } }));
check(found.data.length === 1 && found.data[0].item_id === "greeting", found);
check(typeof job.receipt === "string", job);
const taken = data(
  await client.POST("/api/v1/processes/{process_id}/results/ack", {
    params: { path: { process_id: made.process_id } },
    body: { receipts: [job.receipt] },
  }),
);
check(taken.consumed === 1, taken);
const gone = await client.GET("/api/v1/jobs/{job_id}", { params: { path } });
check(gone.error?.status === 404, gone.data);

// JSON lines in and out.
const prompts = Array.from({ length: 50 }, (_, at) => JSON.stringify({ id: `a-${at}`, prompt: `Name the river number ${at}.` }));
const created = data(
  await client.POST("/api/v1/processes", {
    params: { query: { type: "completion", name: "rivers" } },
    body: prompts.join("\n"),
    headers: { "content-type": "application/jsonl" },
    bodySerializer: (lines) => lines,
  }),
);
check(created.total === 50, created);
const of = { process_id: created.process_id };
const results: ResultLine[] = [];
while (results.length < 50) {
  const query = results.length ? { after: results[results.length - 1].job_id } : {};
  const reply = await client.GET("/api/v1/processes/{process_id}/results", { params: { path: of, query }, parseAs: "stream" });
  let rest = "";
  const text = new TextDecoder();
  for await (const piece of data(reply) as unknown as AsyncIterable<Uint8Array>) {
    const lines = (rest + text.decode(piece, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    results.push(...lines.map((line) => JSON.parse(line) as ResultLine));
  }
}
check(results.every((one, at) => one.id === `a-${at}` && one.success === true), results);
const whole = data(await client.GET("/api/v1/processes/{process_id}", { params: { path: of } }));
check(whole.state === "finished" && whole.completed === 50, whole);
const listed = data(await client.GET("/api/v1/processes", { params: { query: { state: "finished" } } }));
check(listed.data.some((one) => one.process_id === created.process_id), listed);
const receipts = results.map((one) => one.receipt);
const consumed = data(await client.POST("/api/v1/processes/{process_id}/results/ack", { params: { path: of }, body: { receipts } }));
check(consumed.consumed === 50, consumed);

// The server and its settings.
const ready = data(await client.GET("/readyz"));
check(ready.status === "ok", ready);
const key = "llm.sync_concurrency" as const;
const setting = data(await client.PUT("/api/v1/config/{key}", { params: { path: { key } }, body: { value: "8" } }));
check(setting.stored === "8", setting);
console.log("ok  openapi-typescript");
