/**
 * What handlers of single deliveries and of batches have in common: messages that wait for their turn, which differ, and answers to
 * those that were begun, which are `delivery-answers`'s.
 */
import type { Message } from '../client/message.js';
import type { MessageReceiver } from './consumer.js';
import type { DeliveryAnswers } from './delivery-answers.js';
import type { RunningDelivery } from './running-deliveries.js';

export abstract class AnsweredDeliveries implements MessageReceiver {
  protected abstract readonly answers: DeliveryAnswers;

  get underWay(): number {
    return this.answers.underWay;
  }

  get oldest(): RunningDelivery | undefined {
    return this.answers.oldest;
  }

  abstract receive(message: Message): void;

  /** Forgets what has not begun, and hands it out. */
  protected abstract takeWaiting(): Message[];

  renew(): void {
    this.answers.renew();
  }

  lost(why: string): void {
    this.takeWaiting();
    this.answers.lost(why);
  }

  giveBack(): void {
    for (const message of this.takeWaiting()) message.nack();
  }

  stop(): void {
    this.giveBack();
    this.answers.stop();
  }

  async idle(): Promise<void> {
    await this.answers.idle();
  }

  abandon(until: string): void {
    this.answers.abandon(until);
  }
}
