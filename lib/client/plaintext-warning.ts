/** Warns of a password that crosses a network unencrypted. Whether it may is the user's to decide. */
import { type ResolvedConnectionOptions, addressOf } from './connection-options.js';

/** Those that were warned for. An `AmqpConnection` has one object of options per host, and keeps it. */
const warned = new WeakSet<ResolvedConnectionOptions>();

/**
 * For a connection without TLS to this address: a process warning with the code `NEST_AMQP_PLAINTEXT_CREDENTIALS`, once per
 * object of options, when the password goes as it is (PLAIN, AMQPLAIN) and leaves this machine.
 */
export function warnOfPlaintext(options: ResolvedConnectionOptions, remoteAddress: string | undefined): void {
  if (remoteAddress === undefined || isLoopback(remoteAddress) || warned.has(options)) return;
  if (!options.mechanisms.some((mechanism) => mechanism === 'PLAIN' || mechanism === 'AMQPLAIN')) return;
  warned.add(options);
  process.emitWarning(
    `User name and password go to ${addressOf(options)} unencrypted: everybody on the way can read them. ` +
      'Use amqps://, or the option tls.',
    { code: 'NEST_AMQP_PLAINTEXT_CREDENTIALS' },
  );
}

function isLoopback(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\./i.test(address);
}
