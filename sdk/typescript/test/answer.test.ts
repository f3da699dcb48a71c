import assert from "node:assert/strict";
import { test } from "node:test";

import { initials } from "../examples/initials.js";
import { answer, MESSAGE_MAX_BYTES, parse, StepError, stringify, type Output, type Row, type Step } from "../src/index.js";
import { loginOf } from "../src/worker.js";

const step = (run: Step["run"]): Step => ({
  key: "tried",
  version: "1",
  summary: "A step.",
  configSchema: { type: "object" },
  run,
});

async function asked(served: Step<never>, changes: object = {}): Promise<Record<string, unknown> | null> {
  const request = { protocol: 1, step: served.key, version: "1", config: {}, records: [], deadline_ms: 5000, ...changes };
  const body = await answer(served, new TextEncoder().encode(stringify(request)));
  return body && (parse(new TextDecoder().decode(body)) as Row);
}

const error = async (served: Step<never>, changes: object = {}): Promise<{ code: string; retryable: boolean }> =>
  (await asked(served, changes))?.["error"] as { code: string; retryable: boolean };

test("the example gives initials, keeps null, and rejects what is no text", async () => {
  const records = [{ name: "Ada King Lovelace" }, { name: null }, { name: 7 }, { name: "  😀 smile " }, {}];
  assert.deepEqual(await asked(initials, { config: { field: "name", into: "i" }, records }), {
    records: [{ name: "Ada King Lovelace", i: "AKL" }, { name: null, i: null }, { name: "  😀 smile ", i: "😀s" }, { i: null }],
    rejects: [{ row: 2, field: "name", code: "not_text", value: 7 }],
  });
});

test("values come back as they went in", async () => {
  const text = '{"big":9223372036854775807,"small":-9223372036854775808,"float":0.1,"huge":1e+20,"__proto__":{"a":[null,true]},"t":"\\u0000 \\"é\\ud83d\\ude00"}';
  const same = step((records) => ({ records }));
  const made = (await asked(same, { records: [parse(text)] })) as unknown as Output;
  const again = stringify(made.records[0]);
  assert.deepEqual(parse(again), parse(text));
  assert.match(again, /"big":9223372036854775807,"small":-9223372036854775808/);
  assert.match(again, /"huge":1e\+20/, "a float stays one: as digits it would be an integer beyond 64 bits");
});

test("what JSON has not is an error", async () => {
  assert.throws(() => stringify({ a: Number.NaN }), TypeError);
  assert.throws(() => stringify(undefined), TypeError);
  const code = (await error(step(() => ({ records: [{ a: Number.POSITIVE_INFINITY }] })))).code;
  assert.equal(code, "step_exception");
});

test("errors say whether it is worth to try again", async () => {
  const failing = (thrown: unknown): Step => step(() => Promise.reject(thrown));
  assert.deepEqual(await error(failing(new StepError("No.", "refused"))), { code: "refused", message: "No.", retryable: false });
  assert.equal((await error(failing(new StepError("Busy.", "busy", true)))).retryable, true);
  assert.deepEqual(await error(failing(new RangeError("x"))), { code: "step_exception", message: "x", retryable: true });
});

test("a request for another version or protocol is not run", async () => {
  const never = step(() => assert.fail("it was run"));
  assert.deepEqual(await error(never, { version: "2" }).then(({ code, retryable }) => [code, retryable]), ["version_mismatch", true]);
  assert.equal((await error(never, { step: "other" })).code, "version_mismatch");
  assert.equal((await error(never, { protocol: 2 })).code, "protocol_unknown");
});

test("garbage is answered with an error", async () => {
  for (const bytes of [new Uint8Array(), new Uint8Array([0xff, 0xfe]), new TextEncoder().encode("[1,")]) {
    const body = await answer(step((records) => ({ records })), bytes);
    assert.equal((JSON.parse(new TextDecoder().decode(body!)) as { error: { code: string } }).error.code, "step_exception");
  }
});

test("an answer that is too long is an error, and one that is too late is none", async () => {
  const long = step(() => ({ records: [{ a: "x".repeat(MESSAGE_MAX_BYTES) }] }));
  assert.equal((await error(long)).code, "answer_too_large");
  const late = step(
    (records, _config, { signal }) =>
      new Promise((resolve) => signal.addEventListener("abort", () => resolve({ records }), { once: true })),
  );
  assert.equal(await asked(late, { deadline_ms: 1 }), null);
});

test("the login of a URL", () => {
  const url = "nats://remote-worker:p%40ss@a:4222, nats://remote-worker:p%40ss@b:4222";
  assert.deepEqual(loginOf(url), { servers: ["nats://a:4222", "nats://b:4222"], user: "remote-worker", password: "p@ss" });
  assert.throws(() => loginOf("nats://a:4222"), /user and a password/);
  assert.throws(() => loginOf("nats://a:b@a:4222,nats://a:c@b:4222"), /several logins/);
});
