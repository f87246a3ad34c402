/**
 * An application under load that may be killed at any instant. A message says itself what comes of it; what was done is
 * published to a ledger, confirmed, before the handler returns. Run by `random-kills.test.ts` beside the installed package.
 */
import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Inject, Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { AmqpModule, AmqpPublisher, Consume, RejectDelivery } from 'nest-amqp';

const { AMQP_URL = '', QUEUE = '', LEDGER = '', DELAYS = '' } = process.env;
/** Longest time that a handler works, in milliseconds. */
const WORK = 30;

class Billing {
  /** @type {AmqpPublisher | undefined} */
  publisher;

  /**
   * @param {{ id: number, fate: string }} order
   * @param {import('nest-amqp').Delivery} delivery
   */
  async charge({ id, fate }, { attempt }) {
    await delay(Math.random() * WORK);
    if (fate === 'refused') throw new RejectDelivery();
    if (fate === 'failing' || (fate === 'failing once' && attempt === 1)) throw new Error('the database is down');
    await this.publisher?.sendToQueue(LEDGER, { id, fate });
  }
}
const delays = DELAYS.split(',').map(Number);
// What decorators come to where there is no TypeScript.
Inject(AmqpPublisher)(Billing.prototype, 'publisher');
const { charge } = Object.getOwnPropertyDescriptors(Billing.prototype);
Consume(QUEUE, { retry: { delays } })(Billing.prototype, 'charge', charge);

Logger.overrideLogger(false);
const app = await NestFactory.createApplicationContext({
  module: Billing,
  imports: [AmqpModule.forRoot({ url: AMQP_URL })],
});
app.enableShutdownHooks();
process.stdout.write('ready\n');
