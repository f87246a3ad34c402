/**
 * A Nest application on an embedded broker of its own. It imports nothing of Nest: the builder is the user's, from
 * `@nestjs/testing`.
 */
import { brokerOverrideToken } from '../broker-override.js';
import { EmbeddedBroker } from '../broker/embedded-broker.js';

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
  /** The names of the connections that go to it. @default ['default'] */
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
 * topology is declared and the consumers run when this resolves. Rejects with what the boot failed with; nothing runs then.
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
  const { connections = ['default'], createApp = (module: M) => module as TestingApp as A } = options;
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
    for (const name of connections) builder.overrideProvider(brokerOverrideToken(name)).useValue({ url: broker.url });
    const module = await builder.compile();
    opened.push(module);
    const app = await createApp(module);
    opened.push(app);
    await app.init();
    return { app, broker, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}
