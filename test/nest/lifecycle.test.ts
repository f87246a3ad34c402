/** When an application's connection opens, its consumers start and stop, and what happens while the broker is away. */
import {
  Global,
  Injectable,
  Module,
  type BeforeApplicationShutdown,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  type OnModuleDestroy,
  type OnModuleInit,
} from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpChannel,
  AmqpConnection,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  Delivery,
  getConnectionToken,
} from 'nest-amqp';

import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { everythingOf, failure } from '../support/client.js';
import { TestApp, isNest11 } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
/** What happened, in order; each test has its own. */
let events: Inbox<string>;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  events = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const testUnlessNest11 = isNest11 ? test.skip : test;
const FAST = { initialDelay: 1, maxDelay: 20 };

function amqp(options: AmqpModuleOptions & { isGlobal?: boolean } = {}): ReturnType<typeof AmqpModule.forRoot> {
  return AmqpModule.forRoot({ url: brokerUrl, connection: { dial: line.dial, recovery: FAST }, ...options });
}

describe('an application that boots', () => {
  test('has its topology on the broker before any onModuleInit, and may publish in it', async () => {
    const queue = scratch.queueName();
    const topology = { queues: [{ name: queue }] };
    @Injectable()
    class Seeds implements OnModuleInit {
      constructor(readonly publisher: AmqpPublisher) {}

      async onModuleInit(): Promise<void> {
        await this.publisher.sendToQueue(queue, 'seed');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp({ topology })], providers: [Seeds] });
    expect((await scratch.take(queue)).body.toString()).toBe('"seed"');
    expect(app.log.text('warn')).toBe('');
  });

  test.each([
    ['a global module that is imported before it', true],
    ['a module that imports it', false],
  ])('is set up also before the onModuleInit of %s', async (_what, isGlobal) => {
    const queue = scratch.queueName();
    const module = amqp({ topology: { queues: [{ name: queue }] }, isGlobal });
    @Injectable()
    class Seeds implements OnModuleInit {
      constructor(readonly publisher: AmqpPublisher) {}

      async onModuleInit(): Promise<void> {
        await this.publisher.sendToQueue(queue, 'seed', { timeout: '5s' });
      }
    }
    @Global()
    @Module({ providers: [Seeds] })
    class EarlyModule {}
    @Module({ imports: [module], providers: [Seeds] })
    class ImportingModule {}
    await using app = await TestApp.boot({ imports: isGlobal ? [EarlyModule, module] : [ImportingModule] });
    await scratch.hasMessages(queue, 1);
    expect(app.get(AmqpConnection).status.state).toBe('open');
  });

  test('starts consuming after every onApplicationBootstrap, also that of modules nearer than its own', async () => {
    const queue = await scratch.queue();
    await scratch.sendJson(queue, 'waiting');
    class Hooks implements OnApplicationBootstrap {
      async onApplicationBootstrap(): Promise<void> {
        const before = await scratch.state(queue);
        events.push(`bootstrap with ${String(before?.consumerCount)} consumers`);
      }
    }
    @Module({ providers: [Hooks] })
    class DeepModule {}
    @Module({ imports: [DeepModule] })
    class MiddleModule {}
    class Billing {
      @Consume(queue)
      charge(payload: string): void {
        events.push(payload);
      }
    }
    await using app = await TestApp.boot({ imports: [MiddleModule, amqp()], providers: [Hooks, Billing] });
    const seen = [await events.next(), await events.next(), await events.next()];
    expect(seen).toEqual(['bootstrap with 0 consumers', 'bootstrap with 0 consumers', 'waiting']);
    expect(app.log.text('error')).toBe('');
  });
});

