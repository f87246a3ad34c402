/** Frames as they are read: however the stream is cut, and whatever a peer announces. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { FrameDecoder, INITIAL_FRAME_LIMIT, UNNEGOTIATED_FRAME_LIMIT } from '../../lib/protocol/frame-decoder.js';
import { bytes, goldenContents, goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';

const HEADER = 2;
const BODY = 3;
const MIB = 1024 * 1024;

interface Frame {
  readonly type: number;
  readonly channel: number;
  readonly payload: Buffer;
}

/** A decoder, and the frames that it has handed on. */
function decoding(): { decoder: FrameDecoder; frames: Frame[] } {
  const frames: Frame[] = [];
  const decoder = new FrameDecoder((type, channel, buffer, start, end) => {
    // A copy: the payload is valid during the call only.
    frames.push({ type, channel, payload: Buffer.from(buffer.subarray(start, end)) });
  });
  return { decoder, frames };
}

/** The frames of a stream that comes in these chunks. */
function framesOf(...chunks: readonly Buffer[]): Frame[] {
  const { decoder, frames } = decoding();
  for (const chunk of chunks) decoder.push(chunk);
  return frames;
}

/** The seven octets before a payload of `size` octets. */
function head(type: number, channel: number, size: number): Buffer {
  const octets = Buffer.alloc(7);
  octets.writeUInt8(type, 0);
  octets.writeUInt16BE(channel, 1);
  octets.writeUInt32BE(size, 3);
  return octets;
}

function frame({ type, channel, payload }: Frame): Buffer {
  return Buffer.concat([head(type, channel, payload.length), payload, Buffer.from([0xce])]);
}

/** A frame of `size` bytes in all. */
function frameOfSize(type: number, size: number): Buffer {
  return frame({ type, channel: 1, payload: Buffer.alloc(size - 8) });
}

/** `stream` cut at each of `cuts`, which are fractions of it. */
function cutAt(stream: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [0, ...cuts.map((cut) => Math.floor(cut * stream.length)).sort((a, b) => a - b), stream.length];
  return places.slice(1).map((end, index) => stream.subarray(places[index], end));
}

const anyFrame: fc.Arbitrary<Frame> = fc.oneof(
  fc.record({
    type: fc.constantFrom(1, 2, 3),
    channel: fc.nat(0xffff),
    // Full of frame ends and of heads that are none.
    payload: fc.oneof(
      fc.uint8Array({ maxLength: 40 }).map((octets) => Buffer.from(octets)),
      fc.constantFrom(Buffer.alloc(0), Buffer.alloc(20, 0xce), goldenHeartbeat, head(9, 1, 0xffff_ffff)),
    ),
  }),
  fc.constant<Frame>({ type: 8, channel: 0, payload: Buffer.alloc(0) }),
);

describe('golden frames', () => {
  test.each(Object.values(goldenMethods))('$method.name is read as one method frame', ({ channel, bytes: whole }) => {
    expect(framesOf(whole)).toEqual([{ type: 1, channel, payload: whole.subarray(7, -1) }]);
  });

  test('a heartbeat is a frame without a payload, whole or cut', () => {
    const heartbeat = { type: 8, channel: 0, payload: Buffer.alloc(0) };
    expect(framesOf(goldenHeartbeat)).toEqual([heartbeat]);
    expect(framesOf(goldenHeartbeat.subarray(0, 3), goldenHeartbeat.subarray(3))).toEqual([heartbeat]);
  });

  test('a content is a method, a header and its body frames, the empty one included', () => {
    expect(framesOf(goldenContents.deliverInPieces.bytes).map(({ type, payload }) => [type, payload.length])).toEqual([
      [1, 0x1b],
      [2, 0x3a],
      [3, 5],
      [3, 0],
      [3, 6],
      [3, 1],
    ]);
  });

  test('the highest channel number is read as it is', () => {
    expect(framesOf(goldenMethods.channelCloseOk.bytes)).toMatchObject([{ channel: 65_535 }]);
  });
});

