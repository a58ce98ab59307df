import type { FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { AnyReply, AnyRequest } from '../shared/http/any-request.js'
import { keyPrefixOf, resolveClient } from '../shared/redis/client.js'
import { alreadyRegisteredError, invalidArgumentError, reasonOf } from '../shared/plugin/errors.js'
import { guardRedis } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { checkName, type ChannelData, type PatternData } from './pubsub/patterns.js'
import { UnserializableError } from './errors.js'
import { Subscriptions, type SubscribeOptions } from './pubsub/subscriptions.js'
import { createMemoryTransport } from './pubsub/memory-transport.js'
import { resolveEventsOptions, type EventsPluginOptions } from './options.js'
import { RedisTransport } from './pubsub/redis-transport.js'
import { createStreams, type GroupOfStream } from './stream/streams.js'
import type { EventStream, StreamOptions } from './stream/types.js'
import { SseReplies, type SseOptions, type SseSource } from './sse/sse-replies.js'

declare module 'fastify' {
  interface FastifyInstance {
    events: Events
  }
  /** What channels carry, by name: `interface EventChannels { 'order:placed': { id: number } }`. */
  interface EventChannels {}
}

/** @param channel - the name that it was published to */
type Handler<P extends string> = (data: PatternData<P>, channel: string) => void | Promise<void>

/** `fastify.events`. */
export interface Events {
  /**
   * Tells all who are subscribed now, in all processes. Nobody is told later: for what must not be lost there are streams.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503) where Redis did not take it within `timeout`,
   * `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, `FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE`
   */
  publish<C extends string> (channel: C, data: ChannelData<C>): Promise<void>
  /**
   * Hears what is published to a channel, or to all that a glob matches (`*`: any text). What is published after it resolved is heard.
   * The handler is called in the order of publishing and not awaited; what it throws is logged.
   *
   * @returns a function that ends it: the handler is not called after that
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503) where the server did not confirm it within `subscribeTimeout`,
   * `FST_REDIS_SUITE_EVENTS_REFUSED` (503), `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`
   */
  subscribe<P extends string> (pattern: P, handler: Handler<P>, options?: SubscribeOptions): Promise<() => Promise<void>>
  /**
   * Answers with server-sent events: a stream's, from the event after `Last-Event-ID` (or `?lastEventId=`) on; or what is published to a pattern from now
   * on. Return or await it; it resolves when the answer is over.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_LAST_EVENT_ID` (400), `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, and what `subscribe` throws
   */
  sse<T> (request: AnyRequest, reply: AnyReply, source: SseSource<T>, options?: SseOptions<T>): Promise<void>
  sse<P extends string> (request: AnyRequest, reply: AnyReply, pattern: P, options?: SseOptions<PatternData<P>>): Promise<void>
  /**
   * Durable events: the stream of this name; each call gives the same one.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, also where it is open with other options
   */
  stream<T = unknown> (name: string, options?: StreamOptions): EventStream<T>
  /**
   * How far each group is with the streams that are open here.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503)
   */
  stats (): Promise<GroupOfStream[]>
}

export type { ChannelData, PatternData } from './pubsub/patterns.js'
export type { Gap, SubscribeOptions } from './pubsub/subscriptions.js'
export type { EventsPluginOptions } from './options.js'
export type { SseMeta, SseOptions, SseSource } from './sse/sse-replies.js'
export type { BackoffOptions } from '../shared/plugin/backoff.js'
export type { DeadLetters } from '../shared/work-queue/dead-letters.js'
export type { GroupOfStream } from './stream/streams.js'
export type { Consumer, ConsumeOptions, DeadLetter, EventStream, GroupStats, HandlerContext, ReadOptions, StreamEvent, StreamOptions, StreamStats } from './stream/types.js'

/**
 * Pub/sub and server-sent events: `fastify.events`.
 *
 * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, `FST_REDIS_SUITE_EVENTS_ALREADY_REGISTERED` at registration
 */
export const events = fp<EventsPluginOptions>(async function events (fastify, given) {
  const options = resolveEventsOptions(given)
  if (Object.hasOwn(fastify, 'events')) throw alreadyRegisteredError('events', 'fastify.events')
  watchRoutes(fastify)
  const { log } = fastify
  const { clock } = options
  const client = resolveClient(fastify, 'events', given.redis)
  const guard = client && guardRedis(client, log, options.timeout, 'events', clock)
  const hub = new Subscriptions({
    connect: listener => client === undefined || guard === undefined
      ? createMemoryTransport(listener)
      : new RedisTransport({ client, prefix: keyPrefixOf(client), listener, run: guard.run, clock }),
    subscribeTimeout: options.subscribeTimeout,
    log,
    clock
  })
  const answers = new SseReplies(hub, clock)
  const streams = createStreams({ client, prefix: keyPrefixOf(client), guard, log, clock })

  fastify.decorate('events', {
    stream: streams.stream,
    stats: streams.stats,
    publish: async (channel, data) => await hub.publish(checkName(channel), toJson(channel, data)),
    async subscribe<P extends string> (pattern: P, handler: Handler<P>, subscribeOptions?: SubscribeOptions) {
      if (typeof handler !== 'function') throw invalidArgumentError('events', 'handler', handler, 'a function')
      return await hub.subscribe(pattern, (data, channel) => handler(data as PatternData<P>, channel), subscribeOptions)
    },
    sse: async <T>(request: AnyRequest, reply: AnyReply, source: SseSource<T> | string, sseOptions?: SseOptions<T>) =>
      await answers.send(request as FastifyRequest, reply as FastifyReply, source, sseOptions)
  })
  // Before the server waits for its requests.
  fastify.addHook('preClose', async () => answers.close())
  fastify.addHook('onClose', async () => { await Promise.all([hub.close(options.closeTimeout), streams.close()]) })
}, { name: 'fastify-redis-suite/events', fastify: '5.x' })

export default events

function toJson (channel: string, data: unknown): string {
  let text: string | undefined
  let reason = `it is ${typeof data}`
  try {
    text = JSON.stringify(data)
  } catch (error) {
    reason = reasonOf(error)
  }
  if (text === undefined) throw new UnserializableError(channel, reason)
  return text
}
