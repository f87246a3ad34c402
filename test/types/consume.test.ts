/** What the compiler says of `@Consume`: `npm run type-check` holds the lines, and the tests say what they are about. */
import { expect, test } from '@jest/globals';
import { type } from 'arktype';
import {
  Consume,
  type ConsumeContractOptions,
  type ConsumeHandlerOptions,
  type ConsumeOptionsWithQueue,
  type Delivery,
  type Infer,
  type QueueDefinition,
  message,
  queue,
} from 'nest-amqp';
import * as v from 'valibot';
import { z } from 'zod';

/** True when both are the same type, not only assignable: assigning true to it holds that. */
type Same<A, B> =
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- two such functions are alike when A and B are
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

/** Holds that a value has a type: `is<string>()(value)` does not compile for any other, be it assignable or not. */
const is =
  <T>() =>
  <U>(_value: U, ..._others: Same<T, U> extends true ? [] : ['is another type']): void => {
    // says it to the compiler
  };

interface Order {
  readonly id: number;
}

const schema = z.object({ id: z.number() });
const OrderPlaced = message({
  exchange: 'orders',
  routingKey: 'order.placed',
  schema: z.object({ id: z.number(), at: z.string().transform((at) => new Date(at)) }),
});
const PriceOf = message({
  exchange: '',
  routingKey: 'pricing',
  schema: z.object({ sku: z.string() }),
  reply: z.object({ price: z.number() }),
});
const Anything = message({ exchange: '', routingKey: 'anything', schema: z.any() });

class Settings {
  readonly queue: string = 'billing';
}
class NarrowSettings extends Settings {
  readonly suffix: string = '.eu';
}
class Clock {
  readonly now: number = 0;
}
abstract class Store {
  abstract readonly name: string;
}
interface Shape {
  readonly prefetch: number;
}

test('orderBy has the payload of the contract or of the schema, else unknown, or what is said', () => {
  class Handlers {
    @Consume(OrderPlaced, {
      queue: 'a',
      orderBy: ({ payload }) => {
        is<{ id: number; at: Date }>()(payload);
        return payload.at.getTime();
      },
    })
    contract(_order: Infer<typeof OrderPlaced>): void {
      // fits
    }

    @Consume(PriceOf, { orderBy: ({ payload }) => payload.sku })
    queueContract(_item: { sku: string }): { price: number } {
      return { price: 1 };
    }

    @Consume('b', { orderBy: ({ payload }) => payload.id.toFixed(), schema })
    schema(_order: Order): void {
      // fits
    }

    @Consume({ queue: 'c', schema: type({ id: 'number' }), orderBy: ({ payload }) => payload.id.toFixed() })
    inOneObject(_order: Order): void {
      // fits
    }

    @Consume('d', {
      orderBy: ({ payload }) => {
        is<unknown>()(payload);
        return 1;
      },
    })
    unknown(_order: Order): void {
      // nobody knows
    }

    @Consume('e', { orderBy: ({ payload }: Delivery<Order>) => payload.id })
    said(_order: Order): void {
      // as it is said
    }

    // @ts-expect-error -- there is no such field
    @Consume(OrderPlaced, { queue: 'f', orderBy: ({ payload }) => String(payload.customer) })
    noField(_order: Infer<typeof OrderPlaced>): void {
      // does not fit
    }

    // @ts-expect-error -- there is no such field
    @Consume('g', { schema, orderBy: ({ payload }) => String(payload.customer) })
    noFieldOfSchema(_order: Order): void {
      // does not fit
    }

    // @ts-expect-error -- another payload than the schema's
    @Consume('h', { schema, orderBy: ({ payload }: Delivery<{ sku: string }>) => payload.sku })
    otherPayload(_order: Order): void {
      // does not fit
    }
  }
  expect(Handlers).toBeDefined();
});

