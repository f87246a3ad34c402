/**
 * What tests of the client share: a connection to a scripted peer, errors as values, and frames as bytes. It holds no
 * state; waiting is `waits.ts`.
 */
import { randomUUID } from 'node:crypto';
import { inspect } from 'node:util';

import type { Channel, ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { ConnectionOptions } from '../../lib/client/connection-options.js';
import { AmqpError } from '../../lib/errors.js';
import { writeMethodFrame } from '../../lib/protocol/frame.js';
import type { MethodArgs, MethodName } from '../../lib/protocol/methods.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { type ScriptedHandshake, ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { within } from './waits.js';

/** A name that no other test uses. */
export function unique(what: string): string {
  return `test.${what}.${randomUUID()}`;
}

/** Whether the broker is a RabbitMQ below 4.0, where that and the later ones differ. The embedded one does as 4.0. */
export function isRabbitMq3(connection: Connection): boolean {
  return rabbitMqVersion(connection) < 4;
}

/** Whether the broker is RabbitMQ 4.3 or later, where those and 4.0 differ. */
export function isRabbitMq43(connection: Connection): boolean {
  return rabbitMqVersion(connection) >= 4.03;
}

/** 4.3.6 as 4.03, so that versions compare; the embedded broker is taken for the 4.0 that it follows. */
function rabbitMqVersion({ serverProperties: { product, version } }: Connection): number {
  if (product !== 'RabbitMQ' || typeof version !== 'string') return 4;
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major + minor / 100;
}

/** The `AmqpError` with which `promise` rejects. */
export async function failure(promise: Promise<unknown>): Promise<AmqpError> {
  const result = await within('a failure', promise).catch((error: unknown) => {
    if (error instanceof AmqpError) return error;
    throw error;
  });
  if (result instanceof AmqpError) return result;
  throw new Error(`It did not fail; it gave ${inspect(result)}.`);
}

/** The `AmqpError` that `run` throws. */
export function thrown(run: () => unknown): AmqpError {
  try {
    run();
  } catch (error) {
    if (error instanceof AmqpError) return error;
    throw error;
  }
  throw new Error('It did not throw.');
}

/** What a class `Billing` is refused with whose method `charge` has this decorator. */
export function refusalOf(decorator: MethodDecorator): AmqpError {
  return thrown(() => {
    class Billing {
      @decorator
      charge(): void {
        // never runs
      }
    }
    return Billing;
  });
}

/** Everything that anybody may ever print of an error: its fields, its stack, its causes. */
export function everythingOf(error: unknown): string {
  const parts: string[] = [];
  for (let at = error; at !== undefined && parts.length < 50; at = (at as { cause?: unknown }).cause) {
    const { message, stack } = at as { message?: unknown; stack?: unknown };
    parts.push(String(message), String(stack), inspect(at, { depth: 10, showHidden: true }), JSON.stringify(at));
  }
  return parts.join('\n');
}

/** A connection whose broker is the test. */
export async function scripted(
  options: ConnectionOptions = {},
  handshake: ScriptedHandshake = {},
): Promise<{ readonly peer: ScriptedPeer; readonly connection: Connection }> {
  const peer = new ScriptedPeer();
  const [connection] = await Promise.all([
    connect({ dial: () => peer.transport, ...options }),
    peer.handshake(handshake),
  ]);
  return { peer, connection };
}

/** A channel whose broker is the test. */
export async function scriptedChannel(
  options?: ConnectionOptions,
  handshake?: ScriptedHandshake,
): Promise<{ readonly peer: ScriptedPeer; readonly connection: Connection; readonly channel: Channel }> {
  const { peer, connection } = await scripted(options, handshake);
  const [channel] = await Promise.all([connection.channel(), peer.openChannel()]);
  return { peer, connection, channel };
}

/** A confirm channel whose broker is the test. */
export async function scriptedConfirmChannel(
  options?: ConnectionOptions,
): Promise<{ readonly peer: ScriptedPeer; readonly connection: Connection; readonly channel: ConfirmChannel }> {
  const { peer, connection, channel } = await scriptedChannel(options);
  const [confirming] = await Promise.all([channel.confirmSelect(), peer.answer('confirm.select-ok', {})]);
  return { peer, connection, channel: confirming };
}

/** A method frame as bytes, to be cut, joined or broken before it is sent. */
export function frameOf<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): Buffer {
  const writer = new WireWriter();
  writeMethodFrame(writer, 0, channel, name, args);
  return writer.take();
}
