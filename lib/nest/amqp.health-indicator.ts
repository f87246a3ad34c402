/** `AmqpHealth` as an indicator of @nestjs/terminus. What healthy means is `AmqpHealth`'s. */
import { Injectable } from '@nestjs/common';
import { ModuleRef } from '@nestjs/core';
import { type HealthIndicatorResult, HealthIndicatorService } from '@nestjs/terminus';
import { AmqpError, quoted } from '../errors.js';
import { AmqpHealth, type HealthOptions, type HealthReport } from './amqp.health.js';
import { DEFAULT_CONNECTION, getHealthToken } from './amqp.tokens.js';

/** `HealthOptions`, and whose health. */
export interface HealthIndicatorOptions extends HealthOptions {
  /** Name of the connection. @default 'default' */
  readonly connection?: string | undefined;
}

/** What terminus shows beside the status. */
type HealthDetails = Omit<HealthReport, 'healthy'>;

/**
 * Shows terminus how a connection and its consumers are: `down` when `AmqpHealth` finds a problem. It asks the broker nothing, and
 * leaves nothing there.
 *
 * @example
 * ```ts
 * @Module({ imports: [TerminusModule], providers: [AmqpHealthIndicator], controllers: [HealthController] })
 *
 * check() { return this.health.check([() => this.amqp.isHealthy('amqp', { recovering: '1m' })]); }
 * ```
 */
@Injectable()
export class AmqpHealthIndicator {
  readonly #indicators: HealthIndicatorService;
  readonly #moduleRef: ModuleRef;

  /** @internal Made by Nest. */
  constructor(indicators: HealthIndicatorService, moduleRef: ModuleRef) {
    this.#indicators = indicators;
    this.#moduleRef = moduleRef;
  }

  /** Throws `INVALID_OPTION`, also for a connection that there is not. */
  isHealthy<const Key extends string>(
    key: Key,
    { connection, ...options }: HealthIndicatorOptions = {},
  ): HealthIndicatorResult<Key, 'up' | 'down', HealthDetails> {
    const health = this.#healthOf(connection);
    const { healthy, ...details } = health.check(options);
    const indicator = this.#indicators.check(key);
    return healthy ? indicator.up<HealthDetails>(details) : indicator.down<HealthDetails>(details);
  }

  #healthOf(connection: string | undefined): AmqpHealth {
    try {
      return this.#moduleRef.get<AmqpHealth>(getHealthToken(connection), { strict: false });
    } catch (cause) {
      throw new AmqpError(
        'INVALID_OPTION',
        `The health is asked for of the connection ${quoted(connection ?? DEFAULT_CONNECTION)}, which no AmqpModule.forRoot defines. ` +
          'Import AmqpModule.forRoot with that name, or correct the name.',
        { cause },
      );
    }
  }
}
