/** Commands put together from the frames of a channel, and what does not fit together. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import type { Content } from '../../lib/protocol/content.js';
import { CommandAssembler } from '../../lib/protocol/command.js';
import { FrameDecoder } from '../../lib/protocol/frame-decoder.js';
import type { Method } from '../../lib/protocol/methods.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { bytes, goldenContents, goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';

const METHOD = 1;
const HEADER = 2;
const BODY = 3;
const MIB = 1024 * 1024;
const NO_PROPERTIES = '0000';

/** Payloads of method frames. */
const DELIVER = goldenContents.deliverInPieces.bytes.subarray(7, 7 + 0x1b);
const ACK = goldenMethods.basicAck.bytes.subarray(7, -1);

/** The payload of a header frame. */
function header(size: number | bigint, properties = NO_PROPERTIES, classId = 60): Buffer {
  const fixed = Buffer.alloc(12);
  fixed.writeUInt16BE(classId, 0);
  fixed.writeBigUInt64BE(BigInt(size), 4);
  return Buffer.concat([fixed, bytes(properties)]);
}

/** A frame of channel 1. */
function frame(type: number, payload: Buffer): Buffer {
  const head = Buffer.from([type, 0, 1, 0, 0, 0, 0]);
  head.writeUInt32BE(payload.length, 3);
  return Buffer.concat([head, payload, Buffer.from([0xce])]);
}

interface Command {
  readonly method: Method;
  readonly content: Content | undefined;
}

/** The frames of one channel, pushed one by one, and the commands that they made. */
class Channel {
  readonly commands: Command[] = [];
  readonly #assembler: CommandAssembler;

  constructor(maxMessageSize = 64 * MIB) {
    this.#assembler = new CommandAssembler((method, content) => {
      this.commands.push({ method, content });
    }, maxMessageSize);
  }

  frame(type: number, payload: Buffer): this {
    this.#assembler.frame(type, payload, 0, payload.length);
    return this;
  }

  get contents(): (Content | undefined)[] {
    return this.commands.map(({ content }) => content);
  }

  get bodies(): (string | undefined)[] {
    return this.commands.map(({ content }) => content?.body.toString());
  }
}

/** A command with what it is made of written out. */
interface Spelled {
  readonly channel: number;
  readonly method: Method;
  readonly properties?: BasicProperties;
  readonly body?: string;
}

/** The commands of a whole connection, whose stream comes in these chunks. */
function commandsOf(chunks: readonly Buffer[]): Spelled[] {
  const commands: Spelled[] = [];
  const assemblers = new Map<number, CommandAssembler>();
  const decoder = new FrameDecoder((type, channel, buffer, start, end) => {
    if (type === 8) return;
    let assembler = assemblers.get(channel);
    if (assembler === undefined) {
      assembler = new CommandAssembler((method, content) => {
        commands.push({
          channel,
          method,
          ...(content === undefined ? {} : { properties: content.properties, body: content.body.toString('latin1') }),
        });
      }, MIB);
      assemblers.set(channel, assembler);
    }
    assembler.frame(type, buffer, start, end);
  });
  for (const chunk of chunks) decoder.push(chunk);
  return commands;
}

/** Tables in tables, the innermost one empty, in the notation of golden bytes. Each level adds 6 bytes to those in it. */
function nestedTables(levels: number): string {
  let notation = '';
  for (let level = 1; level < levels; level += 1) {
    const size = ((level - 1) * 6).toString(16).padStart(8, '0');
    notation = `00 "F" ${size} ${notation}`;
  }
  return notation;
}

/** The frames of a stream, one buffer each. */
function splitFrames(stream: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; at < stream.length; at += frames.at(-1)?.length ?? 0) {
    frames.push(stream.subarray(at, at + 8 + stream.readUInt32BE(at + 3)));
  }
  return frames;
}

