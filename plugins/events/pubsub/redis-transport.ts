import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { RedisPort } from '../../shared/redis/port.js'
import { createChannelRouting, type ChannelRouting, type Subscription } from './channel-routing.js'
import type { Pattern } from './patterns.js'
import { SubscriberConnection } from './subscriber-connection.js'
import type { Transport, TransportListener } from './transport.js'

const MAX_RETRY_MS = 1000

/** A channel of Redis, with the patterns that receive its messages. */
interface Topic extends Subscription {
  readonly patterns: Set<Pattern>
  connection: SubscriberConnection<Topic> | undefined
  isLive: boolean
}

interface RedisTransportOptions {
  client: RedisPort
  prefix: string
  listener: TransportListener
  /** Runs a publish with the deadline and the circuit breaker of the plugin. */
  run: <T>(operation: () => Promise<T>) => Promise<T>
  clock: Clock
}

/**
 * A transport with one connection per server that publishes: one for a single server, up to one per shard for a
 * Cluster.
 */
export class RedisTransport implements Transport {
  readonly #client: RedisPort
  readonly #routing: ChannelRouting
  readonly #listener: TransportListener
  readonly #run: RedisTransportOptions['run']
  readonly #clock: Clock
  readonly #topics = new Map<string, Topic>()
  readonly #connections = new Map<string, SubscriberConnection<Topic>>()
  #attempts = 0
  #retry: Timer | undefined
  #isClosed = false

  constructor ({ client, prefix, listener, run, clock }: RedisTransportOptions) {
    this.#client = client
    this.#routing = createChannelRouting(client, prefix)
    this.#listener = listener
    this.#run = run
    this.#clock = clock
    client.on('end', this.#endConnections)
    client.on('nodeRemoved', this.#onNodeRemoved)
  }

  async publish (name: string, text: string): Promise<void> {
    await this.#run(() => this.#routing.publish(name, text))
  }

  subscribe (pattern: Pattern): void {
    const topics = this.#routing.subscriptionsOf(pattern).map(subscription =>
      this.#topics.get(subscription.channel) ?? this.#addTopic(subscription))
    for (const topic of topics) topic.patterns.add(pattern)
    this.#reportIfLive(pattern)
    this.#connect(topics)
  }

  async unsubscribe (pattern: Pattern): Promise<void> {
    await Promise.all(this.#topicsOf(pattern).map(async topic => {
      topic.patterns.delete(pattern)
      if (topic.patterns.size > 0) return
      this.#topics.delete(topic.channel)
      await topic.connection?.remove(topic)
    }))
  }

  close (): void {
    this.#isClosed = true
    this.#clock.clearTimeout(this.#retry)
    this.#client.off('end', this.#endConnections)
    this.#client.off('nodeRemoved', this.#onNodeRemoved)
    this.#topics.clear()
    this.#endConnections()
  }

  readonly #endConnections = (): void => {
    for (const connection of [...this.#connections.values()]) connection.end()
  }

  readonly #onNodeRemoved = (address: string): void => {
    this.#connections.get(address)?.end()
  }

  #addTopic ({ verb, channel }: Subscription): Topic {
    const topic: Topic = { verb, channel, patterns: new Set(), connection: undefined, isLive: false }
    this.#topics.set(channel, topic)
    return topic
  }

  #topicsOf (pattern: Pattern): Topic[] {
    return this.#routing.subscriptionsOf(pattern).flatMap(({ channel }) => this.#topics.get(channel) ?? [])
  }

  #reportIfLive (pattern: Pattern): void {
    if (this.#topicsOf(pattern).every(topic => topic.isLive)) this.#listener.live(pattern.text)
  }

  /** Assigns each topic to the connection to its server. */
  #connect (topics: Iterable<Topic>): void {
    for (const topic of topics) {
      if (topic.connection !== undefined) continue
      const server = this.#routing.serverOf(topic.channel)
      const connection = server === undefined ? undefined : this.#connections.get(server) ?? this.#open(server)
      if (connection === undefined) {
        this.#connectLater()
      } else {
        topic.connection = connection
        connection.add(topic)
      }
    }
  }

  /** Retries with back-off up to about a second, and with jitter: not all processes at once. */
  #connectLater (): void {
    if (this.#isClosed || this.#retry !== undefined) return
    const ceiling = Math.min(MAX_RETRY_MS, 50 * 2 ** this.#attempts++)
    this.#retry = this.#clock.setTimeout(() => {
      this.#retry = undefined
      this.#connect(this.#topics.values())
    }, ceiling / 2 + Math.random() * ceiling / 2)
    this.#retry.unref()
  }

  #open (server: string): SubscriberConnection<Topic> | undefined {
    const connection = new SubscriberConnection<Topic>({
      message: (subscribed, channel, text) => this.#dispatch(subscribed, channel, text),
      live: topic => {
        this.#attempts = 0
        topic.isLive = true
        for (const pattern of topic.patterns) this.#reportIfLive(pattern)
      },
      refused: (topic, reason) => {
        for (const pattern of [...topic.patterns]) this.#listener.refused(pattern.text, reason)
      },
      ended: topics => {
        this.#connections.delete(server)
        for (const topic of topics) this.#disconnect(topic)
        if (this.#isClosed) return
        this.#routing.refresh()
        this.#connectLater()
      }
    }, this.#clock)
    this.#connections.set(server, connection)
    if (connection.open(listener => this.#routing.connect(server, listener))) return connection
    this.#connections.delete(server)
    return undefined
  }

  #disconnect (topic: Topic): void {
    topic.connection = undefined
    topic.isLive = false
    for (const pattern of topic.patterns) this.#listener.lost(pattern.text)
  }

  #dispatch (subscribed: string, channel: string, message: string): void {
    const topic = this.#topics.get(subscribed)
    if (topic === undefined) return
    const { name, text } = this.#routing.parse(channel, message)
    for (const pattern of [...topic.patterns]) {
      if (pattern.matches(name)) this.#listener.message(pattern.text, name, text)
    }
  }
}
