/** The method table against the specification, and the codec that follows from it. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import {
  type Method,
  type MethodName,
  METHODS,
  hasContent,
  methodName,
  readMethod,
  repliesOf,
  writeMethod,
} from '../../lib/protocol/methods.js';
import { WireReader, WireWriter } from '../../lib/protocol/wire.js';
import { bytes, goldenContents, goldenMethods } from '../support/golden-frames.js';
import { binary, fieldTable, shortText } from './arbitraries.js';

/**
 * amqp0-9-1.extended.xml, a method a line: ids, name, fields with their domains resolved to types, `+content`, `> answers`.
 * Not from there: connection.blocked, unblocked and update-secret, which are RabbitMQ's own, and recover-ok as the answer
 * to basic.recover, which the XML has without saying what it answers. The XML's `nowait` of confirm.select is `no-wait`
 * here, as everywhere else.
 */
const SPECIFICATION = `
10.10 connection.start version-major:octet version-minor:octet server-properties:table mechanisms:longstr locales:longstr > start-ok
10.11 connection.start-ok client-properties:table mechanism:shortstr response:longstr locale:shortstr
10.20 connection.secure challenge:longstr > secure-ok
10.21 connection.secure-ok response:longstr
10.30 connection.tune channel-max:short frame-max:long heartbeat:short > tune-ok
10.31 connection.tune-ok channel-max:short frame-max:long heartbeat:short
10.40 connection.open virtual-host:shortstr reserved-1:shortstr reserved-2:bit > open-ok
10.41 connection.open-ok reserved-1:shortstr
10.50 connection.close reply-code:short reply-text:shortstr class-id:short method-id:short > close-ok
10.51 connection.close-ok
10.60 connection.blocked reason:shortstr
10.61 connection.unblocked
10.70 connection.update-secret new-secret:longstr reason:shortstr > update-secret-ok
10.71 connection.update-secret-ok
20.10 channel.open reserved-1:shortstr > open-ok
20.11 channel.open-ok reserved-1:longstr
20.20 channel.flow active:bit > flow-ok
20.21 channel.flow-ok active:bit
20.40 channel.close reply-code:short reply-text:shortstr class-id:short method-id:short > close-ok
20.41 channel.close-ok
40.10 exchange.declare reserved-1:short exchange:shortstr type:shortstr passive:bit durable:bit auto-delete:bit internal:bit no-wait:bit arguments:table > declare-ok
40.11 exchange.declare-ok
40.20 exchange.delete reserved-1:short exchange:shortstr if-unused:bit no-wait:bit > delete-ok
40.21 exchange.delete-ok
40.30 exchange.bind reserved-1:short destination:shortstr source:shortstr routing-key:shortstr no-wait:bit arguments:table > bind-ok
40.31 exchange.bind-ok
40.40 exchange.unbind reserved-1:short destination:shortstr source:shortstr routing-key:shortstr no-wait:bit arguments:table > unbind-ok
40.51 exchange.unbind-ok
50.10 queue.declare reserved-1:short queue:shortstr passive:bit durable:bit exclusive:bit auto-delete:bit no-wait:bit arguments:table > declare-ok
50.11 queue.declare-ok queue:shortstr message-count:long consumer-count:long
50.20 queue.bind reserved-1:short queue:shortstr exchange:shortstr routing-key:shortstr no-wait:bit arguments:table > bind-ok
50.21 queue.bind-ok
50.30 queue.purge reserved-1:short queue:shortstr no-wait:bit > purge-ok
50.31 queue.purge-ok message-count:long
50.40 queue.delete reserved-1:short queue:shortstr if-unused:bit if-empty:bit no-wait:bit > delete-ok
50.41 queue.delete-ok message-count:long
50.50 queue.unbind reserved-1:short queue:shortstr exchange:shortstr routing-key:shortstr arguments:table > unbind-ok
50.51 queue.unbind-ok
60.10 basic.qos prefetch-size:long prefetch-count:short global:bit > qos-ok
60.11 basic.qos-ok
60.20 basic.consume reserved-1:short queue:shortstr consumer-tag:shortstr no-local:bit no-ack:bit exclusive:bit no-wait:bit arguments:table > consume-ok
60.21 basic.consume-ok consumer-tag:shortstr
60.30 basic.cancel consumer-tag:shortstr no-wait:bit > cancel-ok
60.31 basic.cancel-ok consumer-tag:shortstr
60.40 basic.publish reserved-1:short exchange:shortstr routing-key:shortstr mandatory:bit immediate:bit +content
60.50 basic.return reply-code:short reply-text:shortstr exchange:shortstr routing-key:shortstr +content
60.60 basic.deliver consumer-tag:shortstr delivery-tag:longlong redelivered:bit exchange:shortstr routing-key:shortstr +content
60.70 basic.get reserved-1:short queue:shortstr no-ack:bit > get-ok get-empty
60.71 basic.get-ok delivery-tag:longlong redelivered:bit exchange:shortstr routing-key:shortstr message-count:long +content
60.72 basic.get-empty reserved-1:shortstr
60.80 basic.ack delivery-tag:longlong multiple:bit
60.90 basic.reject delivery-tag:longlong requeue:bit
60.100 basic.recover-async requeue:bit
60.110 basic.recover requeue:bit > recover-ok
60.111 basic.recover-ok
60.120 basic.nack delivery-tag:longlong multiple:bit requeue:bit
85.10 confirm.select no-wait:bit > select-ok
85.11 confirm.select-ok
90.10 tx.select > select-ok
90.11 tx.select-ok
90.20 tx.commit > commit-ok
90.21 tx.commit-ok
90.30 tx.rollback > rollback-ok
90.31 tx.rollback-ok
`;

