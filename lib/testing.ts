/** The door `nest-amqp/testing`: helpers for tests. It needs neither Nest nor a broker. */
export { type ReceivedCommand, type ScriptedHandshake, ScriptedPeer } from './testing/scripted-peer.js';
export type { ContentMethodName, MethodArgs, MethodName } from './protocol/methods.js';
