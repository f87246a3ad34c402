/** What the round trips of this folder are made of: random values that the wire gives back as they were. */
import fc from 'fast-check';

import { Decimal, type FieldTable, type FieldValue } from '../../lib/protocol/field-table.js';

/** Text of any script. Lone surrogates are left out: UTF-8 has no bytes for them. */
export const text = fc.string({ unit: 'binary', maxLength: 12 });

/** Text that fills a short string to the brim now and then: at most 4 bytes of UTF-8 each, 63 × 4 = 252. */
export const shortText = fc.oneof(text, fc.string({ unit: 'binary', maxLength: 63 }), fc.constant('x'.repeat(255)));

export const binary = fc.uint8Array({ maxLength: 40 }).map((value) => Buffer.from(value));

/** A bigint that only a bigint can hold: the smaller ones come back as numbers. */
const hugeInteger = fc
  .bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
  .filter((value) => !Number.isSafeInteger(Number(value)));

/** The wire has whole seconds since 1970. */
const date = fc.integer({ min: 0, max: 8_640_000_000_000 }).map((seconds) => new Date(seconds * 1000));

const decimal = fc.tuple(fc.nat(255), fc.nat(0xffff_ffff)).map(([scale, unscaled]) => new Decimal(scale, unscaled));

const { table } = fc.letrec<{ value: FieldValue; table: FieldTable }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constant(null),
    fc.boolean(),
    fc.integer(),
    fc.maxSafeInteger(),
    hugeInteger,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    text,
    binary,
    date,
    decimal,
    fc.array(tie('value'), { maxLength: 4 }),
    tie('table'),
  ),
  table: fc.dictionary(shortText, tie('value'), { maxKeys: 5 }),
}));

/** Tables of every kind of value, nested. */
export const fieldTable = table;
