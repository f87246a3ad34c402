/** Nest's decorators without a compiler: the bench is plain JavaScript. */

/** The root of every application here; what it imports is given with it, as a dynamic module. */
// eslint-disable-next-line @typescript-eslint/no-extraneous-class -- A Nest module is an empty class.
export class AppModule {}

/**
 * Applies decorators to the method `handle` of a class, and to its parameters.
 *
 * @template {new () => { handle: (...args: any[]) => unknown }} C
 * @param {C} handler
 * @param {MethodDecorator} decorator
 * @param {readonly ParameterDecorator[]} [parameters] In order.
 * @returns {C}
 */
export function decorated(handler, decorator, parameters = []) {
  const { prototype } = handler;
  for (const [index, parameter] of parameters.entries()) parameter(prototype, 'handle', index);
  const descriptor = /** @type {PropertyDescriptor} */ (Object.getOwnPropertyDescriptor(prototype, 'handle'));
  decorator(prototype, 'handle', descriptor);
  return handler;
}
