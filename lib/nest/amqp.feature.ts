/** What a feature module declares on a connection that another module opens: `AmqpModule.forFeature`. */
import { Inject, Module, type OnModuleInit } from '@nestjs/common';
import { namesOf, refuseUnknown } from '../client/option-names.js';
import { checkTopology } from '../messaging/definition-checks.js';
import type { Topology } from '../messaging/definitions.js';
import { DEFAULT_CONNECTION } from './amqp.tokens.js';
import { TopologyRegistry } from './topology-registry.js';

/** Options of `AmqpModule.forFeature`. */
export interface AmqpFeatureOptions extends Topology {
  /** Name of the connection to declare it on. @default 'default' */
  readonly connection?: string | undefined;
}

const FEATURE_OPTIONS = namesOf<AmqpFeatureOptions>({
  connection: true,
  exchanges: true,
  queues: true,
  bindings: true,
});

export const FEATURE = Symbol('nest-amqp:feature');

/** Throws `INVALID_OPTION`, `INVALID_DEFINITION`. */
export function checkFeature(options: AmqpFeatureOptions): void {
  refuseUnknown(options, FEATURE_OPTIONS, 'AmqpModule.forFeature has no option');
  const { exchanges = [], queues = [], bindings = [] } = options;
  checkTopology({ exchanges, queues, bindings });
}

@Module({})
export class AmqpFeatureModule implements OnModuleInit {
  readonly #topologies: TopologyRegistry;

  constructor(@Inject(FEATURE) options: AmqpFeatureOptions, topologies: TopologyRegistry) {
    const { connection = DEFAULT_CONNECTION, ...topology } = options;
    this.#topologies = topologies;
    topologies.addFeature({ connection, topology, module: this });
  }

  /** Where no `AmqpModule.forRoot` is imported nobody else says so. */
  onModuleInit(): void {
    this.#topologies.gather();
  }
}
