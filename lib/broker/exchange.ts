/** An exchange: its kind and its bindings. */
import type { FieldTable } from '../protocol/field-table.js';

export class Exchange {
  readonly name: string;
  readonly type: string;
  readonly durable: boolean = false;
  readonly autoDelete: boolean = false;
  readonly internal: boolean = false;
  readonly arguments: FieldTable = {};

  constructor(name: string, type: string) {
    this.name = name;
    this.type = type;
  }
}