describe('an application that requires its broker', () => {
  test('fails its boot with what the last attempt failed with, after startupTimeout', async () => {
    const started = performance.now();
    const boot = TestApp.boot({ imports: [AmqpModule.forRoot({ url: 'amqp://127.0.0.1:1', startupTimeout: 200 })] });
    const error = await failure(boot);
    expect(error.code).toBe('CONNECT_FAILED');
    expect(error.message).toContain('127.0.0.1:1');
    expect(performance.now() - started).toBeGreaterThanOrEqual(199);
  });

  test('waits for a broker that comes within startupTimeout', async () => {
    line.isDown = true;
    const app = await TestApp.compile({ imports: [amqp({ startupTimeout: '10s' })] });
    const booted = app.module.init();
    await app.log.next('warn', 'is down');
    line.isDown = false;
    await within('the boot', booted);
    expect(app.get(AmqpConnection).status.state).toBe('open');
    await app.close();
  });

  test('fails at once when the password is wrong, and tells it to nobody', async () => {
    const url = new URL(brokerUrl);
    url.password = 'not-the-s3cret';
    const app = await TestApp.compile({ imports: [AmqpModule.forRoot({ url: url.href, startupTimeout: '10m' })] });
    const error = await failure(app.module.init());
    expect(error.code).toBe('AUTHENTICATION_FAILED');
    expect(`${everythingOf(error)}\n${app.log.text()}`).not.toContain('s3cret');
    await app.close();
  });

  test('fails at once when the virtual host is not there', async () => {
    const url = new URL(brokerUrl);
    url.pathname = '/test-no-such-vhost';
    const boot = TestApp.boot({ imports: [AmqpModule.forRoot({ url: url.href, startupTimeout: '10m' })] });
    expect(await failure(boot)).toMatchObject({ code: 'VHOST_REFUSED' });
  });

  test('fails at once when its topology conflicts with the broker’s', async () => {
    const name = await scratch.queue({ arguments: { 'x-max-length': 5 } });
    const boot = TestApp.boot({ imports: [amqp({ startupTimeout: '10m', topology: { queues: [{ name }] } })] });
    expect(await failure(boot)).toMatchObject({ code: 'TOPOLOGY_CONFLICT', replyCode: 406 });
  });

  test('closes its other connections when one of them cannot be opened', async () => {
    const app = await TestApp.compile({
      imports: [
        amqp(),
        AmqpModule.forRoot({ name: 'audit', url: 'amqp://127.0.0.1:1', startupTimeout: 1 }),
        AmqpModule.forRoot({ name: 'later', url: 'amqp://127.0.0.1:1', startup: 'background' }),
      ],
    });
    expect(await failure(app.module.init())).toMatchObject({ code: 'CONNECT_FAILED' });
    for (const name of ['default', 'audit', 'later']) {
      expect((app.get(getConnectionToken(name) as string) as AmqpConnection).status.state).toBe('closed');
    }
    await app.close();
  });

  test('closes its connections, and runs no consumer, when one of its consumers cannot start', async () => {
    const [queue, deferred] = [await scratch.queue(), await scratch.queue({ durable: false, exclusive: true })];
    class Billing {
      @Consume(queue)
      charge(): void {
        // takes them
      }

      // It is another connection's own.
      @Consume(deferred)
      defer(): void {
        // never runs
      }
    }
    const app = await TestApp.compile({
      imports: [amqp(), AmqpModule.forRoot({ name: 'audit', url: brokerUrl })],
      providers: [Billing],
    });
    expect(await failure(app.module.init())).toMatchObject({ replyCode: 405 });
    expect(app.get(AmqpConnection).status.state).toBe('closed');
    expect((app.get(getConnectionToken('audit') as string) as AmqpConnection).status.state).toBe('closed');
    await scratch.hasConsumers(queue, 0);
    await app.close();
  });

  test('closes its connections when a publish interceptor of another one cannot be made', async () => {
    class NoInterceptor {
      readonly isNone = true;
    }
    const app = await TestApp.compile({
      imports: [
        amqp(),
        AmqpModule.forRoot({ name: 'audit', url: brokerUrl, publisher: { interceptors: [NoInterceptor as never] } }),
      ],
    });
    expect(await failure(app.module.init())).toMatchObject({ code: 'INVALID_OPTION' });
    for (const name of ['default', 'audit']) {
      expect((app.get(getConnectionToken(name) as string) as AmqpConnection).status.state).toBe('closed');
    }
    await app.close();
  });

  test('fails its boot when the broker goes away before its consumers have started, after startupTimeout', async () => {
    class Cuts implements OnApplicationBootstrap {
      onApplicationBootstrap(): void {
        line.isDown = true;
        line.cut();
      }
    }
    class Billing {
      @Consume(scratch.queueName())
      charge(): void {
        // never runs
      }
    }
    const app = await TestApp.compile({ imports: [amqp({ startupTimeout: '4s' })], providers: [Cuts, Billing] });
    expect((await failure(app.module.init())).message).toContain('ECONNREFUSED');
    expect(app.get(AmqpConnection).status.state).toBe('closed');
    await app.close();
  });

  // Closing an application whose boot failed runs no hook in Nest 11.
  testUnlessNest11('leaves no connection behind when its boot fails, once it is closed', async () => {
    class Fails implements OnModuleInit {
      onModuleInit(): void {
        throw new Error('the database is down');
      }
    }
    const app = await TestApp.compile({ imports: [amqp()], providers: [Fails] });
    await expect(app.module.init()).rejects.toThrow('the database is down');
    await app.close();
    expect(app.get(AmqpConnection).status.state).toBe('closed');
  });
});

