/**
 * Frames written by hand, byte for byte, with what they mean: the encoder has to write them, the decoder to read them.
 * They are what RabbitMQ 3.10 and its clients send, so a scripted peer can send them too. Whole conversations are left to
 * the tests.
 */
import type { ContentMethodName, Method } from '../../lib/protocol/methods.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';

/** A method without content: one frame. */
export interface GoldenMethod {
  readonly channel: number;
  readonly bytes: Buffer;
  readonly method: Method;
}

/** A method with content: a method frame, a header frame, and as many body frames as there are pieces. */
export interface GoldenContent {
  readonly channel: number;
  readonly bytes: Buffer;
  readonly method: Method<ContentMethodName>;
  readonly properties: BasicProperties;
  readonly pieces: readonly Buffer[];
}

/**
 * Bytes in a notation for reading: hexadecimal digits, ASCII text in double quotes, and remarks from a `#` to the end of
 * the line.
 *
 * @example
 * bytes('05 "hello" # a short string')
 */
export function bytes(notation: string): Buffer {
  const parts = notation.match(/"[^"]*"|#.*|\S+/g) ?? [];
  return Buffer.concat(
    parts.map((part) => {
      if (part.startsWith('#')) return Buffer.alloc(0);
      if (part.startsWith('"')) return Buffer.from(part.slice(1, -1), 'latin1');
      if (!/^([0-9a-f]{2})+$/.test(part)) throw new Error(`'${part}' is neither hexadecimal nor quoted text`);
      return Buffer.from(part, 'hex');
    }),
  );
}

export const goldenHeartbeat = bytes(`
  08        # heartbeat
  0000      # channel 0
  00000000  # no payload
  ce        # end of frame
`);

