/** The connection that Nest applications inject: the client's, whose status is an Observable as well. */
import { Observable } from 'rxjs';
import { AmqpConnection as ClientConnection, type ConnectionStatus } from '../client/amqp-connection.js';

/**
 * Keeps a connection open. Injected by its class, or by name with `@InjectConnection(name)`; opened and closed by the module.
 *
 * @example
 * ```ts
 * constructor(connection: AmqpConnection) {
 *   connection.status$.pipe(map(({ state }) => state === 'open')).subscribe(this.isReady);
 * }
 * ```
 */
export class AmqpConnection extends ClientConnection {
  /** Its status: the present one first, then every change. Completes when it is closed for good. */
  readonly status$: Observable<ConnectionStatus> = new Observable((subscriber) => {
    const told = (status: ConnectionStatus): void => {
      subscriber.next(status);
      if (status.state === 'closed') subscriber.complete();
    };
    this.on('status', told);
    subscriber.add(() => this.off('status', told));
    told(this.status);
  });
}