/** Resolves when so many attempts to connect have been made, and all but the last have failed. */
async function attempts(connection: AmqpConnection, count: number): Promise<void> {
  const made = new Gate();
  const look = (): void => {
    const { status } = connection;
    if (status.state === 'connecting' && status.attempt >= count) made.open();
  };
  connection.on('status', look);
  look();
  await within(`attempt ${count} to connect`, made.opened);
}

/** Not Nest's own. */
const isOfAmqp = (text: string): boolean => text.includes('AmqpModule') && !text.includes('InstanceLoader');

describe('an application that starts in the background', () => {
  test('boots without a broker, and declares, consumes and publishes when it comes', async () => {
    const queue = scratch.queueName();
    line.isDown = true;
    class Billing {
      @Consume(queue)
      charge(payload: string): void {
        events.push(payload);
      }
    }
    await using app = await TestApp.boot({
      imports: [amqp({ startup: 'background', topology: { queues: [{ name: queue, maxLength: 5 }] } })],
      providers: [Billing],
    });
    expect(app.get(AmqpConnection).status.state).toBe('connecting');
    const waiting = app.get(AmqpPublisher).sendToQueue(queue, 'published before');
    expect(await app.log.next('warn', 'is down')).toContain('ECONNREFUSED');
    line.isDown = false;
    await within('the publish', waiting);
    expect(await events.next()).toBe('published before');
    // It is the queue of the topology: the broker compares.
    const channel = app.get(AmqpChannel);
    await channel.queueDeclare(queue, { arguments: { 'x-max-length': 5 } });
  });

  test('says once that there is no broker, and what that means, and once that there is one; so of every outage', async () => {
    const queues = [scratch.queueName(), scratch.queueName()];
    class Billing {
      @Consume(queues[0] as string)
      charge(): void {
        // takes them
      }

      @Consume(queues[1] as string)
      refund(): void {
        // takes them
      }
    }
    line.isDown = true;
    await using app = await TestApp.boot({ imports: [amqp({ startup: 'background' })], providers: [Billing] });
    const connection = app.get(AmqpConnection);
    await attempts(connection, 5);
    const told = (): string[] => app.log.lines.all.map(({ level, text }) => `${level} ${text}`).filter(isOfAmqp);
    expect(told()).toEqual([
      expect.stringMatching(
        /^warn Connection 'default' is down, and tried again until it opens; nothing is consumed, and what is published waits\. .*ECONNREFUSED/,
      ),
    ]);
    line.isDown = false;
    for (let count = 0; count < 2; count += 1) await app.log.next('log', 'runs');
    expect(told().slice(1)).toEqual([
      expect.stringContaining("log Connection 'default' is open"),
      expect.stringContaining('runs'),
      expect.stringContaining('runs'),
    ]);
    await app.get(AmqpPublisher).sendToQueue(queues[0] as string, 1);
    line.isDown = true;
    line.cut();
    await attempts(connection, 5);
    line.isDown = false;
    for (let count = 0; count < 2; count += 1) await app.log.next('log', 'runs');
    expect(told().slice(4)).toEqual([
      expect.stringContaining("warn Connection 'default' is down"),
      expect.stringContaining("log Connection 'default' is open again"),
      expect.stringContaining('runs'),
      expect.stringContaining('runs'),
    ]);
  });

  test('says also of an outage that it goes on for a reason that somebody has to mend', async () => {
    const queue = await scratch.queue({ arguments: { 'x-max-length': 5 } });
    line.isDown = true;
    await using app = await TestApp.boot({
      imports: [amqp({ startup: 'background', topology: { queues: [{ name: queue }] } })],
    });
    const connection = app.get(AmqpConnection);
    await attempts(connection, 3);
    line.isDown = false;
    expect(await app.log.next('warn', 'is still down')).toContain('x-max-length');
    await attempts(connection, 6);
    expect(
      app.log
        .text('warn')
        .split('\n')
        .filter((text) => text.includes('down')),
    ).toHaveLength(2);
    await scratch.delete(queue);
    await app.log.next('log', 'is open');
  });

  test('keeps trying what a boot would fail over, and says so', async () => {
    const queue = await scratch.queue({ arguments: { 'x-max-length': 5 } });
    const topology = { queues: [{ name: queue }] };
    await using app = await TestApp.boot({ imports: [amqp({ startup: 'background', topology })] });
    expect(await app.log.next('warn', 'is down')).toContain('x-max-length');
    await scratch.delete(queue);
    await app.log.next('log', 'is open');
    expect(await scratch.state(queue)).toBeDefined();
  });

  test('gives up when connection after connection breaks the protocol, and says so', async () => {
    const peers = new Inbox<ScriptedPeer>();
    const dial = (): ScriptedPeer['transport'] => {
      const peer = new ScriptedPeer();
      peers.push(peer);
      return peer.transport;
    };
    const connection = { dial, closeTimeout: 0, recovery: FAST };
    await using app = await TestApp.boot({ imports: [amqp({ startup: 'background', connection })] });
    for (let count = 0; count < 10; count += 1) {
      const peer = await peers.next('the next dial');
      await peer.handshake();
      peer.send(0, 'connection.close', { replyCode: 501, replyText: 'FRAME_ERROR', classId: 0, methodId: 0 });
    }
    const said = await app.log.next('error', 'closed for good');
    expect(said).toContain("'default'");
    expect(said).toContain('FRAME_ERROR');
  });

  test('is closed at once while the broker is away', async () => {
    line.isDown = true;
    class Billing {
      @Consume('billing')
      charge(): void {
        // never runs
      }
    }
    const app = await TestApp.boot({
      imports: [amqp({ startup: 'background', shutdownTimeout: '10m' })],
      providers: [Billing],
    });
    const published = failure(app.get(AmqpPublisher).sendToQueue('billing', 1));
    await app.close();
    expect(await published).toMatchObject({ code: 'CONNECTION_CLOSED' });
  });

  test('is closed at once while its consumers are starting', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(): void {
        // takes them
      }
    }
    const app = await TestApp.boot({
      imports: [amqp({ startup: 'background', shutdownTimeout: '10m' })],
      providers: [Billing],
    });
    await app.close();
    await scratch.hasConsumers(queue, 0);
  });
});

