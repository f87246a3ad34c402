/**
 * An application that prints what happens to it, and shuts down by signals. Its handler ends at once, when it reads `finish`, or
 * never, as the message says. Run by `signals.test.ts` beside the installed package.
 */
import 'reflect-metadata';
import { once } from 'node:events';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { AmqpModule, Consume } from 'nest-amqp';

const { AMQP_URL = '', QUEUE = '' } = process.env;

/** @param {string} line */
function print(line) {
  process.stdout.write(`${line}\n`);
}

const finish = once(process.stdin, 'data');

class Billing {
  /**
   * @param {string} payload
   * @param {import('nest-amqp').Delivery} delivery
   */
  async charge(payload, delivery) {
    print(`began ${payload}`);
    delivery.signal.addEventListener('abort', () => {
      print(`aborted ${payload}`);
    });
    if (payload === 'slow') await finish;
    if (payload === 'stuck') await new Promise(() => undefined);
    print(`ended ${payload}`);
  }

  onModuleDestroy() {
    print('database closed');
  }
}
const { charge } = Object.getOwnPropertyDescriptors(Billing.prototype);
Consume(QUEUE, { prefetch: 3 })(Billing.prototype, 'charge', charge);

Logger.overrideLogger(false);
const app = await NestFactory.createApplicationContext({
  module: Billing,
  imports: [AmqpModule.forRoot({ url: AMQP_URL, shutdownTimeout: '1h' })],
});
app.enableShutdownHooks();
print('ready');