describe('a stream of frames', () => {
  const traces = fc.array(anyFrame, { minLength: 1, maxLength: 6 });

  test('gives its frames when it comes in one chunk', () => {
    fc.assert(
      fc.property(traces, (trace) => {
        expect(framesOf(Buffer.concat(trace.map(frame)))).toEqual(trace);
      }),
    );
  });

  test('gives the same frames cut in two at any byte', () => {
    fc.assert(
      fc.property(traces, (trace) => {
        const stream = Buffer.concat(trace.map(frame));
        for (let cut = 0; cut <= stream.length; cut += 1) {
          expect(framesOf(stream.subarray(0, cut), stream.subarray(cut))).toEqual(trace);
        }
      }),
      { numRuns: 25 },
    );
  });

  test('gives the same frames byte by byte', () => {
    fc.assert(
      fc.property(traces, (trace) => {
        const stream = Buffer.concat(trace.map(frame));
        expect(framesOf(...Array.from(stream, (octet) => Buffer.from([octet])))).toEqual(trace);
      }),
    );
  });

  test('gives the same frames however often it is cut, empty chunks included', () => {
    const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 20 });
    fc.assert(
      fc.property(traces, cuts, (trace, places) => {
        expect(framesOf(...cutAt(Buffer.concat(trace.map(frame)), places))).toEqual(trace);
      }),
      { numRuns: 300 },
    );
  });

  test('hands a frame on as soon as its last byte is there, and not before', () => {
    const { decoder, frames } = decoding();
    decoder.push(goldenMethods.basicAck.bytes.subarray(0, -1));
    expect(frames).toHaveLength(0);
    decoder.push(goldenMethods.basicAck.bytes.subarray(-1));
    expect(frames).toHaveLength(1);
  });

  test('hands on the frames before a bad one', () => {
    const { decoder, frames } = decoding();
    expect(() => decoder.push(Buffer.concat([goldenHeartbeat, goldenHeartbeat, bytes('"HTTP/1.1"')]))).toThrow();
    expect(frames).toHaveLength(2);
  });

  test('takes what its receiver throws out of the push', () => {
    const decoder = new FrameDecoder(() => {
      throw new Error('from the receiver');
    });
    expect(() => decoder.push(goldenHeartbeat)).toThrow('from the receiver');
  });
});

describe('a broken stream', () => {
  const refusal = expect.objectContaining({ code: 'PROTOCOL_ERROR', replyCode: 501 });

  test.each(['00', '01', '08', 'cd', 'ff'])('a frame that ends with %s is refused', (end) => {
    const broken = Buffer.concat([goldenHeartbeat.subarray(0, -1), bytes(end)]);
    for (let cut = 0; cut <= broken.length; cut += 1) {
      expect(() => framesOf(broken.subarray(0, cut), broken.subarray(cut))).toThrow(refusal);
    }
  });

  test.each([0, 4, 5, 6, 7, 9, 65, 72, 255])('a frame of type %i is refused when its head is there', (type) => {
    expect(() => framesOf(head(type, 0, 0))).toThrow(`a frame of unknown type ${type}`);
    expect(() => framesOf(...Array.from(head(type, 0, 0), (octet) => Buffer.from([octet])))).toThrow(refusal);
  });

  test('a size that is one too small or one too large puts the stream out of step', () => {
    for (const size of [12, 14]) {
      const broken = Buffer.from(goldenMethods.basicAck.bytes);
      broken.writeUInt32BE(size, 3);
      expect(() => framesOf(Buffer.concat([broken, goldenHeartbeat]))).toThrow('does not end with 0xCE');
    }
  });

  test('any garbage gives frames, waits for more, or is refused as a protocol error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (garbage) => {
        try {
          framesOf(Buffer.from(garbage));
        } catch (error) {
          expect(error).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode: 501 });
        }
      }),
    );
  });
});

