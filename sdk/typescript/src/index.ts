export { answer, MESSAGE_MAX_BYTES, PROTOCOL } from "./answer.js";
export { parse, stringify, type Json, type Row } from "./json.js";
export { perRow, Rejected, StepError, type Context, type Output, type Reject, type Step } from "./step.js";
export { serve, Worker, type Note, type Options } from "./worker.js";
