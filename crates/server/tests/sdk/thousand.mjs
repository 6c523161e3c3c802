// OpenAI's own client for Node, as it is by default: 1,000 calls at once, each answered and bought once.
//
//     thousand.mjs http://SERVER http://PROVIDER SERVER_PID
import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const [server, provider, pid] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: "unused" });
const calls = 1_000;
const atOnce = 16;
const stats = async () => (await fetch(`${provider}/_sim/stats`)).json();
// The most memory that the server has taken so far, in MiB.
const peak = () => {
  try {
    return Math.floor(fs.readFileSync(`/proc/${pid}/status`, "utf8").match(/VmHWM:\s*(\d+)/)[1] / 1024);
  } catch {
    return null;
  }
};

const before = (await stats()).calls;
const began = performance.now();
const ask = (_, number) =>
  client.chat.completions.create({
    model: "sim-1",
    messages: [{ role: "user", content: `Question ${number} of Node.` }],
  });
const answers = await Promise.all(Array.from({ length: calls }, ask));
const took = (performance.now() - began) / 1000;
const after = await stats();
assert.equal(new Set(answers.map((answer) => answer.id)).size, calls);
assert(answers.every((answer) => answer.choices[0].message.content));
assert.equal(after.calls - before, calls);
assert(after.max_in_flight <= atOnce, JSON.stringify(after));
console.log(
  `openai ${VERSION} for Node: ${calls.toLocaleString("en")} calls at once answered in ${took.toFixed(1)} s, ` +
    `${atOnce} at a time, each bought once; peak memory of the server: ${peak()} MiB`,
);
