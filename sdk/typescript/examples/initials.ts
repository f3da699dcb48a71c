/** A worker with one step. DATA_ENGINE_NATS_URL="$(dex remote-url)" node dist/examples/initials.js */

import { perRow, Rejected, serve, type Step } from "../src/index.js";

interface Config {
  field: string;
  into: string;
}

export const initials: Step<Config> = {
  key: "initials",
  version: "1",
  summary: "Writes the first letters of a name's words into a field.",
  configSchema: {
    type: "object",
    properties: {
      field: { type: "string", description: "The field with the name." },
      into: { type: "string", description: "The field that gets the initials." },
    },
    required: ["field", "into"],
    additionalProperties: false,
  },
  run: perRow<Config>((row, config) => {
    const name = row[config.field] ?? null;
    if (name === null) return { ...row, [config.into]: null };
    if (typeof name !== "string") return new Rejected(config.field, "not_text", name);
    const words = name.split(/\s+/u).filter((word) => word !== "");
    return { ...row, [config.into]: words.map((word) => String.fromCodePoint(word.codePointAt(0) ?? 0)).join("") };
  }),
};

const url = process.env["DATA_ENGINE_NATS_URL"];
if (url !== undefined) {
  const note = (event: string, details: object): void => console.log(JSON.stringify({ event, ...details }));
  const worker = await serve({ url, steps: [initials], note });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void worker.stop());
}