type FieldType = 'bit' | 'octet' | 'short' | 'long' | 'longlong' | 'shortstr' | 'longstr' | 'table';

interface Shape {
  readonly id: readonly [number, number];
  readonly args: Readonly<Record<string, FieldType>>;
  readonly reply?: readonly string[];
  readonly content?: true;
}

/** The table with its names as strings, as a test that goes through all of them needs it. */
const SHAPES = Object.entries<Shape>(METHODS) as [MethodName, Shape][];

/** A method of the table as a line of the specification. */
function line([name, { id, args, reply, content }]: [MethodName, Shape]): string {
  const fields = Object.entries(args).map(([field, type]) => `${field.replace(/[A-Z]|\d/g, dashed)}:${type}`);
  const answers = reply?.map((answer) => answer.slice(answer.indexOf('.') + 1)) ?? [];
  return [
    id.join('.'),
    name,
    ...fields,
    ...(content === true ? ['+content'] : []),
    ...(answers.length > 0 ? ['>', ...answers] : []),
  ].join(' ');
}

function dashed(character: string): string {
  return `-${character.toLowerCase()}`;
}

const VALUES: Readonly<Record<FieldType, fc.Arbitrary<unknown>>> = {
  bit: fc.boolean(),
  octet: fc.nat(0xff),
  short: fc.nat(0xffff),
  long: fc.nat(0xffff_ffff),
  longlong: fc.maxSafeNat(),
  shortstr: shortText,
  longstr: binary,
  table: fieldTable,
};

function anyArgs({ args }: Shape): fc.Arbitrary<Record<string, unknown>> {
  const fields = Object.entries(args).filter(([field]) => !field.startsWith('reserved'));
  return fc.record(Object.fromEntries(fields.map(([field, type]) => [field, VALUES[type]])), { noNullPrototype: true });
}

/** The payload of a method frame, from arguments that are not checked against their types. */
function encoded(name: MethodName, args: Readonly<Record<string, unknown>>): Buffer {
  const writer = new WireWriter();
  writeMethod(writer, name, args as Method['args']);
  return writer.take();
}

function decoded(notation: string): Method {
  return readMethod(new WireReader(bytes(notation)));
}

describe('the method table', () => {
  test('has every method of the specification, field by field, and no other', () => {
    const byId = (a: [MethodName, Shape], b: [MethodName, Shape]): number =>
      a[1].id[0] - b[1].id[0] || a[1].id[1] - b[1].id[1];
    expect([...SHAPES].sort(byId).map(line)).toEqual(SPECIFICATION.trim().split('\n'));
  });

  test('answers a request with a method of the table', () => {
    const names = new Set<string>(SHAPES.map(([name]) => name));
    for (const [, { reply }] of SHAPES) for (const answer of reply ?? []) expect(names).toContain(answer);
    expect(repliesOf('basic.get')).toEqual(['basic.get-ok', 'basic.get-empty']);
    expect(repliesOf('exchange.unbind')).toEqual(['exchange.unbind-ok']);
  });

  test('tells the methods that carry content from the others', () => {
    expect(SHAPES.map(([name]) => name).filter(hasContent)).toEqual([
      'basic.publish',
      'basic.return',
      'basic.deliver',
      'basic.get-ok',
    ]);
  });

  test('finds the name that a closing peer blames by its ids', () => {
    expect(methodName(50, 10)).toBe('queue.declare');
    expect(methodName(40, 51)).toBe('exchange.unbind-ok');
    expect(methodName(0, 0)).toBeUndefined();
    expect(methodName(40, 41)).toBeUndefined();
    // Ids that 16 bits would mix up.
    expect(methodName(0x8000, 10)).toBeUndefined();
    expect(methodName(0xffff, 0xffff)).toBeUndefined();
  });
});