describe('an application that closes', () => {
  test('stops consuming before any onModuleDestroy, and closes its connection after all hooks, which may publish', async () => {
    const [queue, notes] = [await scratch.queue(), await scratch.queue()];
    @Injectable()
    class Hooks implements OnModuleDestroy, BeforeApplicationShutdown, OnApplicationShutdown {
      constructor(readonly publisher: AmqpPublisher) {}

      async onModuleDestroy(): Promise<void> {
        await this.#note('onModuleDestroy');
      }

      async beforeApplicationShutdown(): Promise<void> {
        await this.#note('beforeApplicationShutdown');
      }

      async onApplicationShutdown(): Promise<void> {
        await this.#note('onApplicationShutdown');
      }

      async #note(hook: string): Promise<void> {
        const state = await scratch.state(queue);
        await this.publisher.sendToQueue(notes, `${hook}: ${String(state?.consumerCount)} consumers`, {
          timeout: '5s',
        });
      }
    }
    @Global()
    @Module({ providers: [Hooks] })
    class GlobalModule {}
    @Module({ providers: [Hooks] })
    class DeepModule {}
    class Billing {
      @Consume(queue)
      charge(): void {
        // takes them
      }
    }
    const app = await TestApp.boot({ imports: [GlobalModule, DeepModule, amqp()], providers: [Hooks, Billing] });
    await app.close();
    const noted: string[] = [];
    while ((await scratch.state(notes))?.messageCount !== 0) {
      noted.push(JSON.parse((await scratch.take(notes)).body.toString()) as string);
    }
    expect(noted).toEqual(
      ['onModuleDestroy', 'beforeApplicationShutdown', 'onApplicationShutdown'].flatMap((hook) =>
        Array.from({ length: 3 }, () => `${hook}: 0 consumers`),
      ),
    );
    expect(app.get(AmqpConnection).status.state).toBe('closed');
    expect(app.log.text('error')).toBe('');
  });

  test('lets a running handler finish, with everything open that it uses, and its message is acknowledged', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    const gate = new Gate();
    @Injectable()
    class Database implements OnModuleDestroy {
      isOpen = true;

      onModuleDestroy(): void {
        this.isOpen = false;
      }
    }
    @Injectable()
    class Billing {
      constructor(readonly database: Database) {}

      @Consume(queue)
      async charge(): Promise<void> {
        events.push('started');
        await gate.opened;
        events.push(`finished with the database ${this.database.isOpen ? 'open' : 'closed'}`);
      }
    }
    const app = await TestApp.boot({ imports: [amqp()], providers: [Database, Billing] });
    await scratch.sendJson(queue, 1);
    expect(await events.next()).toBe('started');
    const closing = app.close();
    await scratch.hasConsumers(queue, 0);
    gate.open();
    expect(await events.next()).toBe('finished with the database open');
    await closing;
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });

  test('does not wait longer than shutdownTimeout; the message goes back to the queue', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      async charge(): Promise<void> {
        events.push('started');
        await new Promise(() => undefined);
      }
    }
    const app = await TestApp.boot({ imports: [amqp({ shutdownTimeout: 30 })], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await events.next();
    await app.close();
    expect(app.log.text('warn')).toContain('shutdownTimeout');
    await scratch.hasMessages(queue, 1);
  });

  test('before it was ever initialised does not hang', async () => {
    const app = await TestApp.compile({ imports: [amqp()] });
    await app.close();
    expect(app.get(AmqpConnection).status.state).toBe('closed');
  });

  test('twice does no harm', async () => {
    const app = await TestApp.boot({ imports: [amqp()] });
    await app.close();
    await app.close();
  });
});

