/**
 * The channels of one connection by their numbers, and their frames put together to commands. How a connection ends over what
 * is thrown here is the connection's.
 */
import { CommandAssembler } from '../protocol/command.js';
import { type Content, ContentMemory } from '../protocol/content.js';
import { FRAME_BODY } from '../protocol/frame.js';
import type { Method } from '../protocol/methods.js';
import { BrokerChannel } from './broker-channel.js';
import { BrokerError } from './broker-error.js';
import type { ConnectionLine } from './channel-line.js';
import { BlamedError } from './closing.js';

/** Set aside for a body that has begun, whatever size it claims, in octets: 2047 channels x 64 KiB are 128 MiB at most. */
const BODY_STEP = 64 * 1024;

interface Entry {
  readonly assembler: CommandAssembler;
  /** Undefined until channel.open. */
  channel: BrokerChannel | undefined;
  /** Octets of a body that is not whole yet. */
  assembling: number;
}

export class ChannelTable {
  readonly #line: ConnectionLine;
  readonly #channelMax: number;
  readonly #published: () => void;
  readonly #memory = new ContentMemory();
  readonly #entries = new Map<number, Entry>();
  #assembling = 0;

  /** @param published - called after each publish */
  constructor(line: ConnectionLine, channelMax: number, published: () => void) {
    this.#line = line;
    this.#channelMax = channelMax;
    this.#published = published;
  }

  get channels(): BrokerChannel[] {
    return [...this.#entries.values()].flatMap(({ channel }) => channel ?? []);
  }

  /** Takes a frame of a channel. Throws `BrokerError`, `ProtocolError` or `BlamedError` for what ends the connection. */
  frame(type: number, number: number, buffer: Buffer, start: number, end: number): void {
    const entry = this.#entries.get(number) ?? this.#add(number);
    if (type === FRAME_BODY) this.#countBody(entry, end - start);
    entry.assembler.frame(type, buffer, start, end);
  }

  #add(number: number): Entry {
    const open = this.#entries.size;
    if (open >= this.#channelMax) {
      const text = `number of channels opened (${open}) has reached the negotiated channel_max (${this.#channelMax})`;
      throw new BlamedError(undefined, new BrokerError('connection', 530, `NOT_ALLOWED - ${text}`));
    }
    const receive = (method: Method, content: Content | undefined): void => {
      this.#assembling -= entry.assembling;
      entry.assembling = 0;
      this.#command(number, entry, method, content);
    };
    const assembler = new CommandAssembler(receive, this.#line.maxMessageSize, this.#memory, BODY_STEP);
    const entry: Entry = { assembler, channel: undefined, assembling: 0 };
    this.#entries.set(number, entry);
    return entry;
  }

  /** Bodies that are begun on many channels and not ended must not add up to more than two of the largest. */
  #countBody(entry: Entry, length: number): void {
    const { maxMessageSize } = this.#line;
    // Of larger ones nothing is kept.
    const counted = Math.min(length, maxMessageSize - entry.assembling);
    entry.assembling += counted;
    this.#assembling += counted;
    if (this.#assembling > 2 * maxMessageSize) {
      throw new BrokerError('connection', 506, 'RESOURCE_ERROR - too many bodies are begun and not ended');
    }
  }

  #command(number: number, entry: Entry, method: Method, content: Content | undefined): void {
    if (entry.channel === undefined) {
      if (method.name !== 'channel.open') {
        throw new BlamedError(
          method.name,
          new BrokerError('connection', 504, "CHANNEL_ERROR - expected 'channel.open'"),
        );
      }
      entry.channel = new BrokerChannel(number, this.#line);
      this.#line.outbox.method(number, 'channel.open-ok', {});
      return;
    }
    try {
      if (entry.channel.handle(method, content) === 'gone') this.#entries.delete(number);
    } catch (error) {
      throw new BlamedError(method.name, error);
    }
    if (method.name === 'basic.publish') this.#published();
  }

  /** Ends all. Their consumers end before anything goes back to a queue, so that none of them gets it again. */
  end(): void {
    const { channels } = this;
    this.#entries.clear();
    if (channels.length === 0) return;
    this.#line.virtualHost.together(() => {
      for (const channel of channels) channel.deliveries.unsubscribeAll();
      for (const channel of channels) channel.deliveries.requeueAll();
    });
  }
}