export const goldenMethods = {
  connectionStart: {
    channel: 0,
    bytes: bytes(`
      01 0000 000001f4  # method frame, channel 0, 500 octets of payload
      000a 000a         # connection.start
      00 09             # version-major, version-minor
      000001cf          # server-properties: 463 octets
        0c "capabilities" "F" 000000c7
          12 "publisher_confirms"           "t" 01
          1a "exchange_exchange_bindings"   "t" 01
          0a "basic.nack"                   "t" 01
          16 "consumer_cancel_notify"       "t" 01
          12 "connection.blocked"           "t" 01
          13 "consumer_priorities"          "t" 01
          1c "authentication_failure_close" "t" 01
          10 "per_consumer_qos"             "t" 01
          0f "direct_reply_to"              "t" 01
        0c "cluster_name" "S" 0000000d "rabbit@broker"
        09 "copyright"    "S" 00000037 "Copyright (c) 2007-2022 VMware, Inc. or its affiliates."
        0b "information"  "S" 00000039 "Licensed under the MPL 2.0. Website: https://rabbitmq.com"
        08 "platform"     "S" 00000011 "Erlang/OTP 25.2.3"
        07 "product"      "S" 00000008 "RabbitMQ"
        07 "version"      "S" 00000006 "3.10.8"
      0000000e "AMQPLAIN PLAIN" # mechanisms
      00000005 "en_US"          # locales
      ce
    `),
    method: {
      name: 'connection.start',
      args: {
        versionMajor: 0,
        versionMinor: 9,
        serverProperties: {
          capabilities: {
            publisher_confirms: true,
            exchange_exchange_bindings: true,
            'basic.nack': true,
            consumer_cancel_notify: true,
            'connection.blocked': true,
            consumer_priorities: true,
            authentication_failure_close: true,
            per_consumer_qos: true,
            direct_reply_to: true,
          },
          cluster_name: 'rabbit@broker',
          copyright: 'Copyright (c) 2007-2022 VMware, Inc. or its affiliates.',
          information: 'Licensed under the MPL 2.0. Website: https://rabbitmq.com',
          platform: 'Erlang/OTP 25.2.3',
          product: 'RabbitMQ',
          version: '3.10.8',
        },
        mechanisms: Buffer.from('AMQPLAIN PLAIN'),
        locales: Buffer.from('en_US'),
      },
    },
  },

  connectionStartOk: {
    channel: 0,
    bytes: bytes(`
      01 0000 00000080
      000a 000b         # connection.start-ok
      0000005c          # client-properties: 92 octets
        07 "product" "S" 00000009 "nest-amqp"
        0c "capabilities" "F" 00000034
          12 "connection.blocked"           "t" 01
          1c "authentication_failure_close" "t" 01
      05 "PLAIN"                     # mechanism
      0000000c 00 "guest" 00 "guest" # response
      05 "en_US"                     # locale
      ce
    `),
    method: {
      name: 'connection.start-ok',
      args: {
        clientProperties: {
          product: 'nest-amqp',
          capabilities: { 'connection.blocked': true, authentication_failure_close: true },
        },
        mechanism: 'PLAIN',
        response: Buffer.from('\0guest\0guest'),
        locale: 'en_US',
      },
    },
  },

  connectionSecure: {
    channel: 0,
    bytes: bytes(`
      01 0000 0000000c
      000a 0014       # connection.secure
      00000004 "salt" # challenge
      ce
    `),
    method: { name: 'connection.secure', args: { challenge: Buffer.from('salt') } },
  },

  connectionTune: {
    channel: 0,
    bytes: bytes(`
      01 0000 0000000c
      000a 001e # connection.tune
      07ff      # channel-max: 2047
      00020000  # frame-max: 131072
      003c      # heartbeat: 60
      ce
    `),
    method: { name: 'connection.tune', args: { channelMax: 2047, frameMax: 131_072, heartbeat: 60 } },
  },

  connectionTuneOk: {
    channel: 0,
    bytes: bytes(`
      01 0000 0000000c
      000a 001f # connection.tune-ok
      07ff      # channel-max: 2047
      00002000  # frame-max: 8192
      0000      # heartbeat: none
      ce
    `),
    method: { name: 'connection.tune-ok', args: { channelMax: 2047, frameMax: 8192, heartbeat: 0 } },
  },

  connectionOpen: {
    channel: 0,
    bytes: bytes(`
      01 0000 00000008
      000a 0028 # connection.open
      01 "/"    # virtual-host
      00        # reserved-1: empty
      00        # reserved-2: one bit
      ce
    `),
    method: { name: 'connection.open', args: { virtualHost: '/' } },
  },

  connectionOpenOk: {
    channel: 0,
    bytes: bytes(`
      01 0000 00000005
      000a 0029 # connection.open-ok
      00        # reserved-1: empty
      ce
    `),
    method: { name: 'connection.open-ok', args: {} },
  },

  connectionBlocked: {
    channel: 0,
    bytes: bytes(`
      01 0000 00000012
      000a 003c          # connection.blocked
      0d "low on memory" # reason
      ce
    `),
    method: { name: 'connection.blocked', args: { reason: 'low on memory' } },
  },

  connectionUnblocked: {
    channel: 0,
    bytes: bytes('01 0000 00000004  000a 003d  ce'),
    method: { name: 'connection.unblocked', args: {} },
  },

  connectionUpdateSecret: {
    channel: 0,
    bytes: bytes(`
      01 0000 00000018
      000a 0046          # connection.update-secret
      00000007 "token-2" # new-secret
      08 "rotation"      # reason
      ce
    `),
    method: {
      name: 'connection.update-secret',
      args: { newSecret: Buffer.from('token-2'), reason: 'rotation' },
    },
  },

  connectionUpdateSecretOk: {
    channel: 0,
    bytes: bytes('01 0000 00000004  000a 0047  ce'),
    method: { name: 'connection.update-secret-ok', args: {} },
  },

  connectionClose: {
    channel: 0,
    bytes: bytes(`
      01 0000 0000001c
      000a 0032               # connection.close
      0140                    # reply-code: 320
      11 "CONNECTION_FORCED"  # reply-text
      0000 0000               # class-id, method-id: no method is to blame
      ce
    `),
    method: {
      name: 'connection.close',
      args: { replyCode: 320, replyText: 'CONNECTION_FORCED', classId: 0, methodId: 0 },
    },
  },

  connectionCloseOk: {
    channel: 0,
    bytes: bytes('01 0000 00000004  000a 0033  ce'),
    method: { name: 'connection.close-ok', args: {} },
  },

  channelOpen: {
    channel: 1,
    bytes: bytes(`
      01 0001 00000005
      0014 000a # channel.open
      00        # reserved-1: an empty short string
      ce
    `),
    method: { name: 'channel.open', args: {} },
  },

  channelOpenOk: {
    channel: 1,
    bytes: bytes(`
      01 0001 00000008
      0014 000b # channel.open-ok
      00000000  # reserved-1: an empty long string
      ce
    `),
    method: { name: 'channel.open-ok', args: {} },
  },

  channelClose: {
    channel: 513,
    bytes: bytes(`
      01 0201 00000035  # method frame, channel 513
      0014 0028         # channel.close
      0194              # reply-code: 404
      2a "NOT_FOUND - no queue 'orders' in vhost '/'"
      0032 000a         # class-id, method-id: queue.declare is to blame
      ce
    `),
    method: {
      name: 'channel.close',
      args: {
        replyCode: 404,
        replyText: "NOT_FOUND - no queue 'orders' in vhost '/'",
        classId: 50,
        methodId: 10,
      },
    },
  },

  channelCloseOk: {
    channel: 65_535,
    bytes: bytes('01 ffff 00000004  0014 0029  ce'),
    method: { name: 'channel.close-ok', args: {} },
  },

  exchangeDeclare: {
    channel: 1,
    bytes: bytes(`
      01 0001 00000018
      0028 000a  # exchange.declare
      0000       # reserved-1
      06 "events"
      05 "topic"
      0a         # bits: durable (2), internal (8); not passive (1), auto-delete (4), no-wait (16)
      00000000   # arguments
      ce
    `),
    method: {
      name: 'exchange.declare',
      args: {
        exchange: 'events',
        type: 'topic',
        passive: false,
        durable: true,
        autoDelete: false,
        internal: true,
        noWait: false,
        arguments: {},
      },
    },
  },

  exchangeUnbindOk: {
    channel: 1,
    // 40.51, although every other answer has the number after its request's: 40.40.
    bytes: bytes('01 0001 00000004  0028 0033  ce'),
    method: { name: 'exchange.unbind-ok', args: {} },
  },

  queueDeclare: {
    channel: 1,
    bytes: bytes(`
      01 0001 0000006d
      0032 000a  # queue.declare
      0000       # reserved-1
      06 "orders"
      02         # bits: durable (2); not passive (1), exclusive (4), auto-delete (8), no-wait (16)
      0000005b   # arguments: 91 octets
        0c "x-max-length"           "I" 000003e8        # 1000
        12 "x-max-length-bytes"     "l" 0000000100000000 # 2^32
        16 "x-dead-letter-exchange" "S" 00000003 "dlx"
        08 "x-labels"               "F" 00000000
      ce
    `),
    method: {
      name: 'queue.declare',
      args: {
        queue: 'orders',
        passive: false,
        durable: true,
        exclusive: false,
        autoDelete: false,
        noWait: false,
        arguments: {
          'x-max-length': 1000,
          'x-max-length-bytes': 4_294_967_296,
          'x-dead-letter-exchange': 'dlx',
          'x-labels': {},
        },
      },
    },
  },

  queueDeclareOk: {
    channel: 1,
    bytes: bytes(`
      01 0001 00000013
      0032 000b # queue.declare-ok
      06 "orders"
      ffffffff  # message-count
      00000002  # consumer-count
      ce
    `),
    method: {
      name: 'queue.declare-ok',
      args: { queue: 'orders', messageCount: 4_294_967_295, consumerCount: 2 },
    },
  },

  queueUnbind: {
    channel: 1,
    bytes: bytes(`
      01 0001 0000001c
      0032 0032  # queue.unbind
      0000       # reserved-1
      06 "orders"
      06 "events"
      03 "a.#"
      00000000   # arguments; no octet of bits before them
      ce
    `),
    method: {
      name: 'queue.unbind',
      args: { queue: 'orders', exchange: 'events', routingKey: 'a.#', arguments: {} },
    },
  },

  basicQos: {
    channel: 1,
    bytes: bytes(`
      01 0001 0000000b
      003c 000a # basic.qos
      00000000  # prefetch-size
      0064      # prefetch-count: 100
      01        # global
      ce
    `),
    method: { name: 'basic.qos', args: { prefetchSize: 0, prefetchCount: 100, global: true } },
  },

  basicConsume: {
    channel: 1,
    bytes: bytes(`
      01 0001 00000015
      003c 0014 # basic.consume
      0000      # reserved-1
      06 "orders"
      02 "c1"
      06        # bits: no-ack (2), exclusive (4); not no-local (1), no-wait (8)
      00000000  # arguments
      ce
    `),
    method: {
      name: 'basic.consume',
      args: {
        queue: 'orders',
        consumerTag: 'c1',
        noLocal: false,
        noAck: true,
        exclusive: true,
        noWait: false,
        arguments: {},
      },
    },
  },

  basicConsumeOk: {
    channel: 1,
    bytes: bytes('01 0001 00000007  003c 0015  02 "c1"  ce'),
    method: { name: 'basic.consume-ok', args: { consumerTag: 'c1' } },
  },

  basicGetEmpty: {
    channel: 1,
    bytes: bytes(`
      01 0001 00000005
      003c 0048 # basic.get-empty
      00        # reserved-1: empty
      ce
    `),
    method: { name: 'basic.get-empty', args: {} },
  },

  basicAck: {
    channel: 1,
    bytes: bytes(`
      01 0001 0000000d
      003c 0050        # basic.ack
      0000000000000100 # delivery-tag: 256
      01               # multiple
      ce
    `),
    method: { name: 'basic.ack', args: { deliveryTag: 256, multiple: true } },
  },

  basicNack: {
    channel: 1,
    bytes: bytes(`
      01 0001 0000000d
      003c 0078        # basic.nack
      001fffffffffffff # delivery-tag: 2^53 - 1
      02               # bits: requeue (2); not multiple (1)
      ce
    `),
    method: { name: 'basic.nack', args: { deliveryTag: Number.MAX_SAFE_INTEGER, multiple: false, requeue: true } },
  },

  confirmSelect: {
    channel: 1,
    bytes: bytes('01 0001 00000005  0055 000a  00  ce'),
    method: { name: 'confirm.select', args: { noWait: false } },
  },
} as const satisfies Record<string, GoldenMethod>;