describe('a command', () => {
  test('without content is its method', () => {
    expect(new Channel().frame(METHOD, ACK).commands).toEqual([
      { method: goldenMethods.basicAck.method, content: undefined },
    ]);
  });

  test.each(Object.values(goldenContents))('$method.name has the content of its golden frames', (golden) => {
    const { channel, method, properties, pieces } = golden;
    expect(commandsOf([golden.bytes])).toEqual([
      { channel, method, properties, body: Buffer.concat(pieces).toString('latin1') },
    ]);
  });

  test('with an empty body is whole with its header', () => {
    const channel = new Channel().frame(METHOD, DELIVER).frame(HEADER, header(0));
    expect(channel.bodies).toEqual(['']);
  });

  test('with a body is whole with the last byte of it, and not before', () => {
    const channel = new Channel().frame(METHOD, DELIVER).frame(HEADER, header(5)).frame(BODY, Buffer.from('hell'));
    expect(channel.commands).toHaveLength(0);
    channel.frame(BODY, Buffer.from('o'));
    expect(channel.bodies).toEqual(['hello']);
  });

  test('is followed by the next one', () => {
    const channel = new Channel();
    for (const body of ['one', 'two', '']) {
      channel.frame(METHOD, ACK).frame(METHOD, DELIVER).frame(HEADER, header(body.length));
      if (body !== '') channel.frame(BODY, Buffer.from(body));
    }
    expect(channel.bodies).toEqual([undefined, 'one', undefined, 'two', undefined, '']);
  });

  test('that its receiver throws at leaves the channel ready for the next one', () => {
    let received = 0;
    const assembler = new CommandAssembler(() => {
      received += 1;
      throw new Error('from the receiver');
    }, MIB);
    for (let message = 1; message <= 2; message += 1) {
      assembler.frame(METHOD, DELIVER, 0, DELIVER.length);
      expect(() => assembler.frame(HEADER, header(0), 0, header(0).length)).toThrow('from the receiver');
      expect(received).toBe(message);
    }
  });
});

describe('a body', () => {
  test('in any pieces, empty ones included, is the same body', () => {
    const pieces = fc.array(fc.uint8Array({ maxLength: 30 }).map((octets) => Buffer.from(octets)));
    fc.assert(
      fc.property(pieces, (parts) => {
        const whole = Buffer.concat(parts);
        const channel = new Channel().frame(METHOD, DELIVER).frame(HEADER, header(whole.length));
        // An empty body is whole already; a frame behind the last byte would be one too many.
        let missing = whole.length;
        for (const part of parts) {
          if (missing === 0) break;
          channel.frame(BODY, part);
          missing -= part.length;
        }
        expect(channel.commands).toHaveLength(1);
        expect(channel.commands[0]?.content?.body).toEqual(whole);
      }),
      { numRuns: 200 },
    );
  });

  test('of many megabytes is put together from thousands of frames', () => {
    const piece = Buffer.alloc(4088);
    const size = 4 * MIB + 1;
    const channel = new Channel().frame(METHOD, DELIVER).frame(HEADER, header(size));
    const expected = Buffer.alloc(size);
    for (let at = 0; at < size; at += piece.length) {
      piece.fill(at % 251);
      expected.fill(at % 251, at, Math.min(at + piece.length, size));
      channel.frame(BODY, piece.subarray(0, size - at));
    }
    expect(channel.commands[0]?.content?.body.equals(expected)).toBe(true);
  });

  test('that overruns its announced size is refused, whole or with its last piece', () => {
    const overrun = expect.objectContaining({
      replyCode: 501,
      message: expect.stringContaining('6 bytes for a body that it announced with 5'),
    });
    const announced = (): Channel => new Channel().frame(METHOD, DELIVER).frame(HEADER, header(5));
    expect(() => announced().frame(BODY, Buffer.alloc(6))).toThrow(overrun);
    expect(() => announced().frame(BODY, Buffer.alloc(3)).frame(BODY, Buffer.alloc(3))).toThrow(overrun);
  });
});

