/** Messages that are decoded as they come, and handed on in that order, whichever takes longest. */
import { types } from 'node:util';
import type { Message } from '../client/message.js';
import type { Decoder } from './decoder.js';
import type { DeliveryScope } from './delivery.js';

/** One that is being decoded, or that waits for one before it. */
interface Arrival {
  readonly message: Message;
  /** Hands it on; undefined while it is being decoded. */
  handOn: (() => void) | undefined;
}

export class DecodedArrivals {
  readonly #decode: Decoder;
  readonly #decoded: (message: Message, payload: unknown, scope: DeliveryScope) => void;
  readonly #failed: (message: Message, error: unknown, scope: DeliveryScope) => void;
  #arrivals: Arrival[] = [];

  /** Neither function may throw. */
  constructor(
    decode: Decoder,
    decoded: (message: Message, payload: unknown, scope: DeliveryScope) => void,
    failed: (message: Message, error: unknown, scope: DeliveryScope) => void,
  ) {
    this.#decode = decode;
    this.#decoded = decoded;
    this.#failed = failed;
  }

  add(message: Message, scope: DeliveryScope): void {
    const arrival: Arrival = { message, handOn: undefined };
    this.#arrivals.push(arrival);
    const decoded = (payload: unknown): void => {
      arrival.handOn = () => {
        this.#decoded(message, payload, scope);
      };
      this.#handOn();
    };
    const failed = (error: unknown): void => {
      arrival.handOn = () => {
        this.#failed(message, error, scope);
      };
      this.#handOn();
    };
    let payload: unknown;
    try {
      payload = this.#decode(message);
    } catch (error) {
      failed(error);
      return;
    }
    if (types.isPromise(payload)) payload.then(decoded, failed);
    else decoded(payload);
  }

  /** Takes out what was not handed on. */
  clear(): Message[] {
    return this.#arrivals.splice(0).map(({ message }) => message);
  }

  #handOn(): void {
    for (;;) {
      const handOn = this.#arrivals[0]?.handOn;
      if (handOn === undefined) return;
      this.#arrivals.shift();
      handOn();
    }
  }
}
