/**
 * Verifies an export of data-engine-x's history offline: a second implementation of docs/audit-format.md.
 *
 *     node dist/verify.js EXPORT [--checkpoint FILE] [--key VERIFIER] [--previous FILE]…
 *
 * Prints a report as JSON; exit code 0 when everything holds, 1 when something does not, 2 when it cannot begin.
 */
import { createHash, createPublicKey, verify as verifySignature } from "node:crypto";
import { createReadStream, readFileSync, realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { createGunzip } from "node:zlib";

const FORMAT = "data-engine-x audit export 1";
const SELECTIONS = ["all", "range", "run", "submission", "company"];
const TILE = 256;
export type Finding = { kind: string; message: string; index: number | null; position: number | null };
export type Report = { ok: boolean; org_id: string; size: number; decisions: number; whole: boolean;
  signature_checked: boolean; finding: Finding | null };
type Checkpoint = { origin: string; size: number; root: Buffer }; type Verifier = { name: string; key: Buffer };
type Line = Record<string, any>;
class Found extends Error {
  constructor(readonly kind: string, message: string, readonly index: number | null = null,
              readonly position: number | null = null) { super(message); }
}
const sha256 = (...parts: (string | Buffer)[]): Buffer =>
  parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();
const node = (left: Buffer, right: Buffer): Buffer => sha256("\x01", left, right);
/** The bytes of a text that is exactly how they are written: no half surrogates, no base64 with bits left over. */
const bytesOf = (text: string, encoding: BufferEncoding): Buffer => {
  const bytes = Buffer.from(text, encoding);
  if (bytes.toString(encoding) !== text) throw new Error(`not ${encoding}`);
  return bytes;
};
const base64 = (text: string): Buffer => bytesOf(text, "base64");
const hashesOf = (all: Buffer): Buffer[] => Array.from({ length: all.length / 32 }, (_, i) => all.subarray(i * 32, i * 32 + 32));
/** The root over hashes of equal subtrees, of which the last may be smaller (RFC 6962, 2.1). */
export function treeHash(hashes: Buffer[]): Buffer {
  let level = hashes.length ? hashes : [sha256("")];
  while (level.length > 1) {
    const below = level;
    const pair = (at: number): Buffer => at + 1 < below.length ? node(below[at]!, below[at + 1]!) : below[at]!;
    level = Array.from({ length: Math.ceil(below.length / 2) }, (_, at) => pair(2 * at));
  }
  return level[0]!;
}

/** Goes up from leaf `at` to the root, as RFC 9162 verifies proofs (2.1.3.2, 2.1.4.2); whether the length was right. */
function climb(at: number, last: number, path: Buffer[], left: (hash: Buffer) => void,
               right: (hash: Buffer) => void): boolean {
  const up = (): void => { [at, last] = [Math.floor(at / 2), Math.floor(last / 2)]; };
  for (const sibling of path) {
    if (last === 0) return false;
    if (at % 2 || at === last) {
      left(sibling);
      while (at % 2 === 0 && at !== 0) up();
    } else right(sibling);
    up();
  }
  return last === 0;
}

/** The root that an inclusion proof leads to; throws for a proof of another length. */
export function rootOfInclusion(index: number, size: number, leaf: Buffer, path: Buffer[]): Buffer {
  let root = leaf;
  if (!climb(index, size - 1, path, (hash) => { root = node(hash, root); }, (hash) => { root = node(root, hash); }))
    throw new Error("the proof has another length");
  return root;
}

/** Whether a consistency proof holds. */
export function isConsistent(oldSize: number, size: number, oldRoot: Buffer, root: Buffer, path: Buffer[]): boolean {
  if (oldSize === 0 || oldSize >= size)
    return !path.length && oldSize <= size && oldRoot.equals(oldSize ? root : sha256(""));
  let [at, last] = [oldSize - 1, size - 1];
  while (at % 2) [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
  const [first, ...rest] = at === 0 ? [oldRoot, ...path] : path;
  if (!first) return false;
  let [older, newer] = [first, first];
  return climb(at, last, rest, (hash) => { [older, newer] = [node(hash, older), node(hash, newer)]; },
               (hash) => { newer = node(newer, hash); }) && older.equals(oldRoot) && newer.equals(root);
}
const keyId = (name: string, key: Buffer): Buffer => sha256(name, "\n\x01", key).subarray(0, 4);

/** A public key as `dex audit key` prints it: <name>+<key id>+<base64 of 0x01 and the key>. */
export function parseVerifier(text: string): Verifier {
  const [, name, id, encoded] = /^([^+\s]+)\+([0-9a-f]{8})\+(\S+)$/.exec(text.trim()) ?? [];
  const bytes = base64(encoded ?? "");
  const key = bytes.subarray(1);
  if (!name || bytes[0] !== 1 || key.length !== 32 || keyId(name, key).toString("hex") !== id)
    throw new Error("This is no verifier of an Ed25519 key.");
  return { name, key };
}

/** The checkpoint of a signed note (C2SP tlog-checkpoint); with a verifier, its signature must hold. */
export function openCheckpoint(note: string, verifier: Verifier | null): Checkpoint {
  const end = note.lastIndexOf("\n\n");
  const [text, signatures] = [note.slice(0, end + 1), note.slice(end + 2)];
  const [origin, size, root] = text.split("\n");
  if (end < 0 || !signatures.endsWith("\n") || !origin || !/^(0|[1-9][0-9]*)$/.test(size ?? ""))
    throw new Found("checkpoint", "This is no checkpoint.");
  if (verifier) {
    if (![origin, origin.slice(0, origin.lastIndexOf("/"))].includes(verifier.name))
      throw new Found("signature", `The checkpoint is of ${origin}, and the key is of ${verifier.name}.`);
    const id = keyId(origin, verifier.key);
    const own = signatures.trimEnd().split("\n").map((line) => /^— (\S+) (\S+)$/.exec(line))
      .find((parts) => parts?.[1] === origin && base64(parts[2]!).subarray(0, 4).equals(id));
    const jwk = { kty: "OKP", crv: "Ed25519", x: verifier.key.toString("base64url") };
    const key = createPublicKey({ key: jwk, format: "jwk" });
    if (!own || !verifySignature(null, Buffer.from(text), key, base64(own[2]!).subarray(4)))
      throw new Found("signature", `${verifier.name} has not signed the checkpoint.`);
  }
  return { origin, size: Number(size), root: base64(root ?? "") };
}
const leafHash = (line: Line): Buffer => {
  if (!Number.isSafeInteger(line.position) || line.subject.includes("\n") || "body" in line === "body64" in line)
    throw new Error("a decision has an integer below 2^53 as position, a subject without line feed, and one body");
  const body = "body" in line ? bytesOf(line.body, "utf8") : base64(line.body64);
  return sha256("\x00", `${line.position}\n`, bytesOf(line.subject, "utf8"), "\n", body);
};
/** Whether salt and text are those that the proved body binds by its field `sealed`. */
const isOpened = (line: Line): boolean => {
  const salt = base64(line.opened.salt);
  const sealed = sha256(salt, bytesOf(line.opened.text, "utf8")).toString("hex");
  return salt.length === 32 && sealed === JSON.parse(line.body).sealed;
};
/** One line: an object, written as JSON.stringify does, so that no two readers see something else in it. */
const parsed = (text: string): Line => {
  const line = JSON.parse(text);
  if (line?.constructor === Object && JSON.stringify(line) === text) return line;
  throw new Error("not an object in compact JSON");
};

/** The state of one pass over the lines. */
class Verification {
  private own: Checkpoint = { origin: "", size: 0, root: Buffer.alloc(0) };
  private prefix = ""; private selection: Line = {}; private complete = false; private end = 0; private ended = false;
  private next = 0; private position = 0; private tile = -1; private hashes: Buffer[] = [];
  private known: Checkpoint[] = []; private agreed = 0; private roots: Buffer[] = [];
  private versions = new Map<string, number>();
  private held: { line: Line; leaf: Buffer; following: Buffer[] } | null = null;

  constructor(private readonly report: Report, private readonly verifier: Verifier | null,
              private readonly notes: string[]) {}
  /** The next line; undefined at the end of the file. */
  take(line: Line | undefined): void {
    if (this.held && line && "index" in line && this.held.following.length < 2 * TILE)
      return void this.held.following.push(leafHash(line));
    if (this.held) this.explain(this.held.line, this.held.leaf, this.held.following);
    if (!line && this.ended) return;
    if (!line) throw new Found(this.prefix ? "truncated" : "malformed", "The export breaks off.", this.prefix ? this.next : null);
    if (this.ended) throw new Found("malformed", "There is something after the end.");
    else if (!this.prefix) this.header(line);
    else if ("index" in line) this.decision(line);
    else if ("tile" in line) this.beginTile(line);
    else this.finish(line);
  }
  private header(line: Line): void {
    if (line.format !== FORMAT) throw new Found("malformed", "There is no header.");
    const own = this.own = openCheckpoint(line.checkpoint, this.verifier);
    const org = own.origin.slice(own.origin.lastIndexOf("/") + 1);
    Object.assign(this.report, { org_id: org, size: own.size, signature_checked: this.verifier !== null });
    if (line.org_id !== org) throw new Found("wrong_org", `The export is of ${line.org_id}.`);
    this.prefix = `events.${org}.`;
    this.selection = line.selection;
    this.complete = line.first_index !== null;
    if (this.complete) {
      [this.next, this.end] = [line.first_index, line.end_index];
      if (!(0 <= this.next && this.next <= this.end && this.end <= own.size)) throw new Error("no such indexes");
      this.report.whole = this.next === 0 && this.end === own.size;
    }
    if (!SELECTIONS.includes(this.selection.kind)) throw new Error("no such selection");
    if (this.selection.kind === "all" && !this.report.whole)
      throw new Found("truncated", "The export does not have all that it says.", line.end_index);
    this.known = this.notes.map((note) => openCheckpoint(note, this.verifier)).sort((a, b) => a.size - b.size);
    const proofs = new Map<number, Buffer[]>(line.consistency.map((c: Line) => [c.size, c.path.map(base64)]));
    for (const known of this.known) {
      if (known.origin !== own.origin) throw new Found("checkpoint", `A checkpoint is of ${known.origin}.`);
      if (known.size > own.size)
        throw new Found("truncated", `There were ${known.size} decisions already, not ${own.size}.`, own.size);
    }
    for (const known of this.report.whole ? [] : this.known) {
      const path = proofs.get(known.size) ?? (0 < known.size && known.size < own.size ? undefined : []);
      if (!path) throw new Found("checkpoint", `There is no consistency proof from size ${known.size}.`);
      if (!isConsistent(known.size, own.size, known.root, own.root, path)) this.rewritten(known);
      this.agreed = known.size;
    }
  }
  private beginTile(line: Line): void {
    const [tile, bytes, expected] = [line.tile as number, base64(line.hashes), Math.floor(this.next / TILE)];
    const [first, tiles] = [tile * TILE, Math.ceil(this.own.size / TILE)];
    if (this.complete && ((this.next % TILE && this.tile >= 0) || tile > expected)) this.removed();
    if (tile <= this.tile || tile < expected) throw new Found("reordered", `Tile ${tile} is late.`, first);
    if (tile >= tiles || bytes.length !== Math.min(TILE, this.own.size - first) * 32) throw new Error("no such tile");
    const hashes = hashesOf(bytes);
    const root = treeHash(hashes);
    if (!rootOfInclusion(tile, tiles, root, line.path.map(base64)).equals(this.own.root))
      throw new Found("proof", `The hashes from index ${first} do not lead to the checkpoint's root.`, first);
    [this.tile, this.hashes] = [tile, hashes];
    if (!this.report.whole) return;
    for (let known = this.known[0]; known && known.size <= first + hashes.length; known = this.known[0]) {
      const rest = known.size > first ? [treeHash(hashes.slice(0, known.size - first))] : [];
      if (!treeHash([...this.roots, ...rest]).equals(known.root)) this.rewritten(known);
      this.agreed = this.known.shift()!.size;
    }
    this.roots.push(root);
  }
  private decision(line: Line): void {
    const leaf = leafHash(line);
    const expected = this.complete ? this.next : line.index;
    const fits = line.index === expected && Number.isInteger(expected) && expected >= this.next
      && Math.floor(expected / TILE) === this.tile && this.hashes[expected % TILE]?.equals(leaf)
      && line.subject.startsWith(this.prefix);
    if (!fits) return void (this.held = { line, leaf, following: [] });
    if (["run", "submission"].includes(this.selection.kind) && !this.complete) this.checkHistory(line);
    if ("opened" in line && !isOpened(line))
      throw new Found("opening", `Position ${line.position}: not what was sealed.`, line.index, line.position);
    [this.next, this.position] = [expected + 1, line.position];
    this.report.decisions += 1;
  }
  private checkHistory(line: Line): void {
    const [, , kind, id, version] = line.subject.split(".");
    const expected = (this.versions.get(`${kind} ${id}`) ?? 0) + 1;
    if (this.selection.kind === "run" && id !== this.selection.run_id)
      throw new Found("inserted", `${kind} ${id} is not the run.`, line.index, line.position);
    if (Number(version) !== expected) throw new Found("removed", `Version ${expected} of ${kind} ${id} is missing.`);
    this.versions.set(`${kind} ${id}`, expected);
  }
  private finish(line: Line): void {
    if (line.end !== true || line.decisions !== this.report.decisions) throw new Error("not the end");
    if (this.complete && this.next !== this.end) this.removed();
    this.ended = true;
  }
  private explain(line: Line, leaf: Buffer, following: Buffer[]): never {
    const wanted: number = this.complete ? this.next : line.index;
    const at = (kind: string, index: number | null = wanted): never => {
      throw new Found(kind, `The decision at position ${line.position}: ${kind}.`, index, line.position);
    };
    if (!line.subject.startsWith(this.prefix)) at("wrong_org", line.index);
    if (line.index === null) at("inserted", null);
    const first = this.tile * TILE;
    if (wanted < first || wanted >= first + this.hashes.length || this.tile < 0) {
      if (!this.complete && wanted >= this.next) throw new Found("malformed", "The hashes are missing.");
      at("inserted");
    }
    const [place, expected] = [this.hashes.findIndex((hash) => hash.equals(leaf)), this.hashes[wanted - first]!];
    const later = following.some((hash) => hash.equals(expected));
    if (place < 0 && !later) at("altered");
    if (place < 0 || first + place < this.next) at("inserted");
    if (first + place === wanted) at("altered", wanted);
    if (later || !this.complete) at("reordered");
    return this.removed(line.position);
  }
  private removed(before: number | null = null): never {
    const position = before !== null && before === this.position + 2 ? this.position + 1 : null;
    throw new Found("removed", `The decision of index ${this.next} was removed.`, this.next, position);
  }
  private rewritten(known: Checkpoint): never {
    throw new Found("rewritten", `The history is not that of the checkpoint of size ${known.size}.`, this.agreed);
  }
}

/** Verify the lines of an export against checkpoints that are trusted, and a key whose signatures are. */
export async function verifyExport(lines: AsyncIterable<string> | Iterable<string>, notes: string[],
                                   verifier: Verifier | null): Promise<Report> {
  const report: Report = { ok: false, org_id: "", size: 0, decisions: 0, whole: false, signature_checked: false,
    finding: null };
  try {
    const pass = new Verification(report, verifier, notes);
    for await (const line of lines) pass.take(parsed(line));
    pass.take(undefined);
  } catch (error) {
    const { kind, message, index, position } = error instanceof Found ? error : new Found("malformed", String(error));
    report.finding = { kind, message, index, position };
  }
  return { ...report, ok: report.finding === null };
}

/** Split at LF alone: node's own readline takes U+2028, which may stand in a text, for the end of a line too. */
async function* linesOf(input: AsyncIterable<Buffer>): AsyncIterable<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let rest = Buffer.alloc(0);
  for await (const chunk of input) {
    rest = Buffer.concat([rest, chunk]);
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      yield decoder.decode(rest.subarray(0, end));
      rest = rest.subarray(end + 1);
    }
  }
  if (rest.length) yield decoder.decode(rest);
}

async function main(args: string[]): Promise<number> {
  const [file, ...options] = args;
  const given = (name: string): string[] => options.filter((_, at) => options[at - 1] === name);
  const notes = [...given("--checkpoint"), ...given("--previous")].map((path) => readFileSync(path, "utf8"));
  const key = given("--key")[0];
  if (!file || (!notes.length && !key)) throw new Error("verify EXPORT [--checkpoint FILE] [--key VERIFIER]");
  const input = file.endsWith(".gz") ? createReadStream(file).pipe(createGunzip()) : createReadStream(file);
  const report = await verifyExport(linesOf(input), notes, key ? parseVerifier(key) : null);
  console.log(JSON.stringify(report, null, 2));
  return report.ok ? 0 : 1;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  main(process.argv.slice(2)).then((code) => process.exit(code), (error) => {
    console.error(String(error.message ?? error));
    process.exit(2);
  });