describe('the limit', () => {
  /** Pushes the head of a frame of `size` bytes; the limit is judged by it alone. */
  function announce(decoder: FrameDecoder, type: number, size: number): void {
    decoder.push(head(type, 1, size - 8));
  }

  function limited(negotiated: number, proposed: number): FrameDecoder {
    const decoder = new FrameDecoder(() => undefined);
    decoder.limit(negotiated, proposed);
    return decoder;
  }

  const refusal = expect.objectContaining({
    code: 'PROTOCOL_ERROR',
    replyCode: 501,
    message: expect.stringMatching(/announced a frame of \d+ bytes; the limit is \d+ \(frame_max\)/),
  });

  test.each([1, 2, 3, 8])('before the peers have agreed is 131072 for frames of type %i', (type) => {
    const decoder = (): FrameDecoder => new FrameDecoder(() => undefined);
    expect(INITIAL_FRAME_LIMIT).toBe(131_072);
    expect(() => announce(decoder(), type, 131_072)).not.toThrow();
    expect(() => announce(decoder(), type, 131_080)).not.toThrow();
    expect(() => announce(decoder(), type, 131_081)).toThrow(refusal);
  });

  test.each([1, 3, 8])('is what was negotiated, and eight octets more, for frames of type %i', (type) => {
    expect(() => announce(limited(8192, 131_072), type, 8192)).not.toThrow();
    expect(() => announce(limited(8192, 131_072), type, 8200)).not.toThrow();
    expect(() => announce(limited(8192, 131_072), type, 8201)).toThrow(refusal);
  });

  test('is what the server proposed for header frames, which RabbitMQ cannot split', () => {
    expect(() => announce(limited(8192, 131_072), HEADER, 120_026)).not.toThrow();
    expect(() => announce(limited(8192, 131_072), HEADER, 131_080)).not.toThrow();
    expect(() => announce(limited(8192, 131_072), HEADER, 131_081)).toThrow(refusal);
  });

  test('is our own where a frame_max of 0 sets none', () => {
    expect(UNNEGOTIATED_FRAME_LIMIT).toBe(16 * MIB);
    for (const type of [HEADER, BODY]) {
      expect(() => announce(limited(0, 0), type, 16 * MIB + 8)).not.toThrow();
      expect(() => announce(limited(0, 0), type, 16 * MIB + 9)).toThrow(refusal);
    }
    expect(() => announce(limited(8192, 0), HEADER, 16 * MIB + 8)).not.toThrow();
    expect(() => announce(limited(8192, 0), BODY, 8201)).toThrow(refusal);
  });

  test('of 0 lets a frame of a megabyte through, in pieces', () => {
    const { decoder, frames } = decoding();
    decoder.limit(0, 0);
    const large = frameOfSize(BODY, MIB);
    for (let at = 0; at < large.length; at += 65_536) decoder.push(large.subarray(at, at + 65_536));
    expect(Buffer.concat(frames.map(({ payload }) => payload))).toHaveLength(MIB - 8);
    expect(frames.map(({ type, channel }) => [type, channel])).toEqual(frames.map(() => [BODY, 1]));
  });

  test('a frame of exactly the limit is read whole', () => {
    const { decoder, frames } = decoding();
    decoder.limit(4096, 4096);
    decoder.push(frameOfSize(BODY, 4096));
    expect(frames.map(({ payload }) => payload.length)).toEqual([4088]);
  });

  test('a receiver that sets it sets it for the next frame of the same chunk', () => {
    const decoder = new FrameDecoder(() => decoder.limit(4096, 4096));
    expect(() => decoder.push(Buffer.concat([frameOfSize(BODY, 100_000), head(BODY, 1, 4097)]))).toThrow(refusal);
  });

  test('refuses a frame by its head, byte by byte, before anything is set aside for it', () => {
    const lie = head(BODY, 1, 0xffff_fff0);
    const decoder = new FrameDecoder(() => undefined);
    for (const octet of lie.subarray(0, 6)) decoder.push(Buffer.from([octet]));
    const before = process.memoryUsage().arrayBuffers;
    expect(() => decoder.push(lie.subarray(6))).toThrow(refusal);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(MIB);
  });

  test('sets nothing aside for a frame within it whose bytes have not come', () => {
    const before = process.memoryUsage().arrayBuffers;
    const decoders = Array.from({ length: 10 }, () => limited(0, 0));
    for (const decoder of decoders) announce(decoder, BODY, 16 * MIB);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(MIB);
  });
});

describe('a large body frame', () => {
  const payload = Buffer.from(Array.from({ length: 5_000 }, (_, index) => index % 251));
  const heartbeat = Buffer.from(goldenHeartbeat);
  const stream = Buffer.concat([heartbeat, frame({ type: BODY, channel: 258, payload }), heartbeat]);

  test('is handed on as it comes, whole in the end, wherever it is cut', () => {
    for (let cut = 0; cut <= stream.length; cut += 1) {
      for (const next of [1, 2, 700, 5_000]) {
        const chunks = [stream.subarray(0, cut), stream.subarray(cut, cut + next), stream.subarray(cut + next)];
        const frames = framesOf(...chunks);
        const body = frames.slice(1, -1);
        expect([frames[0]?.type, frames.at(-1)?.type]).toEqual([8, 8]);
        expect(body.every(({ type, channel }) => type === BODY && channel === 258)).toBe(true);
        expect(Buffer.concat(body.map((part) => part.payload)).equals(payload)).toBe(true);
      }
    }
  });

  test('does not end before its end octet has come, and is refused when that is another', () => {
    const whole = frame({ type: BODY, channel: 1, payload });
    for (const before of [0, 1, 2]) {
      const { decoder, frames } = decoding();
      const cut = whole.length - 1 - before;
      decoder.push(whole.subarray(0, cut));
      expect(frames.reduce((sum, part) => sum + part.payload.length, 0)).toBeLessThan(payload.length);
      const wrong = Buffer.from(whole.subarray(cut));
      wrong[wrong.length - 1] = 0;
      expect(() => decoder.push(wrong)).toThrow('0xCE');
      expect(frames.reduce((sum, part) => sum + part.payload.length, 0)).toBeLessThan(payload.length);
    }
  });
});
