import type { Redis } from 'ioredis'
import { isCluster, type RedisClient } from '../../shared/redis/client.js'
import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { Pattern } from './patterns.js'
import { SubscriberConnection } from './subscriber-connection.js'
import { addressOf, createChannelRouting, type Subscription, type ChannelRouting } from './channel-routing.js'
import type { Transport, TransportListener } from './transport.js'

const MAX_RETRY_MS = 1000

/** A channel of Redis, and the patterns that are heard on it. */
interface Topic extends Subscription {
  readonly patterns: Set<Pattern>
  line: SubscriberConnection<Topic> | undefined
  isLive: boolean
}

interface RedisTransportOptions {
  client: RedisClient
  prefix: string
  listener: TransportListener
  /** How `publish` asks Redis. */
  run: <T>(operation: () => Promise<T>) => Promise<T>
  clock: Clock
}

/** One connection to each server that sends something: to a single server one, to a Cluster up to one a shard. */
export class RedisTransport implements Transport {
  readonly #client: RedisClient
  readonly #topology: ChannelRouting
  readonly #listener: TransportListener
  readonly #run: RedisTransportOptions['run']
  readonly #clock: Clock
  readonly #topics = new Map<string, Topic>()
  readonly #lines = new Map<string, SubscriberConnection<Topic>>()
  #attempts = 0
  #retry: Timer | undefined
  #isClosed = false

  constructor ({ client, prefix, listener, run, clock }: RedisTransportOptions) {
    this.#client = client
    this.#topology = createChannelRouting(client, prefix)
    this.#listener = listener
    this.#run = run
    this.#clock = clock
    client.on('end', this.#endLines)
    if (isCluster(client)) client.on('-node', this.#onNodeGone)
  }

  async publish (name: string, text: string): Promise<void> {
    await this.#run(() => this.#topology.publish(name, text))
  }

  listen (pattern: Pattern): void {
    const topics = this.#topology.subscriptionsOf(pattern).map(subscription => this.#topics.get(subscription.channel) ?? this.#addTopic(subscription))
    for (const topic of topics) topic.patterns.add(pattern)
    this.#tellIfLive(pattern)
    this.#place(topics)
  }

  async unlisten (pattern: Pattern): Promise<void> {
    await Promise.all(this.#topicsOf(pattern).map(async topic => {
      topic.patterns.delete(pattern)
      if (topic.patterns.size > 0) return
      this.#topics.delete(topic.channel)
      await topic.line?.remove(topic)
    }))
  }

  close (): void {
    this.#isClosed = true
    this.#clock.clearTimeout(this.#retry)
    this.#client.off('end', this.#endLines)
    this.#client.off('-node', this.#onNodeGone)
    this.#topics.clear()
    this.#endLines()
  }

  readonly #endLines = (): void => {
    for (const line of [...this.#lines.values()]) line.end()
  }

  readonly #onNodeGone = (node: Redis): void => {
    this.#lines.get(addressOf(node))?.end()
  }

  #addTopic ({ verb, channel }: Subscription): Topic {
    const topic: Topic = { verb, channel, patterns: new Set(), line: undefined, isLive: false }
    this.#topics.set(channel, topic)
    return topic
  }

  #topicsOf (pattern: Pattern): Topic[] {
    return this.#topology.subscriptionsOf(pattern).flatMap(({ channel }) => this.#topics.get(channel) ?? [])
  }

  #tellIfLive (pattern: Pattern): void {
    if (this.#topicsOf(pattern).every(topic => topic.isLive)) this.#listener.live(pattern.text)
  }

  /** Gives each topic the line to its server. */
  #place (topics: Iterable<Topic>): void {
    for (const topic of topics) {
      if (topic.line !== undefined) continue
      const place = this.#topology.placeOf(topic.channel)
      const line = place === undefined ? undefined : this.#lines.get(place) ?? this.#open(place)
      if (line === undefined) {
        this.#placeLater()
      } else {
        topic.line = line
        line.add(topic)
      }
    }
  }

  /** Soon at first, then about once a second, and not all processes at once. */
  #placeLater (): void {
    if (this.#isClosed || this.#retry !== undefined) return
    const ceiling = Math.min(MAX_RETRY_MS, 50 * 2 ** this.#attempts++)
    this.#retry = this.#clock.setTimeout(() => {
      this.#retry = undefined
      this.#place(this.#topics.values())
    }, ceiling / 2 + Math.random() * ceiling / 2)
    this.#retry.unref()
  }

  #open (place: string): SubscriberConnection<Topic> | undefined {
    const redis = this.#topology.connect(place)
    if (redis === undefined) return undefined
    const line: SubscriberConnection<Topic> = new SubscriberConnection<Topic>(redis, {
      message: (subscribed, channel, text) => this.#hear(subscribed, channel, text),
      live: topic => {
        this.#attempts = 0
        topic.isLive = true
        for (const pattern of topic.patterns) this.#tellIfLive(pattern)
      },
      refused: (topic, reason) => {
        for (const pattern of [...topic.patterns]) this.#listener.refused(pattern.text, reason)
      },
      ended: topics => {
        this.#lines.delete(place)
        for (const topic of topics) this.#lose(topic)
        if (this.#isClosed) return
        this.#topology.refresh()
        this.#placeLater()
      }
    }, this.#clock)
    this.#lines.set(place, line)
    return line
  }

  #lose (topic: Topic): void {
    topic.line = undefined
    topic.isLive = false
    for (const pattern of topic.patterns) this.#listener.lost(pattern.text)
  }

  #hear (subscribed: string, channel: string, message: string): void {
    const topic = this.#topics.get(subscribed)
    if (topic === undefined) return
    const { name, text } = this.#topology.read(channel, message)
    for (const pattern of [...topic.patterns]) {
      if (pattern.matches(name)) this.#listener.message(pattern.text, name, text)
    }
  }
}
