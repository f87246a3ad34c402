/** Compressed bodies: gzip, deflate and brotli, by the property `contentEncoding`. */
import { promisify } from 'node:util';
import { brotliCompress, brotliDecompress, deflate, gunzip, gzip, inflate, inflateRaw } from 'node:zlib';
import { AmqpError, quoted } from '../errors.js';

interface Coding {
  readonly compress: (body: Buffer) => Promise<Buffer>;
  readonly decompress: (body: Buffer, options: { readonly maxOutputLength: number }) => Promise<Buffer>;
}

const GZIP: Coding = { compress: promisify(gzip), decompress: promisify(gunzip) };

/**
 * RFC 1950 for deflate, as HTTP defines it. Some publishers leave out the envelope (RFC 1951): with it the low four bits of the
 * first byte are 8 and the first two bytes are a multiple of 31.
 */
const DEFLATE: Coding = {
  compress: promisify(deflate),
  decompress: async (body, options) => {
    const hasEnvelope = body.length >= 2 && ((body[0] ?? 0) & 0x0f) === 8 && body.readUInt16BE(0) % 31 === 0;
    return await (hasEnvelope ? INFLATE : INFLATE_RAW)(body, options);
  },
};
const INFLATE: Coding['decompress'] = promisify(inflate);
const INFLATE_RAW: Coding['decompress'] = promisify(inflateRaw);

const CODINGS: ReadonlyMap<string, Coding> = new Map([
  ['gzip', GZIP],
  ['x-gzip', GZIP],
  ['deflate', DEFLATE],
  ['br', { compress: promisify(brotliCompress), decompress: promisify(brotliDecompress) }],
]);

/** True for the names that publishers use for no encoding at all. */
export function isUncompressed(encoding: string | undefined): boolean {
  return encoding === undefined || /^(identity|binary|utf-?8)?$/i.test(encoding);
}

/** Rejects with `UNSERIALIZABLE` for an encoding that is not known. */
export async function compress(body: string | Uint8Array, encoding: string): Promise<Buffer> {
  const coding = CODINGS.get(encoding.toLowerCase());
  if (coding === undefined) {
    throw new AmqpError(
      'UNSERIALIZABLE',
      `The content encoding ${quoted(encoding)} is not known. Known are ${known()}; publish what is encoded otherwise as bytes.`,
    );
  }
  return await coding.compress(Buffer.from(body));
}

/** Rejects with `UNDECODABLE`; also when more than `limit` bytes come out, of which it makes no more. */
export async function decompress(body: Buffer, encoding: string, limit: number): Promise<Buffer> {
  const coding = CODINGS.get(encoding.toLowerCase());
  if (coding === undefined) {
    throw new AmqpError(
      'UNDECODABLE',
      `The body is encoded as ${quoted(encoding)}, which is not supported. Supported are ${known()}.`,
    );
  }
  try {
    return await coding.decompress(body, { maxOutputLength: limit });
  } catch (cause) {
    const isTooLarge = (cause as { readonly code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE';
    throw new AmqpError(
      'UNDECODABLE',
      isTooLarge
        ? `The body of ${body.length} bytes is more than ${limit} bytes when it is decompressed. Raise maxMessageSize, if it may be.`
        : `The body of ${body.length} bytes is not the ${quoted(encoding)} that its content encoding says.`,
      { cause },
    );
  }
}

function known(): string {
  return [...CODINGS.keys()].join(', ');
}
