/**
 * `AmqpModule.forRootAsync` before and after Nest has it: that one thing makes the options, and that it makes some. What the
 * options say is checked by `amqp.options`.
 */
import type { ConfigurableModuleAsyncOptions, DynamicModule, FactoryProvider, InjectionToken } from '@nestjs/common';
import { kindOf, namesOf, refuseUnknown, toldOf } from '../client/option-names.js';
import { AmqpError, quoted } from '../errors.js';
import { type AmqpModuleExtras, type AmqpModuleOptions, checkName } from './amqp.options.js';
import { DEFAULT_CONNECTION } from './amqp.tokens.js';

/** Options of `AmqpModule.forRootAsync`. */
export type AmqpModuleAsyncOptions = ConfigurableModuleAsyncOptions<AmqpModuleOptions, 'createAmqpOptions'> &
  Partial<AmqpModuleExtras>;

const MAKERS = ['useFactory', 'useClass', 'useExisting'] as const;

const KNOWN = namesOf<AmqpModuleAsyncOptions>({
  name: true,
  isGlobal: true,
  imports: true,
  inject: true,
  useFactory: true,
  useClass: true,
  useExisting: true,
  provideInjectionTokensFrom: true,
});

/** Throws `INVALID_OPTION` for what Nest would take for something else, or fail over in its own words. */
export function checkAsyncOptions(options: AmqpModuleAsyncOptions): void {
  // Past the compiler in plain JavaScript, and where a circular import has left a class undefined.
  if (typeof (options as unknown) !== 'object' || (options as unknown) === null) {
    throw invalid("AmqpModule.forRootAsync has to be given an object: { useFactory: () => ({ url: 'amqp://…' }) }.");
  }
  checkName(options.name);
  const where = placeOf(options);
  refuseUnknown(options, KNOWN, `${where} has no option`);
  const given = MAKERS.filter((maker) => (options[maker] ?? undefined) !== undefined);
  const [maker] = given;
  if (maker === undefined)
    throw invalid(`${where} needs one of useFactory, useClass, useExisting. ${whyNone(options)}`);
  if (given.length > 1) throw invalid(`${where} has ${given.join(' and ')}. Leave all but one of them out.`);
  if (typeof (options[maker] as unknown) !== 'function' && maker !== 'useExisting') {
    throw invalid(`${maker} of ${where} is ${kindOf(options[maker])}; it has to be ${EXPECTED[maker]}.`);
  }
  if (options.inject !== undefined && maker !== 'useFactory') {
    throw invalid(
      `${where} has inject beside ${maker}. inject names the arguments of useFactory; what a class needs, ` +
        'its constructor says. Leave inject out, or give useFactory.',
    );
  }
}

const EXPECTED = { useFactory: 'a function', useClass: 'a class with createAmqpOptions()' } as const;

/** What is easily overlooked. */
function whyNone(options: AmqpModuleAsyncOptions): string {
  const empty = MAKERS.find((maker) => maker in options);
  if (empty !== undefined) {
    return `${empty} is ${String(options[empty])}; a class or function that is imported in a circle is undefined at first.`;
  }
  return options.inject === undefined
    ? "It says how the options are made: useFactory: () => ({ url: 'amqp://…' })."
    : 'inject names the arguments of useFactory, which is missing.';
}

/** The module with its provider of options watched: what it fails with, and what is no options, is told in our words. */
export function watched(module: DynamicModule, token: InjectionToken, options: AmqpModuleAsyncOptions): DynamicModule {
  const providers = module.providers?.map((provider) => {
    if (typeof provider === 'function' || provider.provide !== token || !('useFactory' in provider)) return provider;
    const { useFactory, ...rest } = provider as FactoryProvider<AmqpModuleOptions>;
    return { ...rest, useFactory: (...injected: unknown[]) => made(useFactory, injected, options) };
  });
  return { ...module, ...(providers === undefined ? {} : { providers }) };
}

async function made(
  make: FactoryProvider<AmqpModuleOptions>['useFactory'],
  injected: readonly unknown[],
  options: AmqpModuleAsyncOptions,
): Promise<AmqpModuleOptions> {
  const what = `${makerOf(options, injected)} of ${placeOf(options)}`;
  let result: unknown;
  try {
    result = await make(...injected);
  } catch (cause) {
    throw new AmqpError('INVALID_OPTION', `${what} failed, so that there are no options. ${toldOf(cause)}`, { cause });
  }
  if (typeof result === 'object' && result !== null && !Array.isArray(result)) return result;
  throw invalid(`${what} has returned ${kindOf(result)}; it has to return an object of options, {} for the defaults.`);
}

/** In words: `useFactory`, `createAmqpOptions() of SettingsService`. Throws `INVALID_OPTION` where a class has no such method. */
function makerOf(options: AmqpModuleAsyncOptions, [instance]: readonly unknown[]): string {
  if (options.useFactory !== undefined) return 'useFactory';
  const { constructor, createAmqpOptions } = instance as { createAmqpOptions?: unknown };
  if (typeof createAmqpOptions === 'function') return `createAmqpOptions() of ${constructor.name}`;
  throw invalid(
    `${options.useClass === undefined ? 'useExisting' : 'useClass'} of ${placeOf(options)} is ${constructor.name}, ` +
      'which has no method createAmqpOptions. Have it implement AmqpOptionsFactory.',
  );
}

function placeOf({ name = DEFAULT_CONNECTION }: AmqpModuleAsyncOptions): string {
  return `AmqpModule.forRootAsync of the connection ${quoted(name)}`;
}

function invalid(message: string): AmqpError {
  return new AmqpError('INVALID_OPTION', message);
}
