// OpenAI's own client for Node at a slow provider: a retry gets the answer of the first attempt, which is bought once.
//
//     retry.mjs http://SERVER http://PROVIDER
import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const [server, provider] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: "unused", timeout: 1500, maxRetries: 2 });
const bought = async () => (await (await fetch(`${provider}/_sim/stats`)).json()).calls;

const before = await bought();
const question = { model: "sim-1", messages: [{ role: "user", content: "Retried by Node." }] };
const answers = await Promise.all([1, 2].map(() => client.chat.completions.create(question)));
assert(answers.every((answer) => answer.choices[0].message.content));
assert.notEqual(answers[0].id, answers[1].id);
assert.equal((await bought()) - before, 2);

console.log(`openai ${VERSION} for Node: retries join`);
