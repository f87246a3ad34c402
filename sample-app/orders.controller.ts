/** The shop's HTTP face. */
import { BadRequestException, Body, Controller, Get, NotFoundException, Param, Post } from '@nestjs/common';
import { OrdersService, type OrderView } from './orders.service.js';

interface PlaceOrder {
  readonly item?: unknown;
  readonly quantity?: unknown;
  readonly price?: unknown;
}

@Controller('orders')
export class OrdersController {
  readonly #orders: OrdersService;

  constructor(orders: OrdersService) {
    this.#orders = orders;
  }

  @Post()
  async place(@Body() body: PlaceOrder | undefined): Promise<OrderView> {
    const { item, quantity = 1, price } = body ?? {};
    if (typeof item !== 'string' || !isCount(quantity) || !isCount(price)) {
      throw new BadRequestException(
        'An order has an item (text), a price in cents and a quantity (whole numbers above 0).',
      );
    }
    return await this.#orders.place({ item, quantity, price });
  }

  @Get(':id')
  find(@Param('id') id: string): OrderView {
    const order = this.#orders.find(id);
    if (order === undefined) throw new NotFoundException(`There is no order ${id}.`);
    return order;
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}