describe('golden methods', () => {
  const golden = [
    ...Object.values(goldenMethods),
    // The method frame ends where the first header frame begins: 7 octets, the payload, the end octet.
    ...Object.values(goldenContents),
  ].map((frame) => ({
    name: frame.method.name,
    method: frame.method,
    payload: frame.bytes.subarray(7, 7 + frame.bytes.readUInt32BE(3)),
  }));

  test.each(golden)('$name is written as its golden bytes', ({ method, payload }) => {
    expect(encoded(method.name, method.args).toString('hex')).toBe(payload.toString('hex'));
  });

  test.each(golden)('$name is read from its golden bytes', ({ method, payload }) => {
    expect(readMethod(new WireReader(payload))).toEqual(method);
  });

  test.each(golden)('$name is refused when its bytes end early', ({ payload }) => {
    for (let end = 0; end < payload.length; end += 1) {
      expect(() => readMethod(new WireReader(payload, 0, end))).toThrow(
        expect.objectContaining({ code: 'PROTOCOL_ERROR' }),
      );
    }
  });

  test.each(golden)('$name is refused with an octet left over', ({ name, payload }) => {
    expect(() => readMethod(new WireReader(Buffer.concat([payload, bytes('00')])))).toThrow(
      expect.objectContaining({
        code: 'PROTOCOL_ERROR',
        replyCode: 501,
        method: name,
        message: expect.stringContaining(`1 bytes after the last field of ${name}`),
      }),
    );
  });
});

describe('round trip', () => {
  test.each(SHAPES)('%s comes back with the fields that it was given', (name, shape) => {
    fc.assert(
      fc.property(anyArgs(shape), (args) => {
        expect(readMethod(new WireReader(encoded(name, args)))).toEqual({ name, args });
      }),
      { numRuns: 40 },
    );
  });
});

describe('bits', () => {
  test.each([
    ['passive', '01'],
    ['durable', '02'],
    ['exclusive', '04'],
    ['autoDelete', '08'],
    ['noWait', '10'],
  ])('%s of queue.declare is the octet %s', (bit, octet) => {
    const payload = bytes(`0032 000a  0000  01 "q"  ${octet}  00000000`);
    expect(encoded('queue.declare', { queue: 'q', [bit]: true })).toEqual(payload);
    const { args } = readMethod(new WireReader(payload)) as Method<'queue.declare'>;
    expect(Object.entries(args).filter(([, value]) => value === true)).toEqual([[bit, true]]);
  });

  test.each([
    ['passive', '01'],
    ['durable', '02'],
    ['autoDelete', '04'],
    ['internal', '08'],
    ['noWait', '10'],
  ])('%s of exchange.declare is the octet %s', (bit, octet) => {
    const payload = bytes(`0028 000a  0000  01 "e"  06 "direct"  ${octet}  00000000`);
    expect(encoded('exchange.declare', { exchange: 'e', type: 'direct', [bit]: true })).toEqual(payload);
    const { args } = readMethod(new WireReader(payload)) as Method<'exchange.declare'>;
    expect(Object.entries(args).filter(([, value]) => value === true)).toEqual([[bit, true]]);
  });

  test('share one octet when all are set, and bits beyond the last field are ignored', () => {
    const all = { passive: true, durable: true, exclusive: true, autoDelete: true, noWait: true };
    expect(encoded('queue.declare', { queue: '', ...all, arguments: {} })).toEqual(
      bytes('0032 000a  0000  00  1f  00000000'),
    );
    expect(decoded('0032 000a  0000  00  ff  00000000').args).toMatchObject(all);
  });

  test('before and behind other fields have octets of their own', () => {
    expect(
      encoded('basic.deliver', { consumerTag: '', deliveryTag: 1, redelivered: true, exchange: '', routingKey: 'k' }),
    ).toEqual(bytes('003c 003c  00  0000000000000001  01  00  01 "k"'));
  });
});

