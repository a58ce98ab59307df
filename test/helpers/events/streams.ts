import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import fp from 'fastify-plugin'
import { Cluster, type Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { createStreams, type Streams } from '../../../plugins/events/stream/streams.js'
import type { EventStream, StreamEvent } from '../../../plugins/events/stream/types.js'
import { guardRedis } from '../../../plugins/shared/guard.js'
import { startCluster, startRedis } from '../index.js'
import { collectLog } from '../app/log-lines.js'

declare module 'fastify' {
  interface FastifyInstance {
    streams: Streams
  }
}

export const dataOf = <T>(events: ReadonlyArray<StreamEvent<T>>) => events.map(({ data }) => data)

interface PluginOptions {
  client: Redis | Cluster | undefined
  keyPrefix: string
  timeout: number
}

const plugin = fp<PluginOptions>(async (fastify, { client, keyPrefix, timeout }) => {
  const guard = client && guardRedis(client, fastify.log, timeout)
  fastify.decorate('streams', createStreams({ client, prefix: keyPrefix, guard, log: fastify.log, lease: 500 }))
  fastify.addHook('onClose', () => fastify.streams.close())
})

/** An app that has streams, closed with the test. */
export async function startStreams (t: Test, client: Redis | Cluster | undefined, keyPrefix: string, timeout = 2000) {
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  await app.register(plugin, { client, keyPrefix, timeout })
  t.teardown(() => app.close())
  const warnings = () => lines.filter(({ level }) => Number(level) >= 40).map(({ msg }) => msg)
  return { app, streams: app.streams, lines, warnings }
}

/** Takes so many events, and ends reading. */
export async function take<T> (events: AsyncIterable<StreamEvent<T>>, count: number): Promise<Array<StreamEvent<T>>> {
  const taken: Array<StreamEvent<T>> = []
  if (count === 0) return taken
  for await (const event of events) {
    taken.push(event)
    if (taken.length === count) break
  }
  return taken
}

export async function appendAll<T> (stream: EventStream<T>, values: readonly T[], key?: string): Promise<string[]> {
  const ids: string[] = []
  for (const value of values) ids.push(await stream.append(value, key === undefined ? {} : { key }))
  return ids
}

export const upTo = (count: number) => Array.from({ length: count }, (_, i) => i)

/** Handles events, and keeps what it was given; where `fail` says so it rejects. */
export function createHandler<T> ({ fail = () => false, ms = 0, gate }: { fail?: (event: StreamEvent<T>, attempt: number) => boolean, ms?: number, gate?: Promise<void> } = {}) {
  const given: Array<StreamEvent<T> & { attempt: number }> = []
  const handled: Array<StreamEvent<T>> = []
  let [inside, mostInside] = [0, 0]
  const keysInside = new Set<string>()
  let overlaps = 0
  return {
    given,
    handled,
    get mostInside () { return mostInside },
    get overlaps () { return overlaps },
    valuesOf: (key: string) => handled.filter(event => event.key === key).map(({ data }) => data),
    async handler (event: StreamEvent<T>, { attempt }: { attempt: number }): Promise<void> {
      given.push({ ...event, attempt })
      const key = event.key ?? event.id
      if (keysInside.has(key)) overlaps++
      keysInside.add(key)
      mostInside = Math.max(mostInside, ++inside)
      await (gate ?? sleep(ms))
      inside--
      keysInside.delete(key)
      if (fail(event, attempt)) throw new Error(`no: ${JSON.stringify(event.data)}`)
      handled.push(event)
    }
  }
}

/** What streams may lie in, by name. */
export async function startStores (): Promise<Record<string, () => Redis | Cluster | undefined>> {
  const [server, cluster] = await Promise.all([startRedis(), startCluster()])
  const ofCluster = new Cluster(cluster.startupNodes)
  t.teardown(() => ofCluster.disconnect())
  return { memory: () => undefined, Redis: () => server.client(), Cluster: () => ofCluster }
}
