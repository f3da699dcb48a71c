/** From the bytes of a request to the bytes of its answer. Knows nothing of NATS. */

import { parse, stringify, type Row } from "./json.js";
import { StepError, type Step } from "./step.js";

export const PROTOCOL = 1;
export const MESSAGE_MAX_BYTES = 4 * 1024 * 1024;
const ERROR_TEXT_MAX = 2000;

interface Request {
  protocol: number;
  step: string;
  version: string;
  config: Row;
  records: Row[];
  deadline_ms: number;
}

/** Run a step as a request asks. Never throws: what goes wrong is the answer. Null: it came too late for one. */
export async function answer(step: Step<never>, body: Uint8Array): Promise<Uint8Array | null> {
  try {
    const request = requestOf(step, body);
    const signal = AbortSignal.timeout(request.deadline_ms);
    const output = await step.run(request.records, request.config as never, { signal });
    return signal.aborted ? null : encoded(output);
  } catch (error) {
    return encoded({ error: described(error) });
  }
}

function requestOf(step: Step<never>, body: Uint8Array): Request {
  const request = parse(new TextDecoder("utf-8", { fatal: true }).decode(body)) as unknown as Request;
  if (request.protocol !== PROTOCOL) {
    throw new StepError(`This worker speaks protocol ${PROTOCOL}, not ${request.protocol}.`, "protocol_unknown");
  }
  if (request.step !== step.key || request.version !== step.version) {
    const asked = `${request.step} ${request.version}`;
    throw new StepError(`This worker serves ${step.key} ${step.version}, not ${asked}.`, "version_mismatch", true);
  }
  return request;
}

function encoded(value: unknown): Uint8Array {
  const bytes = new TextEncoder().encode(stringify(value));
  if (bytes.length > MESSAGE_MAX_BYTES) {
    throw new StepError(
      `The answer has ${bytes.length} bytes and may have ${MESSAGE_MAX_BYTES}: submit smaller batches.`,
      "answer_too_large",
    );
  }
  return bytes;
}

function described(error: unknown): { code: string; message: string; retryable: boolean } {
  const message = (error instanceof Error ? error.message : String(error)).slice(0, ERROR_TEXT_MAX);
  if (error instanceof StepError) return { code: error.code, message, retryable: error.retryable };
  return { code: "step_exception", message, retryable: true };
}
