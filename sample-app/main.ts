import 'reflect-metadata';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ShopModule } from './shop.module.js';

const app = await NestFactory.create(ShopModule);
// SIGTERM and SIGINT let running handlers finish before the connection closes.
app.enableShutdownHooks();
await app.listen(process.env.PORT ?? 3000);
const logger = new Logger('Shop');
if (process.env.AMQP_URL === undefined)
  logger.log('Without RabbitMQ: set AMQP_URL, for example to amqp://localhost, to use one');
logger.log(`Open at ${await app.getUrl()}`);