describe('reserved fields', () => {
  test('are written as zero and empty', () => {
    expect(encoded('channel.open', {})).toEqual(bytes('0014 000a  00'));
    expect(encoded('basic.get', { queue: 'q', noAck: true })).toEqual(bytes('003c 0046  0000  01 "q"  01'));
  });

  test('are read over, whatever a peer writes there', () => {
    expect(decoded('000a 0029  03 "any"')).toEqual({ name: 'connection.open-ok', args: {} });
    expect(decoded('003c 0046  ffff  01 "q"  00')).toEqual({ name: 'basic.get', args: { queue: 'q', noAck: false } });
  });
});

describe('arguments that cannot be sent', () => {
  test('fields that are left out are zero, empty and false', () => {
    expect(encoded('queue.declare', {})).toEqual(bytes('0032 000a  0000  00  00  00000000'));
    expect(encoded('connection.secure-ok', {})).toEqual(bytes('000a 0015  00000000'));
    expect(encoded('basic.ack', {})).toEqual(bytes('003c 0050  0000000000000000  00'));
  });

  test.each<[name: MethodName, args: Record<string, unknown>, message: string]>([
    [
      'basic.qos',
      { prefetchCount: 65_536 },
      'prefetchCount of basic.qos has to be an integer from 0 to 65535; it is 65536.',
    ],
    ['basic.qos', { prefetchCount: -1 }, 'prefetchCount of basic.qos has to be an integer from 0 to 65535; it is -1.'],
    ['basic.qos', { prefetchCount: 1.5 }, 'it is 1.5.'],
    ['basic.qos', { prefetchCount: NaN }, 'it is NaN.'],
    ['basic.qos', { prefetchCount: '10' }, 'it is of type string.'],
    ['basic.qos', { prefetchSize: 4_294_967_296 }, 'an integer from 0 to 4294967295'],
    ['basic.ack', { deliveryTag: 2 ** 53 }, 'an integer from 0 to 9007199254740991'],
    ['basic.ack', { deliveryTag: 1n }, 'deliveryTag of basic.ack has to be an integer'],
    ['connection.start', { versionMajor: 256 }, 'an integer from 0 to 255'],
    ['queue.declare', { queue: 5 }, 'queue of queue.declare has to be a string; it is of type number.'],
    ['queue.declare', { durable: 'no' }, 'durable of queue.declare has to be true or false; it is of type string.'],
    ['queue.declare', { noWait: 1 }, 'noWait of queue.declare has to be true or false; it is of type number.'],
    ['queue.declare', { queue: 'é'.repeat(128) }, 'queue of queue.declare is 256 bytes of UTF-8'],
    [
      'queue.declare',
      { arguments: 'x-max-length' },
      'arguments of queue.declare has to be an object; it is of type string.',
    ],
    ['queue.declare', { arguments: [1] }, 'arguments of queue.declare has to be an object; it is an array.'],
    ['queue.declare', { arguments: { a: { b: [NaN] } } }, 'arguments of queue.declare.a.b[0] is NaN'],
    ['connection.secure-ok', { response: 1234 }, 'response of connection.secure-ok has to be a string or bytes'],
  ])('%s refuses %j', (name, args, message) => {
    expect(() => encoded(name, args)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(message) }),
    );
  });

  test('a secret of the wrong type is refused with its type, not with its value', () => {
    expect(() => encoded('connection.update-secret', { newSecret: 1234 })).toThrow(
      'newSecret of connection.update-secret has to be a string or bytes; it is of type number.',
    );
  });
});

describe('methods that a peer must not send', () => {
  test.each([
    ['an unknown method', '003c 0000'],
    ['an unknown class', '0063 000a'],
    ['exchange.unbind-ok by the number that the specification has no method for', '0028 0029'],
  ])('%s is refused as an invalid command', (_what, notation) => {
    expect(() => decoded(notation)).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR', replyCode: 503 }));
  });

  test('a long string or table that claims more than the frame holds is refused', () => {
    expect(() => decoded('000a 0014  ffffffff "salt"')).toThrow('announced 4294967295 more bytes where 4 are left');
    expect(() => decoded('0032 000a  0000  00  00  00000001')).toThrow('announced 1 more bytes where 0 are left');
  });
});