describe('an application that runs', () => {
  test('goes on consuming when a publish goes to an exchange that is not there', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(payload: string): void {
        events.push(payload);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const publisher = app.get(AmqpPublisher);
    expect(await failure(publisher.publish('test.no-such-exchange', '', 1))).toMatchObject({ replyCode: 404 });
    expect(await failure(app.get(AmqpChannel).queueDeclare('test.no-such-queue', { passive: true }))).toMatchObject({
      replyCode: 404,
    });
    await publisher.sendToQueue(queue, 'after');
    expect(await events.next()).toBe('after');
    // Once to consume, once to publish.
    expect(line.dialled).toBe(2);
    expect(app.log.text('warn')).toBe('');
  });

  test('survives the loss of its connection while a handler runs: it recovers, and the message is handled again', async () => {
    const queue = scratch.queueName();
    const gate = new Gate();
    class Billing {
      @Consume(queue)
      async charge(payload: string, delivery: Delivery): Promise<void> {
        events.push(`${payload}, redelivered ${String(delivery.redelivered)}`);
        if (!delivery.redelivered) await gate.opened;
      }
    }
    await using app = await TestApp.boot({
      imports: [amqp({ topology: { queues: [{ name: queue, maxLength: 9 }] } })],
      providers: [Billing],
    });
    const publisher = app.get(AmqpPublisher);
    await publisher.sendToQueue(queue, 'order');
    expect(await events.next()).toBe('order, redelivered false');
    line.cut();
    expect(await events.next()).toBe('order, redelivered true');
    // Its acknowledgement goes to a channel that is gone.
    gate.open();
    await publisher.sendToQueue(queue, 'next');
    expect(await events.next()).toBe('next, redelivered false');
    expect(await app.log.next('warn', "Connection 'default' is down")).not.toContain('guest');
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('declares its topology anew on every connection', async () => {
    const queue = scratch.queueName();
    const topology = { queues: [{ name: queue, durable: false, autoDelete: true, exclusive: true }] };
    await using app = await TestApp.boot({ imports: [amqp({ topology })] });
    const connection = app.get(AmqpConnection);
    const lost = new Gate();
    connection.once('status', () => lost.open());
    // An exclusive queue goes with its connection.
    line.cut();
    await within('the loss', lost.opened);
    const next = await within('the next connection', connection.opened());
    // At once, or as soon as the broker has let go of the connection that was lost.
    await eventually('the queue', async () => {
      const channel = await next.channel();
      return await channel.queueDeclare(queue, { passive: true }).catch((error: unknown) => {
        // Nobody's, or still of the connection that was lost.
        expect([404, 405]).toContain((error as { replyCode?: number }).replyCode);
        return undefined;
      });
    });
    expect(line.dialled).toBeGreaterThan(1);
  });

  test('keeps what handlers publish apart from what they consume: a handler may publish to its own queue', async () => {
    const queue = await scratch.queue();
    @Injectable()
    class Countdown {
      constructor(readonly publisher: AmqpPublisher) {}

      @Consume(queue, { prefetch: 1 })
      async count(left: number): Promise<void> {
        if (left > 0) await this.publisher.sendToQueue(queue, left - 1);
        else events.push('done');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Countdown] });
    await app.get(AmqpPublisher).sendToQueue(queue, 20);
    expect(await events.next()).toBe('done');
    await eventually('an empty queue', async () =>
      (await scratch.state(queue))?.messageCount === 0 ? true : undefined,
    );
  });
});
