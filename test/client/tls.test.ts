/** TLS with a real broker and a certificate made for this test: what is trusted, what is not, and what the error says. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { connect } from '../../lib/client/connection.js';
import { failure } from '../support/client.js';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { RabbitMqServer, freePort } from '../support/rabbitmq-server.mjs';

function hasOpenssl(): boolean {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const install = findRabbitMq();
const missing = install === undefined ? 'a RabbitMQ to start' : hasOpenssl() ? undefined : 'the program openssl';

/** An authority, and certificates for the name localhost: of the server, and of a client. */
class Certificates implements Disposable {
  readonly #folder: string;

  /** @param folder - where the broker sees what is in it */
  constructor(folder: string) {
    this.#folder = mkdtempSync(join(folder, 'nest-amqp-tls-'));
    const { path } = this;
    openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', '/CN=test authority').with(
      '-keyout',
      path('ca.key'),
      '-out',
      path('ca.pem'),
    );
    this.#issue('server', 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth');
    this.#issue('client', 'extendedKeyUsage=clientAuth');
  }

  readonly path = (file: string): string => join(this.#folder, file);

  read(file: string): Buffer {
    return readFileSync(this.path(file));
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #issue(name: string, extensions: string): void {
    const { path } = this;
    writeFileSync(path('extensions'), extensions);
    openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', `/CN=${name}`).with(
      '-keyout',
      path(`${name}.key`),
      '-out',
      path(`${name}.csr`),
    );
    openssl('x509', '-req', '-days', '1', '-CAcreateserial', '-in', path(`${name}.csr`)).with(
      '-CA',
      path('ca.pem'),
      '-CAkey',
      path('ca.key'),
      '-extfile',
      path('extensions'),
      '-out',
      path(`${name}.pem`),
    );
  }
}

function openssl(...args: string[]): { with: (...files: string[]) => void } {
  return {
    with: (...files) => {
      execFileSync('openssl', [...args, ...files], { stdio: 'ignore' });
    },
  };
}

(missing === undefined ? describe : describe.skip)(`TLS${missing === undefined ? '' : ` (needs ${missing})`}`, () => {
  let certificates: Certificates;
  let server: RabbitMqServer;
  let port: number;
  let url: string;

  beforeAll(async () => {
    certificates = new Certificates(install?.folder ?? '');
    port = await freePort();
    url = `amqps://guest:guest@localhost:${port}`;
    server = await RabbitMqServer.start({
      config: [
        `listeners.ssl.1 = 127.0.0.1:${port}`,
        `ssl_options.cacertfile = ${certificates.path('ca.pem')}`,
        `ssl_options.certfile = ${certificates.path('server.pem')}`,
        `ssl_options.keyfile = ${certificates.path('server.key')}`,
        'ssl_options.verify = verify_peer',
        'ssl_options.fail_if_no_peer_cert = false',
      ].join('\n'),
    });
  }, 120_000);

  afterAll(async () => {
    await server.stop();
    certificates[Symbol.dispose]();
  });

  test('opens where the authority is trusted, and carries messages', async () => {
    await using connection = await connect(url, { tls: { ca: certificates.read('ca.pem') } });
    const channel = await connection.channel({ confirm: true });
    const { queue } = await channel.queueDeclare();
    const body = Buffer.alloc(300_000, 'x');
    await channel.basicPublish('', queue, body);
    expect((await channel.basicGet(queue, { noAck: true }))?.message.body.equals(body)).toBe(true);
  });

  test('presents the certificate of the client', async () => {
    await using connection = await connect(url, {
      tls: {
        ca: certificates.read('ca.pem'),
        cert: certificates.read('client.pem'),
        key: certificates.read('client.key'),
      },
    });
    expect(connection.isOpen).toBe(true);
  });

  test('refuses an authority that is not trusted: CONNECT_FAILED, give it as tls.ca', async () => {
    const error = await failure(connect(url));
    expect(error).toMatchObject({ code: 'CONNECT_FAILED', closedBy: 'network' });
    expect(error.message).toContain('tls.ca');
    expect(error.message).toContain(`localhost:${port}`);
  });

  test('refuses a certificate for another name: CONNECT_FAILED, connect by that name', async () => {
    const error = await failure(connect(url, { hostname: '127.0.0.1', tls: { ca: certificates.read('ca.pem') } }));
    expect(error.code).toBe('CONNECT_FAILED');
    expect(error.message).toContain('tls.servername');
  });

  test('takes the name to verify from tls.servername', async () => {
    await using connection = await connect(url, {
      hostname: '127.0.0.1',
      tls: { ca: certificates.read('ca.pem'), servername: 'localhost' },
    });
    expect(connection.isOpen).toBe(true);
  });

  test('does not verify where the user says so', async () => {
    await using connection = await connect(url, { tls: { rejectUnauthorized: false } });
    expect(connection.isOpen).toBe(true);
  });

  test('amqps against the port without TLS: CONNECT_FAILED, use amqp://', async () => {
    const error = await failure(connect(server.url.replace('amqp:', 'amqps:')));
    expect(error.code).toBe('CONNECT_FAILED');
    expect(error.message).toContain('amqp://');
  });

  test('amqp against the port with TLS: NOT_AMQP, use amqps://', async () => {
    const error = await failure(connect(`amqp://guest:guest@127.0.0.1:${port}`));
    expect(error.code).toBe('NOT_AMQP');
    expect(error.message).toContain('amqps://');
  });
});
