// OpenAI's own SDK for Node, as it is, against a live service. Run by ../test_openai_node.py.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const { SERVICE, KEY, SLOW_KEY } = process.env;
const model = "smollm2-135m";
const messages = [{ role: "user", content: "What is the capital of England?" }];
const connect = (apiKey, maxRetries = 5) => new OpenAI({ baseURL: SERVICE, apiKey, maxRetries });
const client = connect(KEY);

test("models", async () => {
  const names = [];
  for await (const found of client.models.list()) names.push(found.id);
  assert.deepEqual(names, [model]);
  assert.equal((await client.models.retrieve(model)).object, "model");
});

test("chat, whole and streamed", async () => {
  const asked = { model, messages, temperature: 0 };
  const whole = await client.chat.completions.create(asked);
  assert.equal(whole.choices[0].message.content, "The capital of England is London.");
  let streamed = "";
  let usage = null;
  for await (const chunk of await client.chat.completions.create({
    ...asked,
    stream: true,
    stream_options: { include_usage: true },
  })) {
    streamed += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(streamed, whole.choices[0].message.content);
  assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);
});

test("completions, whole and streamed", async () => {
  const asked = { model, prompt: "One, two, three,", temperature: 0, max_tokens: 8 };
  const whole = await client.completions.create(asked);
  let streamed = "";
  for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
    streamed += chunk.choices[0].text;
  }
  assert.notEqual(streamed, "");
  assert.equal(streamed, whole.choices[0].text);
});

test("logprobs, n, stop, seed", async () => {
  const asked = { model, messages, temperature: 0, logprobs: true, top_logprobs: 2 };
  const { choices } = await client.chat.completions.create(asked);
  const tokens = choices[0].logprobs.content;
  assert.equal(tokens.map((each) => each.token).join(""), choices[0].message.content);
  const three = async () => {
    const drawn = { model, messages, temperature: 1, seed: 7, n: 3, max_tokens: 12 };
    return (await client.chat.completions.create(drawn)).choices.map((c) => c.message.content);
  };
  assert.deepEqual(await three(), await three());
  const stopped = await client.chat.completions.create({
    model, messages, temperature: 0, stop: " is",
  });
  assert.equal(stopped.choices[0].message.content, "The capital of England");
});

test("json_schema is parsed", async () => {
  const City = z.object({ name: z.enum(["London", "Rome"]), isCapital: z.boolean() });
  const parsed = await client.chat.completions.parse({
    model, messages, temperature: 0, response_format: zodResponseFormat(City, "city"),
  });
  City.parse(parsed.choices[0].message.parsed);
});

test("errors are the SDK's own", async () => {
  const ask = (who, more) => who.chat.completions.create({ model, messages, max_tokens: 1, ...more });
  await assert.rejects(ask(connect("mv-wrong", 0)), OpenAI.AuthenticationError);
  await assert.rejects(ask(client, { model: "gpt-5" }), OpenAI.NotFoundError);
  await assert.rejects(ask(client, { temperature: 3 }), OpenAI.BadRequestError);
  const slow = connect(SLOW_KEY, 0);
  await assert.rejects(async () => {
    for (let i = 0; i < 3; i += 1) await ask(slow);
  }, OpenAI.RateLimitError);
});

test("a background response is cancelled", async () => {
  const { id } = await client.responses.create({
    model, input: "Tell me a long story.", background: true, max_output_tokens: 1000,
  });
  let { status } = await client.responses.cancel(id);
  for (let tries = 0; status !== "cancelled" && tries < 200; tries += 1) {
    await new Promise((resume) => setTimeout(resume, 100));
    ({ status } = await client.responses.retrieve(id));
  }
  assert.equal(status, "cancelled");
});

test("a background response is resumed across kills", async () => {
  const asked = {
    model, input: "Tell me a long story about a fox.", temperature: 0, max_output_tokens: 160,
  };
  const undisturbed = (await client.responses.create(asked)).output_text;
  const seen = [];
  const stream = await client.responses.create({ ...asked, background: true, stream: true });
  for await (const event of stream) {
    seen.push(event);
    if (seen.length === 25) break;
  }
  await killed();
  const { id } = seen[0].response;
  const last = seen.at(-1).sequence_number;
  const rest = await client.responses.retrieve(id, { stream: true, starting_after: last });
  for await (const event of rest) seen.push(event);
  assert.deepEqual(seen.map((e) => e.sequence_number), [...seen.keys()]);
  const deltas = seen.filter((e) => e.type === "response.output_text.delta");
  assert.equal(deltas.map((e) => e.delta).join(""), undisturbed);
});

// Whoever runs this kills worker and API on request, and answers with a line.
function killed() {
  process.stdout.write("KILL\n");
  return new Promise((resume) => {
    process.stdin.once("data", () => {
      process.stdin.pause();
      resume();
    });
  });
}
