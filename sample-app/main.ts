import 'reflect-metadata';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ShopModule } from './shop.module.js';

const app = await NestFactory.create(ShopModule);
// SIGTERM and SIGINT let running handlers finish before the connection closes.
app.enableShutdownHooks();
await app.listen(process.env.PORT ?? 3000);
new Logger('Shop').log(`Open at ${await app.getUrl()}`);
