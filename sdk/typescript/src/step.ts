/** What a step is: a name, a version, and a function over records. */

import type { Json, Row } from "./json.js";

/** A row that does not go on, and why. `row` is its index in the request; `code` is lower case with underscores. */
export interface Reject {
  row: number;
  field: string | null;
  code: string;
  value?: Json;
}

/** What a step makes of records. `rows` tells of which row each was made; needed when it neither keeps nor rejects. */
export interface Output {
  records: Row[];
  rejects?: Reject[];
  rows?: number[];
}

/** What a step may know besides its records: `signal` is aborted when nobody waits for the answer any more. */
export interface Context {
  signal: AbortSignal;
}

/** A step. The same records and config must give the same output; change `version` when they would not. */
export interface Step<C = Row> {
  /** A lower-case letter, then up to 62 lower-case letters, digits and underscores. */
  key: string;
  /** Names all that has an influence on the output: code, libraries, data. Up to 100 characters, no blanks. */
  version: string;
  summary: string;
  /** JSON Schema (2020-12) of the config, of type "object", without references to other documents. */
  configSchema: { type: "object"; [keyword: string]: unknown };
  /** The step needs a batch as a whole; otherwise each row is for itself, and large batches come in parts. */
  whole?: boolean;
  /** The step does something outside of its output; its results are then never used again for another run. */
  hasEffects?: boolean;
  run(records: Row[], config: C, context: Context): Output | Promise<Output>;
}

/** The step cannot do these records; the run fails with the code and the message. */
export class StepError extends Error {
  constructor(
    message: string,
    readonly code: string = "step_error",
    readonly retryable: boolean = false,
  ) {
    super(message);
    this.name = "StepError";
  }
}

/** In place of a row: why it does not go on. */
export class Rejected {
  constructor(
    readonly field: string | null,
    readonly code: string,
    readonly value: Json = null,
  ) {}
}

/** The `run` of a step that looks at one row at a time, from a function that gives a row or a `Rejected`. */
export function perRow<C>(map: (row: Row, config: C) => Row | Rejected): Step<C>["run"] {
  return (records, config) => {
    const output = { records: [] as Row[], rejects: [] as Reject[] };
    records.forEach((record, row) => {
      const made = map(record, config);
      if (made instanceof Rejected) {
        output.rejects.push({ row, field: made.field, code: made.code, value: made.value });
      } else {
        output.records.push(made);
      }
    });
    return output;
  };
}
