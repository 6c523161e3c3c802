// OpenAI's own client for Node against a server of ours: its documented batch example, with another base URL.
//
//     batch.mjs http://127.0.0.1:PORT

import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused" });
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "sdk-"));

function write(name, count) {
  const file = path.join(folder, name);
  const line = (n) => {
    const messages = [{ role: "user", content: `Hello from Node ${n}!` }];
    const body = { model: "sim-1", messages };
    return JSON.stringify({ custom_id: `request-${n}`, method: "POST", url: "/v1/chat/completions", body });
  };
  fs.writeFileSync(file, Array.from({ length: count }, (_, n) => line(n) + "\n").join(""));
  return file;
}

async function start(name) {
  const file = await client.files.create({ file: fs.createReadStream(name), purpose: "batch" });
  return client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
    metadata: { from: "node" },
  });
}

async function wait(batch) {
  const until = Date.now() + 60_000;
  while (["validating", "in_progress", "finalizing", "cancelling"].includes(batch.status)) {
    assert(Date.now() < until, JSON.stringify(batch));
    await sleep(100);
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function lines(file) {
  const text = await (await client.files.content(file)).text();
  return text.trimEnd().split("\n").map((line) => JSON.parse(line));
}

async function all(pages) {
  const items = [];
  for await (const item of pages) items.push(item.id);
  return items;
}

// Upload, create, poll, download; with an error file, as one prompt in ten is refused.
const batch = await wait(await start(write("batchinput.jsonl", 100)));
assert.equal(batch.status, "completed");
const [output, errors] = [await lines(batch.output_file_id), await lines(batch.error_file_id)];
assert.equal(new Set([...output, ...errors].map((line) => line.custom_id)).size, 100);
assert.deepEqual(batch.request_counts, { total: 100, completed: output.length, failed: errors.length });
assert(output.every((line) => line.response.body.choices[0].message.content));
assert.deepEqual(batch.metadata, { from: "node" });

// Cancel, and lists with pages.
const cancelled = await wait(await client.batches.cancel((await start(write("large.jsonl", 5000))).id));
assert.equal(cancelled.status, "cancelled");
const listed = await all(client.batches.list({ limit: 1 }));
assert.deepEqual(listed.slice(0, 2), [cancelled.id, batch.id]);
assert((await all(client.files.list({ limit: 1, purpose: "batch_output" }))).includes(batch.output_file_id));
assert((await client.files.delete(batch.input_file_id)).deleted);
await assert.rejects(client.files.retrieve(batch.input_file_id), OpenAI.NotFoundError);

// Requests whose caller waits.
const question = { model: "sim-1", messages: [{ role: "user", content: "Hello!" }] };
const completion = await client.chat.completions.create(question);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(streamed, completion.choices[0].message.content);
const vectors = await client.embeddings.create({ model: "sim-1", input: ["one", "two"] });
assert.equal(vectors.data.length, 2);
assert(vectors.data[0].embedding.length > 0);
assert.deepEqual(await all(client.models.list()), ["sim-1"]);

await assert.rejects(client.moderations.create({ input: "x" }), OpenAI.NotFoundError);

fs.rmSync(folder, { recursive: true });
console.log(`openai ${VERSION} for Node: ${output.length} answers, ${errors.length} errors, all as documented`);