describe('frames that do not fit together', () => {
  const deliver = (channel: Channel): Channel => channel.frame(METHOD, DELIVER);
  const announce = (channel: Channel): Channel => deliver(channel).frame(HEADER, header(5));
  const half = (channel: Channel): Channel => announce(channel).frame(BODY, Buffer.alloc(2));

  test.each<[what: string, type: number, payload: Buffer, before: (channel: Channel) => Channel, message: string]>([
    ['a header without a method', HEADER, header(0), (c) => c, 'a content header where a method had to come'],
    ['a header behind a method without content', HEADER, header(0), (c) => c.frame(METHOD, ACK), 'where a method'],
    ['a body without a method', BODY, Buffer.alloc(1), (c) => c, 'a content body where a method had to come'],
    ['a body without a header', BODY, Buffer.alloc(1), deliver, 'where the header of basic.deliver had to come'],
    ['a method instead of a header', METHOD, ACK, deliver, 'a method where the header of basic.deliver had to come'],
    ['a method instead of a body', METHOD, ACK, announce, 'a method where the body of basic.deliver had to come'],
    ['a method in the middle of a body', METHOD, ACK, half, 'where the body of basic.deliver had to come'],
    ['a header in the middle of a body', HEADER, header(5), half, 'where the body of basic.deliver had to come'],
    [
      'a body frame behind a whole body',
      BODY,
      Buffer.alloc(0),
      (c) => half(c).frame(BODY, Buffer.alloc(3)),
      'a method',
    ],
  ])('%s is an unexpected frame', (_what, type, payload, before, message) => {
    const channel = before(new Channel());
    expect(() => channel.frame(type, payload)).toThrow(
      expect.objectContaining({
        code: 'PROTOCOL_ERROR',
        replyCode: 505,
        message: expect.stringContaining(message),
      }),
    );
  });

  test.each<[what: string, payload: Buffer, replyCode: number]>([
    ['of another class', header(5, NO_PROPERTIES, 50), 505],
    ['that announces 2^53 bytes', header(2n ** 53n), 502],
    ['that announces a negative number of bytes', header(2n ** 64n - 1n), 502],
    ['that ends in its body size', header(5).subarray(0, 11), 501],
  ])('a header %s is refused', (_what, payload, replyCode) => {
    expect(() => deliver(new Channel()).frame(HEADER, payload)).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_ERROR', replyCode }),
    );
  });

  test('a message of exactly the limit passes', () => {
    const channel = new Channel(5).frame(METHOD, DELIVER).frame(HEADER, header(5)).frame(BODY, Buffer.from('fives'));
    expect(channel.bodies).toEqual(['fives']);
  });

  test('a message over the limit loses its body, and only its own', () => {
    const channel = new Channel(5);
    deliver(channel).frame(HEADER, header(6)).frame(BODY, Buffer.from('sixth')).frame(BODY, Buffer.from('!'));
    expect(channel.contents[0]).toMatchObject({ isTooLarge: true, size: 6, body: Buffer.alloc(0) });
    deliver(channel).frame(HEADER, header(5)).frame(BODY, Buffer.from('fives'));
    expect(channel.contents[1]).toMatchObject({ isTooLarge: false, body: Buffer.from('fives') });
  });

  test('a heartbeat has no place on a channel', () => {
    expect(() => new Channel().frame(8, Buffer.alloc(0))).toThrow(expect.objectContaining({ replyCode: 501 }));
  });
});