test('a factory is called with instances of classes, and with what it says of other tokens', () => {
  const TOKEN = Symbol('token');
  class Handlers {
    @Consume({
      inject: [Settings, Store, 'SHAPE', TOKEN],
      useFactory: (settings, store, shape, token) => {
        is<Settings>()(settings);
        is<Store>()(store);
        is<unknown>()(shape);
        is<unknown>()(token);
        return { queue: settings.queue + store.name };
      },
    })
    each(_order: Order): void {
      // any
    }

    @Consume({
      inject: ['SHAPE', Clock],
      useFactory: (shape: Shape, clock) => ({ queue: 'a', ...shape, ...at(clock) }),
    })
    annotated(_order: Order): void {
      // any
    }

    @Consume({
      inject: [
        { token: Settings, optional: true },
        { token: Clock, optional: false },
        { token: 'SHAPE', optional: true },
      ],
      useFactory: (settings, clock, shape?: Shape) => {
        is<Settings | undefined>()(settings);
        is<Clock>()(clock);
        return { queue: settings?.queue ?? 'a', prefetch: shape?.prefetch ?? 1 };
      },
    })
    optional(_order: Order): void {
      // any
    }

    @Consume({
      inject: [Settings],
      useFactory: async (of: NarrowSettings) => await Promise.resolve({ queue: of.suffix }),
    })
    narrowed(_order: Order): void {
      // any
    }

    @Consume({
      useFactory: () => ({ queue: 'a', ack: 'manual', deadLetter: { by: 'broker' }, retry: { delays: ['1s'] } }),
    })
    literals(_order: Order): void {
      // are what the options want, not only text
    }

    // @ts-expect-error -- not what is injected
    @Consume({ inject: [Settings], useFactory: (clock: Clock) => ({ queue: 'a', prefetch: clock.now }) })
    otherClass(_order: Order): void {
      // does not fit
    }

    // @ts-expect-error -- unknown until it is said
    @Consume({ inject: ['SHAPE'], useFactory: (shape) => ({ queue: 'a', prefetch: Number(shape.prefetch) }) })
    unsaid(_order: Order): void {
      // does not fit
    }

    // @ts-expect-error -- may be missing
    @Consume({ inject: [{ token: Settings, optional: true }], useFactory: (settings) => ({ queue: settings.queue }) })
    missing(_order: Order): void {
      // does not fit
    }
  }
  expect(Handlers).toBeDefined();
});

/** Options that come from somewhere. */
function at({ now }: Clock): { readonly priority: number } {
  return { priority: now };
}

test('a contract of the default exchange needs no queue, any other does', () => {
  class Handlers {
    @Consume(PriceOf)
    alone(_item: { sku: string }): { price: number } {
      return { price: 1 };
    }

    @Consume(PriceOf, { prefetch: 5 })
    withOptions(_item: { sku: string }): { price: number } {
      return { price: 1 };
    }

    @Consume(PriceOf, { queue: queue({ name: 'pricing', type: 'quorum' }) })
    defined(_item: { sku: string }): { price: number } {
      return { price: 1 };
    }

    @Consume(Anything)
    anything(_order: Order): void {
      // `any` fits whatever is taken
    }

    // @ts-expect-error -- another message
    @Consume(PriceOf)
    other(_order: Order): { price: number } {
      return { price: 1 };
    }

    // @ts-expect-error -- replies with something else
    @Consume(PriceOf)
    otherReply(_item: { sku: string }): { price: string } {
      return { price: '1' };
    }
  }
  expect(Handlers).toBeDefined();
  const told: Parameters<typeof Consume<typeof OrderPlaced>>[0] =
    'a contract of an exchange needs a queue: @Consume(contract, { queue })';
  expect(told).toBeDefined();
  // @ts-expect-error -- whose queue?
  Consume(OrderPlaced);
  // @ts-expect-error -- whose queue?
  Consume(OrderPlaced, { prefetch: 5 });
  // @ts-expect-error -- the contract has a schema
  Consume(PriceOf, { schema });
});

test('a handler takes what its schema makes', () => {
  const SIZE: number = 3;
  class Handlers {
    @Consume('a', { schema })
    payload(_order: Order, _delivery: Delivery<Order>): void {
      // fits
    }

    @Consume('a', { schema: v.object({ id: v.pipe(v.string(), v.transform(Number)) }) })
    output(_order: Order): void {
      // fits
    }

    @Consume({ queue: 'a', schema })
    delivery(_tenant: symbol, _delivery: Delivery<Order>): void {
      // another parameter takes the delivery
    }

    @Consume({ name: 'a', type: 'quorum' }, { schema })
    field(_id: number): void {
      // fits
    }

    @Consume('a', { schema })
    nothing(): void {
      // needs none
    }

    @Consume('a', { schema })
    unknown(_payload: unknown): void {
      // takes everything
    }

    @Consume('a', { schema, batch: { size: 3 } })
    batch(_orders: readonly Order[], _deliveries: Delivery<Order>[]): void {
      // lists
    }

    @Consume({ queue: 'a', schema, batch: { size: 3, maxWait: '1s' } })
    batchInOneObject(_orders: Order[]): void {
      // a list
    }

    @Consume('a', { schema, batch: { size: SIZE } })
    batchOfSomeSize(_orders: Order[]): void {
      // a list
    }

    // @ts-expect-error -- what is on the wire, not what comes out
    @Consume('a', { schema: v.object({ id: v.pipe(v.string(), v.transform(Number)) }) })
    input(_order: { id: string }): void {
      // does not fit
    }

    // @ts-expect-error -- another message
    @Consume('a', { schema })
    other(_item: { sku: string }): void {
      // does not fit
    }

    // @ts-expect-error -- another message
    @Consume({ queue: 'a', schema })
    otherInOneObject(_item: { sku: string }): void {
      // does not fit
    }

    // @ts-expect-error -- another message
    @Consume('a', { schema })
    otherDelivery(_delivery: Delivery<{ sku: string }>): void {
      // does not fit
    }

    // @ts-expect-error -- a batch is a list
    @Consume('a', { schema, batch: { size: 3 } })
    notAList(_order: Order): void {
      // does not fit
    }

    // @ts-expect-error -- a list, and no batch
    @Consume('a', { schema })
    aList(_orders: Order[]): void {
      // does not fit
    }
  }
  expect(Handlers).toBeDefined();
});

