/** The messages of the shop. */

/** Published to `orders` as `order.placed`. */
export interface Order {
  readonly id: string;
  readonly item: string;
  readonly quantity: number;
  /** Cents. */
  readonly price: number;
}

/** Published to `orders` as `order.billed`. */
export interface Bill {
  readonly orderId: string;
  /** Cents. */
  readonly total: number;
}

/** Replied by `pricing` to whoever asks with price and quantity. */
export interface Quote {
  /** Cents. */
  readonly total: number;
}

export type OrderState = 'placed' | 'billed' | 'refused';
