/** JSON without loss: integers beyond 2^53 are read as `bigint`, and what JSON cannot hold is an error. */

import { isInteger, parse as parseLossless, stringify as stringifyLossless } from "lossless-json";

export type Json = null | boolean | number | bigint | string | Json[] | { [name: string]: Json };

/** One row: a JSON object. */
export type Row = { [name: string]: Json };

/** Parse JSON. Throws a SyntaxError. */
export function parse(text: string): Json {
  return parseLossless(text, null, { parseNumber: numberOf }) as Json;
}

/** Write JSON. Throws a TypeError for NaN, infinities, and what has no JSON, such as functions. */
export function stringify(value: unknown): string {
  const text = stringifyLossless(value, null, undefined, [{ test: isNumber, stringify: numberText }]);
  if (text === undefined) throw new TypeError(`${String(value)} has no JSON`);
  return text;
}

function numberOf(text: string): number | bigint {
  if (!isInteger(text)) return Number(text);
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : BigInt(text);
}

function isNumber(value: unknown): value is number {
  return typeof value === "number";
}

/** A large float is written as one: with digits only, it would be an integer that 64 bits cannot hold. */
function numberText(value: unknown): string {
  const number = value as number;
  if (!Number.isFinite(number)) throw new TypeError(`JSON has no ${number}`);
  return Number.isInteger(number) && !Number.isSafeInteger(number) ? number.toExponential() : String(number);
}
