/** What the compiler says of contracts: `npm run type-check` holds the lines; the test is that they are there. */
import { expect, test } from '@jest/globals';
import { type } from 'arktype';
import {
  type AmqpPublisher,
  type AmqpRpcClient,
  Consume,
  type Delivery,
  type Infer,
  type InferInput,
  type InferReply,
  type InferReplyInput,
  message,
} from 'nest-amqp';
import { type Observable, of } from 'rxjs';
import * as v from 'valibot';
import { z } from 'zod';

/** True when both are the same type, not only assignable: assigning true to it holds that. */
type Same<A, B> =
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- two such functions are alike when A and B are
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

const to = { exchange: 'orders', routingKey: 'order.placed' } as const;
const ByZod = message({
  ...to,
  schema: z.object({ id: z.number(), at: z.iso.datetime().transform((at) => new Date(at)) }),
});
const ByValibot = message({ ...to, schema: v.object({ id: v.pipe(v.string(), v.transform(Number)) }) });
const ByArk = message({ ...to, schema: type({ id: 'number', 'note?': 'string' }) });
const PriceOf = message({
  exchange: '',
  routingKey: 'pricing',
  schema: z.object({ sku: z.string() }),
  reply: z.object({ price: z.coerce.number<string>() }),
});

test('a contract keeps what goes in and what comes out apart', () => {
  const claims: [
    Same<Infer<typeof ByZod>, { id: number; at: Date }>,
    Same<InferInput<typeof ByZod>, { id: number; at: string }>,
    Same<Infer<typeof ByValibot>, { id: number }>,
    Same<InferInput<typeof ByValibot>, { id: string }>,
    Same<Infer<typeof ByArk>, { id: number; note?: string }>,
    Same<InferReply<typeof PriceOf>, { price: number }>,
    Same<InferReplyInput<typeof PriceOf>, { price: string }>,
    Same<InferReply<typeof ByZod>, unknown>,
  ] = [true, true, true, true, true, true, true, true];
  expect(claims).not.toContain(false);
});

test('publishing by contract takes its input', () => {
  const publish = async (publisher: AmqpPublisher): Promise<void> => {
    await publisher.publish(ByZod, { id: 7, at: '2026-01-01T00:00:00Z' }, { priority: 1 });
    await publisher.publish(ByValibot, { id: '7' });
    await publisher.publish(ByArk, { id: 7 });
    await publisher.publish('orders', 'order.placed', { any: 'thing' });
    // @ts-expect-error -- what the handler gets is not what is published
    await publisher.publish(ByZod, { id: 7, at: new Date() });
    // @ts-expect-error -- not a string
    await publisher.publish(ByArk, { id: '7' });
    // @ts-expect-error -- a field is missing
    await publisher.publish(ByZod, { id: 7 });
    // @ts-expect-error -- a contract has its routing key
    await publisher.publish(ByZod, 'order.placed', { id: 7, at: '' });
    // @ts-expect-error -- there is no such option
    await publisher.publish(ByArk, { id: 7 }, { prioriti: 1 });
  };
  expect(publish).toBeDefined();
});

test('a request by contract resolves to what its reply says', () => {
  const request = async (rpc: AmqpRpcClient): Promise<void> => {
    const answer = await rpc.request(PriceOf, { sku: 'a' });
    const isReply: Same<typeof answer, { price: number }> = true;
    // @ts-expect-error -- not what the contract says
    await rpc.request(PriceOf, { sku: 1 });
    const other = await rpc.request<{ price: 1 }>('', 'pricing', {});
    const isSaid: Same<typeof other, { price: 1 }> = true;
    expect([answer, other, isReply, isSaid]).toBeDefined();
  };
  expect(request).toBeDefined();
});

test('a handler of a contract takes its output', () => {
  class Handlers {
    @Consume(ByZod, { queue: 'a', prefetch: 5 })
    payload(order: Infer<typeof ByZod>): number {
      return order.at.getTime();
    }

    @Consume(ByZod, { queue: 'b' })
    deliveryFirst(_delivery: Delivery<Infer<typeof ByZod>>, _order: { id: number }): void {
      // both fit
    }

    @Consume(ByZod, { queue: 'c' })
    field(_id: number): void {
      // a field of it
    }

    @Consume(ByZod, { queue: 'd' })
    nothing(): void {
      // needs none
    }

    @Consume(PriceOf, { queue: 'pricing' })
    price(_item: { sku: string }): { price: string } {
      return { price: '1' };
    }

    @Consume(PriceOf, { queue: 'pricing' })
    async priceLater(_item: { sku: string }): Promise<{ price: string }> {
      return await Promise.resolve({ price: '1' });
    }

    @Consume(PriceOf, { queue: 'pricing' })
    prices(_item: { sku: string }): Observable<{ price: string }> {
      return of({ price: '1' });
    }

    @Consume(PriceOf, { queue: 'pricing' })
    async *pricesLater(_item: { sku: string }): AsyncGenerator<{ price: string }> {
      yield await Promise.resolve({ price: '1' });
    }

    @Consume(ByArk, { queue: 'g', batch: { size: 3 } })
    batch(_orders: readonly { id: number }[], _deliveries: Delivery<Infer<typeof ByArk>>[]): void {
      // lists
    }

    @Consume(ByArk, { queue: 'h', batch: { size: 3 } })
    batchOfFields(_ids: number[]): void {
      // a field of each
    }

    // @ts-expect-error -- a batch is a list
    @Consume(ByArk, { queue: 'i', batch: { size: 3 } })
    notAList(_order: { id: number }): void {
      // does not fit
    }

    // @ts-expect-error -- a list of something else
    @Consume(ByArk, { queue: 'j', batch: { size: 3 } })
    otherList(_orders: { id: string }[]): void {
      // does not fit
    }

    // @ts-expect-error -- takes what is published, not what comes out
    @Consume(ByZod, { queue: 'e' })
    input(_order: InferInput<typeof ByZod>): void {
      // does not fit
    }

    // @ts-expect-error -- another message
    @Consume(ByArk, { queue: 'f' })
    other(_order: { sku: string }): void {
      // does not fit
    }

    // @ts-expect-error -- replies with something else
    @Consume(PriceOf, { queue: 'pricing' })
    priced(_item: { sku: string }): { price: number } {
      return { price: 1 };
    }
  }
  expect(Handlers).toBeDefined();
});

test('a contract needs a schema', () => {
  // @ts-expect-error -- a function is no schema
  expect(() => message({ ...to, schema: () => true })).toThrow('Standard Schema');
  // @ts-expect-error -- it has to say what the payload is
  expect(() => message(to)).toThrow('Standard Schema');
});