test('options that come from elsewhere decorate any method', () => {
  const options: ConsumeHandlerOptions = { prefetch: 5 };
  const inOneObject: ConsumeOptionsWithQueue = { queue: 'a' };
  const ofContract: ConsumeContractOptions = { queue: 'a' };
  const definition: QueueDefinition = queue({ name: 'a' });
  const nameOrDefinition = definition as string | QueueDefinition;
  class Handlers {
    @Consume('a', options)
    @Consume('a', undefined)
    @Consume(definition)
    @Consume(definition, options)
    @Consume(nameOrDefinition)
    @Consume(nameOrDefinition, options)
    @Consume(inOneObject)
    any(_order: Order): void {
      // nobody knows
    }

    @Consume(OrderPlaced, ofContract)
    one(_order: Infer<typeof OrderPlaced>): void {
      // may be
    }

    @Consume(OrderPlaced, ofContract)
    many(_orders: Infer<typeof OrderPlaced>[]): void {
      // may be, too
    }

    // @ts-expect-error -- neither one nor many
    @Consume(OrderPlaced, ofContract)
    neither(_item: { sku: string }): void {
      // does not fit
    }
  }
  expect(Handlers).toBeDefined();
});

test('a misspelt option is refused wherever options are written', () => {
  // @ts-expect-error -- it is prefetch
  Consume('a', { prefech: 5 });
  // @ts-expect-error -- it is prefetch
  Consume('a', { schema, prefech: 5 });
  // @ts-expect-error -- it is prefetch
  Consume({ name: 'a' }, { prefech: 5 });
  // @ts-expect-error -- it is prefetch
  Consume(OrderPlaced, { queue: 'a', prefech: 5 });
  // @ts-expect-error -- it is prefetch
  Consume(PriceOf, { prefech: 5 });
  // @ts-expect-error -- it is prefetch
  Consume({ queue: 'a', prefech: 5 });
  // @ts-expect-error -- a field of definitions
  Consume({ queue: 'a', durable: false });
  // @ts-expect-error -- it is name
  Consume({ nam: 'a', type: 'quorum' });
  // @ts-expect-error -- it is name
  Consume({ nam: 'a', type: 'quorum' }, { prefetch: 5 });
  // @ts-expect-error -- it is prefetch
  Consume({ useFactory: () => ({ queue: 'a', prefech: 5 }) });
  // @ts-expect-error -- it is prefetch
  Consume({ inject: [Clock], useFactory: async ({ now }) => await Promise.resolve({ queue: 'a', prefech: now }) });
  // @ts-expect-error -- it is inject
  Consume({ injekt: [Clock], useFactory: () => ({ queue: 'a' }) });
  // @ts-expect-error -- queue is among what the factory gives
  Consume({ queue: 'a', useFactory: () => ({ queue: 'a' }) });
  // @ts-expect-error -- it is maxWait
  Consume('a', { batch: { size: 5, maxWiat: '1s' } });
  // @ts-expect-error -- it is attempts
  Consume('a', { retry: { atempts: 5 } });
  // @ts-expect-error -- it has to be a number
  Consume('a', { prefetch: '5' });
  // @ts-expect-error -- it has to be a number
  Consume({ useFactory: () => ({ queue: 'a', prefetch: '5' }) });
  // @ts-expect-error -- there is no queue
  Consume({ useFactory: () => ({ prefetch: 5 }) });
  // @ts-expect-error -- a name out of the environment may be missing
  Consume(process.env['QUEUE']);
  expect(Consume('a')).toBeInstanceOf(Function);
});
