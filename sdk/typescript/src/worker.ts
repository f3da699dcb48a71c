/** The worker: connects, announces its steps, and answers requests until it is stopped. */

import { connect, type NatsConnection, type Subscription } from "@nats-io/transport-node";

import { answer, PROTOCOL } from "./answer.js";
import type { Step } from "./step.js";

const ANNOUNCE_EVERY_MS = 10_000;
const ANNOUNCE_TIMEOUT_MS = 5_000;
const RECONNECT_WAIT_MS = 1_000;

/** What happened, for a log: `event` is a name, the rest its details. */
export type Note = (event: string, details: Record<string, unknown>) => void;

export interface Options {
  /** `nats://remote-worker:password@host:4222`, or several with commas (`dex remote-url` prints it). */
  url: string;
  // each step has a config type of its own, which only its own `run` sees
  steps: Step<never>[];
  note?: Note;
}

/** Connect and serve. Resolves when every step was announced once; rejects when the server cannot be reached. */
export async function serve(options: Options): Promise<Worker> {
  const login = loginOf(options.url);
  const connection = await connect({
    servers: login.servers,
    user: login.user,
    pass: login.password,
    name: "data-engine-x-worker",
    // the place for answers that the server's permissions give to this user
    inboxPrefix: `_INBOX_${login.user}`,
    maxReconnectAttempts: -1,
    reconnectTimeWait: RECONNECT_WAIT_MS,
  });
  const worker = new Worker(connection, options.steps, options.note ?? (() => undefined));
  await worker.start();
  return worker;
}

export class Worker {
  readonly #connection: NatsConnection;
  readonly #served: Served[];
  readonly #note: Note;
  #timer: NodeJS.Timeout | undefined;

  constructor(connection: NatsConnection, steps: Step<never>[], note: Note) {
    this.#connection = connection;
    this.#served = steps.map((step) => new Served(connection, step, note));
    this.#note = note;
  }

  async start(): Promise<void> {
    await this.#announce();
    this.#timer = setInterval(() => void this.#announce(), ANNOUNCE_EVERY_MS);
    void this.#announceAfterReconnects();
  }

  /** Take no more requests, answer those at hand, and disconnect. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#served.map((served) => served.drain()));
    await this.#connection.drain();
  }

  async #announce(): Promise<void> {
    await Promise.all(this.#served.map((served) => served.announce()));
  }

  async #announceAfterReconnects(): Promise<void> {
    for await (const status of this.#connection.status()) {
      if (status.type === "error") this.#note("connection_error", { reason: String(status.error) });
      if (status.type === "reconnect") await this.#announce();
    }
  }
}

/** One step on one connection. */
class Served {
  readonly #connection: NatsConnection;
  readonly #step: Step<never>;
  readonly #note: Note;
  readonly #busy = new Set<Promise<void>>();
  #subscription: Subscription | undefined;
  #state = "";

  constructor(connection: NatsConnection, step: Step<never>, note: Note) {
    this.#connection = connection;
    this.#step = step;
    this.#note = note;
  }

  /** Subscribe before it is announced, so that there is somebody to ask; unsubscribe when it is refused. */
  async announce(): Promise<void> {
    if (this.#connection.isClosed() || this.#connection.isDraining()) return;
    this.#listen();
    const step = this.#step;
    const announcement = {
      protocol: PROTOCOL,
      key: step.key,
      version: step.version,
      summary: step.summary,
      config_schema: step.configSchema,
      whole: step.whole ?? false,
      has_effects: step.hasEffects ?? false,
    };
    try {
      const body = JSON.stringify(announcement);
      const reply = await this.#connection.request("steps.announce", body, { timeout: ANNOUNCE_TIMEOUT_MS });
      const said = reply.json<{ accepted?: boolean; error?: { code: string; message: string } }>();
      if (said.error === undefined) return this.#tell("accepted", {});
      if (said.error.code !== "unavailable") this.#unlisten();
      this.#tell("refused", said.error);
    } catch (error) {
      // nobody serves remote steps now, or the server is away: the next announcement may reach somebody
      this.#tell("unheard", { reason: String(error) });
    }
  }

  async drain(): Promise<void> {
    await this.#subscription?.drain();
    await Promise.all(this.#busy);
  }

  #listen(): void {
    this.#subscription ??= this.#connection.subscribe(`steps.remote.${this.#step.key}`, {
      queue: "workers",
      callback: (error, message) => {
        if (error !== null) return this.#note("subscription_error", { step: this.#step.key, reason: String(error) });
        const answering = answer(this.#step, message.data).then((body) => {
          if (body !== null) message.respond(body);
        });
        const done = answering.catch((failure: unknown) => {
          this.#note("not_answered", { step: this.#step.key, reason: String(failure) });
        });
        this.#busy.add(done);
        void done.finally(() => this.#busy.delete(done));
      },
    });
  }

  #unlisten(): void {
    this.#subscription?.unsubscribe();
    this.#subscription = undefined;
  }

  /** What changed since the last announcement; the same again is no news. */
  #tell(state: string, details: Record<string, unknown>): void {
    if (state !== this.#state) this.#note(state, { step: this.#step.key, version: this.#step.version, ...details });
    this.#state = state;
  }
}

/** The servers of a URL, or of several with commas, and the one login that all of them carry. */
export function loginOf(url: string): { servers: string[]; user: string; password: string } {
  const urls = url.split(",").map((one) => new URL(one.trim()));
  const first = urls[0];
  if (first === undefined || first.username === "" || first.password === "") {
    throw new Error("The NATS URL needs a user and a password: nats://remote-worker:password@host:4222");
  }
  if (urls.some((one) => one.username !== first.username || one.password !== first.password)) {
    throw new Error("The NATS URLs name several logins: give every server the same one");
  }
  return {
    servers: urls.map((one) => `${one.protocol}//${one.host}`),
    user: decodeURIComponent(first.username),
    password: decodeURIComponent(first.password),
  };
}
