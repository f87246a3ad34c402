/** Ways to damage a trace of frames: bits, bytes, frames, lengths and ends. Who sent the trace is the caller's. */
import { PROTOCOL_HEADER } from '../../lib/protocol/frame.js';
import type { Random } from './hostile-peer.js';

/** Each changes the frames of one segment. */
const MUTATIONS: readonly ((frames: Buffer[], at: number, random: Random) => void)[] = [
  // A bit, or a few.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    for (let count = random.below(3); count >= 0; count -= 1) {
      const byte = random.below(copy.length);
      copy[byte] = (copy[byte] as number) ^ (1 << random.below(8));
    }
    frames[at] = copy;
  },
  // Bytes that should not be there, in the frame's length or beside it.
  (frames, at, random) => {
    const frame = frames[at] as Buffer;
    const cut = random.below(frame.length + 1);
    frames[at] = Buffer.concat([frame.subarray(0, cut), random.bytes(1 + random.below(8)), frame.subarray(cut)]);
  },
  // Bytes that are missing.
  (frames, at, random) => {
    const frame = frames[at] as Buffer;
    const cut = random.below(frame.length);
    frames[at] = Buffer.concat([frame.subarray(0, cut), frame.subarray(cut + 1 + random.below(4))]);
  },
  // Twice.
  (frames, at) => frames.splice(at, 0, frames[at] as Buffer),
  // Not at all.
  (frames, at) => frames.splice(at, 1),
  // In another order.
  (frames, at, random) => {
    const [frame] = frames.splice(at, 1) as [Buffer];
    frames.splice(random.below(frames.length + 1), 0, frame);
  },
  // A length that lies: of the frame, or of whatever these four bytes are.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    const where = random.chance(2) ? 3 : random.below(copy.length - 4);
    copy.writeUInt32BE(random.pick([0, 1, copy.length, 4096, 131_072, 0x7fff_ffff, 0xffff_ffff]), where);
    frames[at] = copy;
  },
  // Another channel.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    copy.writeUInt16BE(random.pick([0, 1, 2, 3, 65_535]), 1);
    frames[at] = copy;
  },
  // A payload of noise in a good frame, and noise between frames.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    const from = 7 + random.below(Math.max(1, copy.length - 8));
    random.bytes(Math.max(0, copy.length - 1 - from)).copy(copy, from);
    frames[at] = copy;
  },
  (frames, at, random) => frames.splice(at, 0, random.chance(4) ? PROTOCOL_HEADER : random.bytes(random.below(30))),
];

/** The segments of a trace with up to three of their frames damaged, from segment `first` on, and its end cut off now and then. */
export function damage(segments: readonly Buffer[][], first: number, random: Random): Buffer[] {
  for (let count = 1 + random.below(3); count > 0; count -= 1) {
    const frames = segments[first + random.below(segments.length - first)] as Buffer[];
    // What an earlier mutation has left of a frame may be too short for the next one.
    const at = random.below(frames.length);
    if ((frames[at]?.length ?? 0) >= 8) random.pick(MUTATIONS)(frames, at, random);
  }
  const bytes = segments.map((frames) => Buffer.concat(frames));
  if (!random.chance(8)) return bytes;
  // A truncated end.
  const last = random.below(bytes.length);
  const cut = bytes[last] as Buffer;
  return [...bytes.slice(0, last), cut.subarray(0, random.below(cut.length + 1))];
}
