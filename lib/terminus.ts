/** The door `nest-amqp/terminus`: the health indicator for @nestjs/terminus, which is installed by those who use it. */
export { AmqpHealthIndicator, type HealthIndicatorOptions } from './nest/amqp.health-indicator.js';
export type { HealthOptions, HealthReport } from './nest/amqp.health.js';
