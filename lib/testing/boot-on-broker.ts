/**
 * A Nest application on an embedded broker of its own. It imports nothing of Nest: the builder is the user's, from
 * `@nestjs/testing`.
 */
import { BROKER_OVERRIDE, type BrokerOverride } from '../broker-override.js';
import { EmbeddedBroker } from '../broker/embedded-broker.js';
import { AmqpError, quoted } from '../errors.js';

/** What is used of the `TestingModuleBuilder` of `@nestjs/testing`. */
export interface TestingBuilder<M extends TestingApp> {
  overrideProvider(token: string): { useValue(value: unknown): TestingBuilder<M> };
  compile(): Promise<M>;
}

/** What is used of an application. */
export interface TestingApp {
  init(): Promise<unknown>;
  close(): Promise<void>;
}

/** Options of `bootOnBroker`. */
export interface BootOptions<M extends TestingApp, A extends TestingApp> {
  /** The broker to boot on, which is then not closed with the application. @default a new one, closed with it */
  readonly broker?: EmbeddedBroker | undefined;
  /** The names of the connections that go to it, `'default'` among them; the others keep their own brokers. @default all */
  readonly connections?: readonly string[] | undefined;
  /**
   * Makes an application of the compiled module, such as `(module) => module.createNestApplication()` for one with HTTP.
   * @default the module itself
   */
  readonly createApp?: ((module: M) => A | Promise<A>) | undefined;
}

/** An application that runs, and its broker. */
export interface Booted<A extends TestingApp> extends AsyncDisposable {
  readonly app: A;
  readonly broker: EmbeddedBroker;
  /** Closes the application, then its broker. */
  close(): Promise<void>;
}

/**
 * Boots a Nest module on a fresh embedded broker, whatever `url`, `credentials`, `vhost` and `tls` it has of its own. The
 * topology is declared and the consumers run when this resolves. Rejects with what the boot failed with, and with
 * `INVALID_OPTION` when a connection that is named does not exist, or there is no `AmqpModule` at all; nothing runs then.
 *
 * Needs `@nestjs/testing`.
 *
 * @example
 * ```ts
 * await using shop = await bootOnBroker(Test.createTestingModule({ imports: [ShopModule] }));
 * await shop.app.get(OrdersService).place(order);
 * await shop.broker.settled();
 * expect(shop.broker.queue('billing').messages).toBe(0);
 * ```
 */
export async function bootOnBroker<M extends TestingApp, A extends TestingApp = M>(
  builder: TestingBuilder<M>,
  options: BootOptions<M, A> = {},
): Promise<Booted<A>> {
  checkBuilder(builder);
  checkOptions(options);
  const { connections, createApp = (module: M) => module as TestingApp as A } = options;
  const broker = options.broker ?? EmbeddedBroker.create();
  const opened: TestingApp[] = [];
  const close = async (): Promise<void> => {
    try {
      await opened.at(-1)?.close();
    } finally {
      if (options.broker === undefined) await broker.close();
    }
  };
  try {
    const override: BrokerOverride = { url: broker.url, connections, taken: new Set() };
    builder.overrideProvider(BROKER_OVERRIDE).useValue(override);
    const module = await builder.compile();
    opened.push(module);
    checkTaken(override);
    const app = await createApp(module);
    opened.push(app);
    await app.init();
    return { app, broker, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

const OPTIONS = Object.keys({ broker: true, connections: true, createApp: true } satisfies Record<
  keyof BootOptions<never, never>,
  true
>);

function checkBuilder(builder: unknown): void {
  if (typeof builder === 'object' && builder !== null && 'overrideProvider' in builder && 'compile' in builder) return;
  throw wrong(
    'the first argument has to be a builder, Test.createTestingModule({ imports: […] }) of @nestjs/testing, not yet compiled',
  );
}

function checkOptions(options: unknown): void {
  if (typeof options !== 'object' || options === null) throw wrong('the options have to be an object');
  const unknown = Object.keys(options).find((name) => !OPTIONS.includes(name));
  if (unknown !== undefined) throw wrong(`there is no option ${quoted(unknown)}. Known are ${OPTIONS.join(', ')}`);
  const { broker, connections, createApp } = options as Readonly<Record<keyof BootOptions<never, never>, unknown>>;
  if (broker !== undefined && !(broker instanceof EmbeddedBroker)) {
    throw wrong('the option broker has to be an EmbeddedBroker, as EmbeddedBroker.create() makes it');
  }
  if (connections !== undefined && !isListOfNames(connections)) {
    throw wrong("the option connections has to be a list of names, as in ['default', 'audit']");
  }
  if (createApp !== undefined && typeof createApp !== 'function') {
    throw wrong('the option createApp has to be a function that makes an application of the compiled module');
  }
}

function isListOfNames(value: unknown): boolean {
  return Array.isArray(value) && value.every((name) => typeof name === 'string');
}

function wrong(what: string): AmqpError {
  return new AmqpError('INVALID_OPTION', `bootOnBroker: ${what}.`);
}

/** A connection that is misspelt would keep its own broker, which may be the one of production. */
function checkTaken({ connections, taken }: BrokerOverride): void {
  const missing = connections?.find((name) => !taken.has(name));
  if (missing === undefined && taken.size > 0) return;
  throw new AmqpError(
    'INVALID_OPTION',
    missing === undefined
      ? 'bootOnBroker found no AmqpModule that could use its broker. Import AmqpModule.forRoot in the module under test.'
      : `bootOnBroker is told of the connection ${quoted(missing)}, which no AmqpModule.forRoot defines. Correct the name.`,
  );
}
