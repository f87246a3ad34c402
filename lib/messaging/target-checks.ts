/** What is said where the arguments of a publish or a request stand in the wrong places, as they can past the compiler. */
import { kindOf } from '../client/option-names.js';
import { AmqpError } from '../errors.js';

/** About the first of these that is no text. `form` is how the method is called: `publish(exchange, routingKey, payload, options)`. */
export function notText(texts: Readonly<Record<string, unknown>>, form: string): AmqpError {
  const [name, value] = Object.entries(texts).find(([, given]) => typeof given !== 'string') ?? ['exchange', ''];
  return new AmqpError('INVALID_ARGUMENT', `${name} has to be a string, it is ${kindOf(value)}: ${form}.`);
}
