/** Values of arguments and headers as RabbitMQ names, prints and compares them. */
import { types } from 'node:util';
import { Decimal, type FieldTable, type FieldValue, TypedField } from '../protocol/field-table.js';
import { preconditionFailed } from './broker-error.js';

const TYPES: Readonly<Record<string, string>> = {
  t: 'bool',
  b: 'byte',
  B: 'unsignedbyte',
  s: 'short',
  u: 'unsignedshort',
  I: 'signedint',
  i: 'unsignedint',
  l: 'long',
  L: 'long',
  f: 'float',
  d: 'double',
  D: 'decimal',
  S: 'longstr',
  x: 'binary',
  T: 'timestamp',
  A: 'array',
  F: 'table',
  V: 'void',
};

export function fieldTypeOfLetter(letter: string): string {
  return TYPES[letter] ?? 'undefined';
}

/** The width that an integer had on the wire is no longer known: it is the one that most clients choose. */
export function fieldTypeOf(value: FieldValue): string {
  switch (typeof value) {
    case 'boolean':
      return 'bool';
    case 'number':
      return !Number.isInteger(value) ? 'double' : (value | 0) === value ? 'signedint' : 'long';
    case 'bigint':
      return 'long';
    case 'string':
      return 'longstr';
    default:
      break;
  }
  if (value === null) return 'void';
  if (Array.isArray(value)) return 'array';
  if (types.isUint8Array(value)) return 'binary';
  if (types.isDate(value)) return 'timestamp';
  if (value instanceof Decimal) return 'decimal';
  if (value instanceof TypedField) return fieldTypeOfLetter(value.tag);
  return 'table';
}

/** As it stands in an error. */
export function printed(value: FieldValue): string {
  if (typeof value === 'string') return value;
  if (types.isUint8Array(value)) return Buffer.from(value).toString();
  return typeof value === 'object' ? printedTerm(value) : String(value);
}

/** What is no plain value, roughly as Erlang prints it. */
function printedTerm(value: object | null): string {
  if (value === null) return 'undefined';
  if (types.isDate(value)) return String(value.getTime() / 1000);
  if (value instanceof TypedField) return String(value.value);
  if (value instanceof Decimal) return `{${value.scale},${value.unscaled}}`;
  return JSON.stringify(value, (_name, item: unknown) => (typeof item === 'bigint' ? String(item) : item));
}

/** An integer argument as a number, undefined for anything else. */
export function integerOf(value: FieldValue): number | undefined {
  if (typeof value === 'bigint') return Number(value);
  return typeof value === 'number' && Number.isInteger(value) ? value : undefined;
}

/** True for what Erlang's `==` holds for equal: numbers of any width, text and its bytes, tables with their fields in one order. */
export function isSameValue(one: FieldValue | undefined, other: FieldValue | undefined): boolean {
  const left = comparable(one);
  const right = comparable(other);
  if (isList(left) && isList(right)) {
    return left.length === right.length && left.every((item, index) => isSameValue(item, right[index]));
  }
  if (isTable(left) && isTable(right)) {
    return isSameValue(entriesOf(left), entriesOf(right));
  }
  // A bigint beside a number, too.
  return left === right || (typeof left === 'bigint' && Number(left) === right);
}

function comparable(value: FieldValue | undefined): FieldValue | undefined {
  if (types.isUint8Array(value)) return Buffer.from(value).toString();
  if (types.isDate(value)) return value.getTime() / 1000;
  if (value instanceof TypedField) return value.value;
  if (value instanceof Decimal) return ['decimal', value.scale, value.unscaled];
  return value;
}

function isList(value: FieldValue | undefined): value is readonly FieldValue[] {
  return Array.isArray(value);
}

function isTable(value: FieldValue | undefined): value is FieldTable {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function entriesOf(table: FieldTable): FieldValue[] {
  return Object.entries(table).map(([name, value]) => [name, value ?? null]);
}

/** A text that two tables share exactly when they have the same fields with the same values, in whatever order. */
export function canonical(table: FieldTable): string {
  const fields = sortedFields(table);
  return fields.length === 0 ? '' : JSON.stringify(fields);
}

function sortedFields(table: FieldTable): unknown[] {
  const names = Object.keys(table).sort();
  return names.map((name) => [name, canonicalValue(table[name] ?? null)]);
}

/** Nested lists, made text once: text in text in text would double its quotation marks at every level. */
function canonicalValue(value: FieldValue): unknown {
  const type = fieldTypeOf(value);
  if (Array.isArray(value)) return [type, ...(value as readonly FieldValue[]).map(canonicalValue)];
  if (types.isUint8Array(value)) return [type, Buffer.from(value).toString('hex')];
  return type === 'table' ? [type, sortedFields(value as FieldTable)] : [type, printed(value)];
}

/** Throws 406 when what is declared is not what there is. `of` is `queue 'x' in vhost '/'`. */
export function requireSame(name: string, of: string, received: string | boolean, current: string | boolean): void {
  if (received === current) return;
  throw preconditionFailed(`inequivalent arg '${name}' for ${of}: received '${received}' but current is '${current}'`);
}

/** The same for an argument, which may also be missing on one side. */
export function requireSameArgument(name: string, of: string, received: FieldTable, current: FieldTable): void {
  const wanted = received[name];
  const known = current[name];
  if (wanted !== undefined && known !== undefined) {
    if (isSameValue(wanted, known)) return;
    requireSame(name, of, printed(wanted), printed(known));
  } else if (wanted !== known) {
    throw preconditionFailed(
      `inequivalent arg '${name}' for ${of}: received ${described(wanted)} but current is ${described(known)}`,
    );
  }
}

function described(value: FieldValue | undefined): string {
  return value === undefined ? 'none' : `the value '${printed(value)}' of type '${fieldTypeOf(value)}'`;
}