export const goldenContents = {
  publish: {
    channel: 1,
    bytes: bytes(`
      01 0001 00000017
      003c 0028              # basic.publish
      0000                   # reserved-1
      06 "events"            # exchange
      08 "order.eu"          # routing-key
      01                     # bits: mandatory (1); not immediate (2)
      ce

      02 0001 0000001a       # header frame
      003c 0000              # class basic, weight 0
      000000000000000c       # body size: 12
      9000                   # flags: content-type (bit 15), delivery-mode (bit 12)
      0a "text/plain"
      02                     # delivery-mode: persistent
      ce

      03 0001 0000000c       # body frame
      "Hello, world"
      ce
    `),
    method: {
      name: 'basic.publish',
      args: { exchange: 'events', routingKey: 'order.eu', mandatory: true, immediate: false },
    },
    properties: { contentType: 'text/plain', deliveryMode: 2 },
    pieces: [Buffer.from('Hello, world')],
  },

  deliverInPieces: {
    channel: 2,
    bytes: bytes(`
      01 0002 0000001b
      003c 003c              # basic.deliver
      02 "c1"                # consumer-tag
      0000000000000007       # delivery-tag: 7
      01                     # redelivered
      03 "dlx"               # exchange
      06 "orders"            # routing-key
      ce

      02 0002 0000003a       # header frame
      003c 0000              # class basic, weight 0
      000000000000000c       # body size: 12
      2440                   # flags: headers (bit 13), correlation-id (bit 10), timestamp (bit 6)
      0000001c               # headers: 28 octets
        07 "x-count" "I" 00000002
        04 "note" "S" 00000003 e282ac # the euro sign in UTF-8
        00 "V"               # a field without a name, and of no value
      03 "c-9"               # correlation-id
      000000006553f100       # timestamp: 1700000000 s
      ce

      03 0002 00000005 "Hello" ce
      03 0002 00000000         ce # an empty body frame is one all the same
      03 0002 00000006 ", worl" ce
      03 0002 00000001 "d"     ce
    `),
    method: {
      name: 'basic.deliver',
      args: { consumerTag: 'c1', deliveryTag: 7, redelivered: true, exchange: 'dlx', routingKey: 'orders' },
    },
    properties: {
      headers: { 'x-count': 2, note: '€', '': null },
      correlationId: 'c-9',
      timestamp: 1_700_000_000,
    },
    pieces: [Buffer.from('Hello'), Buffer.from(''), Buffer.from(', worl'), Buffer.from('d')],
  },

  returnWithoutBody: {
    channel: 1,
    bytes: bytes(`
      01 0001 0000001b
      003c 0032              # basic.return
      0138                   # reply-code: 312
      08 "NO_ROUTE"          # reply-text
      00                     # exchange: the default one
      0a "no-such-qu"        # routing-key
      ce

      02 0001 0000000e       # header frame
      003c 0000              # class basic, weight 0
      0000000000000000       # body size: none, so no body frame follows
      0000                   # flags: no properties
      ce
    `),
    method: {
      name: 'basic.return',
      args: { replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: 'no-such-qu' },
    },
    properties: {},
    pieces: [],
  },

  getOk: {
    channel: 65_535,
    bytes: bytes(`
      01 ffff 00000019
      003c 0047              # basic.get-ok
      0000000000000001       # delivery-tag: 1
      00                     # redelivered: no
      00                     # exchange: the default one
      06 "orders"            # routing-key
      00000005               # message-count: 5 more
      ce

      02 ffff 00000046       # header frame
      003c 0000              # class basic, weight 0
      0000000000000001       # body size: 1
      fffc                   # flags: all fourteen properties
      09 "image/png"         # content-type
      04 "gzip"              # content-encoding
      00000000               # headers
      01                     # delivery-mode: transient
      09                     # priority
      01 "c"                 # correlation-id
      01 "r"                 # reply-to
      05 "60000"             # expiration
      01 "m"                 # message-id
      001fffffffffffff       # timestamp: 2^53 - 1 s
      01 "t"                 # type
      05 "guest"             # user-id
      03 "app"               # app-id
      02 "cl"                # cluster-id
      ce

      03 ffff 00000001 00 ce # body frame
    `),
    method: {
      name: 'basic.get-ok',
      args: { deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'orders', messageCount: 5 },
    },
    properties: {
      contentType: 'image/png',
      contentEncoding: 'gzip',
      headers: {},
      deliveryMode: 1,
      priority: 9,
      correlationId: 'c',
      replyTo: 'r',
      expiration: '60000',
      messageId: 'm',
      timestamp: Number.MAX_SAFE_INTEGER,
      type: 't',
      userId: 'guest',
      appId: 'app',
      clusterId: 'cl',
    },
    pieces: [Buffer.from([0])],
  },
} as const satisfies Record<string, GoldenContent>;