describe('memory', () => {
  test('a message that claims to be huge costs little until its bytes come', () => {
    const before = process.memoryUsage().arrayBuffers;
    const channels = Array.from({ length: 10 }, () =>
      new Channel(2 ** 40)
        .frame(METHOD, DELIVER)
        .frame(HEADER, header(2 ** 39))
        .frame(BODY, Buffer.alloc(100)),
    );
    // A megabyte a channel, and what else the tests leave lying about.
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(12 * MIB);
    expect(channels.flatMap(({ commands }) => commands)).toEqual([]);
  });

  /** The content of the one message in a stream that comes in these chunks. */
  function contentOf(...chunks: readonly Buffer[]): Content {
    const contents: (Content | undefined)[] = [];
    const assembler = new CommandAssembler((_method, content) => contents.push(content), MIB);
    const decoder = new FrameDecoder((type, _channel, buffer, start, end) => {
      if (type !== 8) assembler.frame(type, buffer, start, end);
    });
    for (const chunk of chunks) decoder.push(chunk);
    expect(contents).toHaveLength(1);
    return contents[0] as Content;
  }

  /** The least memory that small messages share. */
  const PIECE = 1024;

  test('a small message keeps no large chunk alive', () => {
    const { publish } = goldenContents;
    const content = contentOf(Buffer.concat([Buffer.alloc(65_536, goldenHeartbeat), publish.bytes]));
    expect(content.body).toEqual(publish.pieces[0]);
    expect(content.body.buffer.byteLength).toBe(PIECE);
    expect(content.propertyBytes.buffer).toBe(content.body.buffer);
  });

  test('a small message keeps nothing of the shared pool alive when its frames came cut', () => {
    const { bytes: stream, pieces } = goldenContents.publish;
    for (let cut = 1; cut < stream.length; cut += 1) {
      const content = contentOf(stream.subarray(0, cut), stream.subarray(cut));
      expect(content.body).toEqual(pieces[0]);
      expect(content.body.buffer.byteLength).toBe(PIECE);
      expect(content.propertyBytes.buffer.byteLength).toBe(PIECE);
    }
  });

  test.each([12, 100, 300, 1_000, 4_000, 20_000])(
    'of a message of %i bytes no more than three like it are kept alive, or a kibibyte',
    (size) => {
      const count = 2_000;
      const message = new Channel().frame(METHOD, DELIVER);
      const bodies: Buffer[] = [];
      for (let index = 0; index < count; index += 1) {
        if (index > 0) message.frame(METHOD, DELIVER);
        // As in a chunk of 64 KiB that many messages share.
        const chunk = Buffer.alloc(65_536, index);
        message.frame(HEADER, header(size)).frame(BODY, chunk.subarray(7, 7 + size));
        const { body } = message.commands.at(-1)?.content as Content;
        if (index % 500 === 0) bodies.push(body);
      }
      expect(bodies.map((body) => body[0])).toEqual([0, 500 % 256, 1_000 % 256, 1_500 % 256]);
      const kept = new Set(bodies.map(({ buffer }) => buffer));
      const bytes = [...kept].reduce((sum, { byteLength }) => sum + byteLength, 0);
      expect(bytes).toBeLessThanOrEqual(bodies.length * Math.max(PIECE, 4 * (size + 2)));
    },
  );

  test.each([0, 1, 100, 2_000, 3_000])('a message with a body of %i bytes reads the same after it was kept', (size) => {
    const body = Buffer.from(Array.from({ length: size }, (_, index) => index % 256));
    const chunk = (): Buffer =>
      Buffer.concat([
        frame(METHOD, DELIVER),
        frame(HEADER, header(size, '8000  03 "a/b"')),
        ...(size === 0 ? [] : [frame(BODY, body)]),
      ]);
    const reads: Readonly<Record<string, (content: Content) => unknown>> = {
      body: (content) => content.body,
      text: (content) => content.text,
      properties: (content) => content.properties,
      propertyBytes: (content) => content.propertyBytes,
      size: (content) => [content.size, content.isTooLarge],
    };
    // In each order of two: the first takes the bytes out of what keeps them.
    for (const first of Object.values(reads)) {
      for (const second of Object.values(reads)) {
        const bytes = chunk();
        const [kept, left] = [contentOf(bytes), contentOf(chunk())];
        kept.keep();
        bytes.fill(0);
        expect([first(kept), second(kept)]).toEqual([first(left), second(left)]);
      }
    }
  });

  test('a body that is most of its chunk is not copied', () => {
    const body = Buffer.alloc(60_000, 'x');
    const channel = new Channel().frame(METHOD, DELIVER).frame(HEADER, header(body.length)).frame(BODY, body);
    expect(channel.commands[0]?.content?.body.buffer).toBe(body.buffer);
  });
});

