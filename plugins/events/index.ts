import type { FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { AnyReply, AnyRequest } from '../shared/http/any-request.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { alreadyRegisteredError, invalidArgumentError, reasonOf } from '../shared/plugin/errors.js'
import { refuseOption } from '../shared/plugin/option-table.js'
import { keyPrefixOf, resolveClient } from '../shared/redis/client.js'
import { guardRedis } from '../shared/redis/guard.js'
import { UnserializableError } from './errors.js'
import { resolveEventsOptions, type EventsPluginOptions } from './options.js'
import { createMemoryTransport } from './pubsub/memory-transport.js'
import { checkName, type ChannelData, type PatternData } from './pubsub/patterns.js'
import { RedisTransport } from './pubsub/redis-transport.js'
import { Subscriptions, type SubscribeOptions } from './pubsub/subscriptions.js'
import type { SseOptions } from './sse/options.js'
import { SseReplies, type SseSource } from './sse/sse-replies.js'
import { createStreams, type GroupOfStream } from './stream/streams.js'
import type { EventStream, StreamOptions } from './stream/types.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Publishes and subscribes to messages, sends server-sent events, and opens durable streams. */
    events: Events
  }
  /** The types of messages by channel: `interface EventChannels { 'order:placed': { id: number } }`. */
  interface EventChannels {}
}

/** Gets a message's data, and the channel that the message was published to. */
export type EventHandler<P extends string> = (data: PatternData<P>, channel: string) => void | Promise<void>

/** `fastify.events`. */
export interface Events {
  /**
   * Publishes a message to the current subscribers of all processes. Processes that subscribe later do not receive it:
   * use a stream for events that must not be lost.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503) if Redis did not accept it within `timeout`
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, `FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE`
   */
  publish<C extends string> (channel: C, data: ChannelData<C>): Promise<void>
  /**
   * Subscribes to a channel, or to all channels that a glob matches (`*`: any text). Messages that are published after
   * it resolves are received. The handler is called in the order of publication and not awaited; its errors are logged.
   *
   * @example
   * const unsubscribe = await fastify.events.subscribe('order:*', (order, channel) => {
   *   fastify.log.info({ channel, order })
   * })
   *
   * @returns a function that unsubscribes: the handler is not called any more
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503) if the server did not confirm it within `subscribeTimeout`
   * @throws `FST_REDIS_SUITE_EVENTS_REFUSED` (503), `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`
   * @throws `FST_REDIS_SUITE_EVENTS_SUBSCRIPTIONS_OFF` with the option `subscriptions: false`
   */
  subscribe<P extends string> (
    pattern: P, handler: EventHandler<P>, options?: SubscribeOptions
  ): Promise<() => Promise<void>>
  /**
   * Sends server-sent events as the response: of a stream, from the event after `Last-Event-ID` (or `?lastEventId=`)
   * on; or of a pattern, from now on. Return or await it: it resolves when the response has ended.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_LAST_EVENT_ID` (400), `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, and the
   *   errors of `subscribe`
   */
  sse<T> (request: AnyRequest, reply: AnyReply, source: SseSource<T>, options?: SseOptions<T>): Promise<void>
  sse<P extends string> (
    request: AnyRequest, reply: AnyReply, pattern: P, options?: SseOptions<PatternData<P>>
  ): Promise<void>
  /**
   * Opens the durable stream of this name; further calls return the same stream.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, also if it is open with other options
   */
  stream<T = unknown> (name: string, options?: StreamOptions): EventStream<T>
  /**
   * Returns the progress of each consumer group of the streams that are open in this process.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503)
   */
  stats (): Promise<GroupOfStream[]>
}

export type { ChannelData, PatternData } from './pubsub/patterns.js'
export type { Gap, SubscribeOptions } from './pubsub/subscriptions.js'
export type { EventsPluginOptions } from './options.js'
export type { SseMeta, SseOptions } from './sse/options.js'
export type { SseSource } from './sse/sse-replies.js'
export type { BackoffOptions } from '../shared/plugin/backoff.js'
export type { Duration } from '../shared/plugin/duration.js'
export type { DeadLetterPage, DeadLetters } from '../shared/work-queue/dead-letter-admin.js'
export type { GroupOfStream } from './stream/streams.js'
export type {
  Consumer, ConsumeOptions, EventDeadLetter as DeadLetter, EventStream, GroupStats, HandlerContext, ReadOptions,
  StreamEvent, StreamOptions, StreamStats
} from './stream/types.js'

/**
 * Adds `fastify.events`: pub/sub between instances, server-sent events and durable streams.
 *
 * @example
 * await fastify.register(events)
 * fastify.get('/orders/live', async (request, reply) => await fastify.events.sse(request, reply, 'order:*'))
 *
 * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, `FST_REDIS_SUITE_EVENTS_ALREADY_REGISTERED` at registration
 */
export const events = fp<EventsPluginOptions>(async function events (fastify, given) {
  const options = resolveEventsOptions(given)
  if (Object.hasOwn(fastify, 'events')) throw alreadyRegisteredError('events', 'fastify.events')
  watchRoutes(fastify)
  const { log } = fastify
  const { clock, subscribeTimeout } = options
  const client = resolveClient(fastify, 'events', given.redis)
  const guard = client && guardRedis(client, log, options.timeout, 'events', clock)
  const prefix = keyPrefixOf(client)
  if (client?.isHttp === true && options.subscriptions) {
    refuseOption('events', options, 'subscriptions',
      'false over HTTP, where nothing can be subscribed to; or give this plugin a client on TCP by the option redis')
  }
  const subscriptions = new Subscriptions({
    connect: listener => client === undefined || guard === undefined
      ? createMemoryTransport(listener)
      : new RedisTransport({ client, prefix, listener, run: guard.run, clock }),
    canSubscribe: options.subscriptions,
    subscribeTimeout,
    log,
    clock
  })
  const replies = new SseReplies(subscriptions, clock)
  const streams = createStreams({ client, prefix, guard, log, clock })

  fastify.decorate('events', {
    stream: streams.stream,
    stats: streams.stats,
    publish: async (channel, data) => await subscriptions.publish(checkName(channel), toJson(channel, data)),
    async subscribe<P extends string> (pattern: P, handler: EventHandler<P>, subscribeOptions?: SubscribeOptions) {
      if (typeof handler !== 'function') throw invalidArgumentError('events', 'handler', handler, 'a function')
      return await subscriptions.subscribe(
        pattern, (data, channel) => handler(data as PatternData<P>, channel), subscribeOptions
      )
    },
    sse: async <T>(request: AnyRequest, reply: AnyReply, source: SseSource<T> | string, sseOptions?: SseOptions<T>) =>
      await replies.send(request as FastifyRequest, reply as FastifyReply, source, sseOptions)
  })
  // In preClose, because the server's close waits for open responses.
  fastify.addHook('preClose', async () => replies.close())
  fastify.addHook(
    'onClose', async () => { await Promise.all([subscriptions.close(options.closeTimeout), streams.close()]) }
  )
}, { name: 'fastify-redis-suite/events', fastify: '5.x || 6.x' })

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
