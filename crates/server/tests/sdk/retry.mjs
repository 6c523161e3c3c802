// OpenAI's own client for Node at a slow provider: a retry gets the answer of the first attempt, which is bought once,
// and the pieces of a stream arrive while the provider still writes.
//
//     retry.mjs http://SERVER http://PROVIDER
import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const [server, provider] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: "unused", timeout: 1500, maxRetries: 2 });
const patient = client.withOptions({ timeout: 60_000, maxRetries: 0 });
const stats = async () => (await fetch(`${provider}/_sim/stats`)).json();
const bought = async () => (await stats()).calls;

const before = await bought();
const question = { model: "sim-1", messages: [{ role: "user", content: "Retried by Node." }] };
const answers = await Promise.all([1, 2].map(() => client.chat.completions.create(question)));
assert(answers.every((answer) => answer.choices[0].message.content));
assert.notEqual(answers[0].id, answers[1].id);
assert.equal((await bought()) - before, 2);

// The provider ends its answer after the first piece has arrived here.
const streams = (action) => fetch(`${provider}/_sim/${action}-streams`, { method: "POST" });
await streams("hold");
const pieces = { model: "sim-1", messages: [{ role: "user", content: "Streamed to Node in pieces." }] };
let streamed = "";
for await (const chunk of await patient.chat.completions.create({ ...pieces, stream: true })) {
  const piece = chunk.choices[0]?.delta?.content ?? "";
  if (!streamed && piece) {
    assert.equal((await stats()).in_flight, 1, "the provider has ended its answer before its first piece arrived");
    await streams("release");
  }
  streamed += piece;
}
assert.equal(streamed, (await patient.chat.completions.create(pieces)).choices[0].message.content);
console.log(`openai ${VERSION} for Node: retries join, and pieces arrive as the provider writes them`);