describe('properties', () => {
  function received(properties: string): Content {
    const channel = new Channel().frame(METHOD, DELIVER).frame(HEADER, header(0, properties));
    expect(channel.commands).toHaveLength(1);
    return channel.commands[0]?.content as Content;
  }

  test.each([
    ['a flag for a second word of flags', '8001  01 "a"'],
    ['a string that claims too much', '8000  ff "a"'],
    ['a header of an unknown letter', '2000  00000004 01 "a" "?" 01'],
    ['headers nested 33 deep', `2000  000000c0 ${nestedTables(33)}`],
    ['bytes left over', '0000  00'],
    ['no flags', ''],
  ])("with %s are one message's fault, found when they are read", (_what, properties) => {
    const content = received(properties);
    expect(content.body).toHaveLength(0);
    expect(content.propertyBytes).toEqual(bytes(properties));
    for (let time = 1; time <= 2; time += 1) {
      expect(() => content.properties).toThrow(
        expect.objectContaining({
          code: 'UNDECODABLE',
          message: expect.stringMatching(/^The properties of this message cannot be decoded\. ./),
          cause: expect.objectContaining({ code: 'PROTOCOL_ERROR' }),
        }),
      );
    }
  });

  test('that cannot be decoded do not hold up the next message', () => {
    const channel = new Channel();
    for (const properties of ['8001', NO_PROPERTIES]) {
      channel.frame(METHOD, DELIVER).frame(HEADER, header(2, properties)).frame(BODY, Buffer.from('ok'));
    }
    expect(channel.bodies).toEqual(['ok', 'ok']);
    expect(channel.commands[1]?.content?.properties).toEqual({});
  });

  test('are decoded once', () => {
    const content = received('8000  0a "text/plain"');
    expect(content.properties).toEqual({ contentType: 'text/plain' });
    expect(content.properties).toBe(content.properties);
  });
});

describe('a recorded stream', () => {
  // As a server sends it: methods of channel 0, two messages interleaved frame by frame on their channels, heartbeats.
  const { connectionStart, connectionTune, basicConsumeOk, channelClose } = goldenMethods;
  const one = splitFrames(goldenContents.deliverInPieces.bytes);
  const other = splitFrames(goldenContents.getOk.bytes);
  const interleaved = one.flatMap((frame, index) => [frame, goldenHeartbeat, other[index] ?? Buffer.alloc(0)]);
  const stream = Buffer.concat([
    connectionStart.bytes,
    connectionTune.bytes,
    basicConsumeOk.bytes,
    ...interleaved,
    goldenContents.returnWithoutBody.bytes,
    channelClose.bytes,
  ]);
  const spelled = (golden: {
    channel: number;
    method: Method;
    properties: BasicProperties;
    pieces: readonly Buffer[];
  }): Spelled => {
    const { channel, method, properties, pieces } = golden;
    return { channel, method, properties, body: Buffer.concat(pieces).toString('latin1') };
  };
  const expected: Spelled[] = [
    ...[connectionStart, connectionTune, basicConsumeOk].map(({ channel, method }) => ({ channel, method })),
    // The second message is the shorter one.
    spelled(goldenContents.getOk),
    spelled(goldenContents.deliverInPieces),
    spelled(goldenContents.returnWithoutBody),
    { channel: channelClose.channel, method: channelClose.method },
  ];

  test('gives the commands that it is made of', () => {
    expect(commandsOf([stream])).toEqual(expected);
  });

  test('gives the same commands cut in two at any byte', () => {
    for (let cut = 1; cut < stream.length; cut += 1) {
      expect(commandsOf([stream.subarray(0, cut), stream.subarray(cut)])).toEqual(expected);
    }
  });

  test('gives the same commands byte by byte', () => {
    expect(commandsOf(Array.from(stream, (octet) => Buffer.from([octet])))).toEqual(expected);
  });

  test('with any one byte changed gives commands, waits for more, or is refused by its own errors', () => {
    fc.assert(
      fc.property(fc.nat(stream.length - 1), fc.nat(255), (at, octet) => {
        const changed = Buffer.from(stream);
        changed[at] = octet;
        try {
          commandsOf([changed]);
        } catch (error) {
          expect(error).toMatchObject({ code: expect.stringMatching(/^(PROTOCOL_ERROR|UNDECODABLE)$/) });
        }
      }),
      { numRuns: 1000 },
    );
  });
});
