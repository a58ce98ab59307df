import { setImmediate as turn } from 'node:timers/promises'
import fp from 'fastify-plugin'
import type { Test } from 'tap'
import { createStreams, type Streams } from '../../../plugins/events/stream/streams.js'
import type { Consumer, ConsumeOptions, EventStream, GroupStats, StreamEvent } from '../../../plugins/events/stream/types.js'
import type { Clock } from '../../../plugins/shared/plugin/clock.js'
import { portOf } from '../../../plugins/shared/redis/client.js'
import { guardRedis } from '../../../plugins/shared/redis/guard.js'
import { createTestClock, type TestClock } from '../../../plugins/testing/index.js'
import { newPrefix } from '../app/store.js'
import { advanceUntil, createTestApp, type TestApp, type TestAppOptions } from '../app/test-app.js'

declare module 'fastify' {
  interface FastifyInstance {
    streams: Streams
  }
}

/** Long enough that it does not expire in real time while a busy machine runs a test; by the test's clock it passes quickly. */
export const LEASE_MS = 60_000

interface PluginOptions {
  prefix: string
  timeout: number
  lease: number
  clock: Clock
}

const plugin = fp<PluginOptions>(async (fastify, { prefix, timeout, lease, clock }) => {
  const client = fastify.hasDecorator('redis') ? portOf(fastify.redis) : undefined
  const guard = client && guardRedis(client, fastify.log, timeout, 'events', clock)
  fastify.decorate('streams', createStreams({ client, prefix, guard, log: fastify.log, lease, clock }))
  fastify.addHook('onClose', () => fastify.streams.close())
})

export interface TestStreamsOptions extends Pick<TestAppOptions, 'store' | 'instances' | 'prefix' | 'connection'> {
  clock?: TestClock
  /** The timeout of one command. @default 60 s, which pass only if a test advances its clock while Redis does not reply */
  timeout?: number
  /** The clock of the streams of one app, if it is not `clock` itself. */
  clockOf?: (clock: TestClock, instance: number) => Clock
}

export interface TestStreams extends TestApp {
  /** The stream of the first app. */
  streams: Streams
  /** The streams of each app. */
  all: Streams[]
}

/** Starts apps with streams in place of the whole plugin, so that a lease can be longer than the plugin's. */
export async function createTestStreams (
  t: Test, { timeout = 60_000, prefix = newPrefix(), clock = createTestClock(), clockOf = () => clock, ...options }: TestStreamsOptions
): Promise<TestStreams> {
  const made = await createTestApp(t, {
    ...options,
    prefix,
    clock,
    routes: async (app, instance) => { await app.register(plugin, { prefix, timeout, lease: LEASE_MS, clock: clockOf(clock, instance) }) }
  })
  return { ...made, streams: made.app.streams, all: made.apps.map(({ streams }) => streams) }
}

/** Starts a consumer, and resolves when it owns a partition. */
export async function startConsumer<T> (clock: TestClock, stream: EventStream<T>, options: ConsumeOptions<T>): Promise<Consumer> {
  const consumer = await stream.consume(options)
  await advanceUntil(clock, `a consumer of the group ${options.group} owns a partition`, () => consumer.owned > 0, { step: 100 })
  return consumer
}

/** Advances the clock until groups have handled all events. @returns their stats */
export async function advanceUntilDone<T> (clock: TestClock, stream: EventStream<T>, ...groups: string[]): Promise<Record<string, GroupStats>> {
  let stats: Record<string, GroupStats> = {}
  await advanceUntil(clock, `the groups ${groups.join(', ')} have handled all events`, async () => {
    stats = (await stream.stats()).groups
    return groups.every(group => stats[group]?.lag === 0 && stats[group].pending === 0)
  }, { step: 100 })
  return stats
}

export const dataOf = <T>(events: ReadonlyArray<StreamEvent<T>>) => events.map(({ data }) => data)

/** Reads until the test ends. */
export function follow<T> (t: Test, events: AsyncIterable<StreamEvent<T>>): Array<StreamEvent<T>> {
  const read: Array<StreamEvent<T>> = []
  const reading = async () => { for await (const event of events) read.push(event) }
  reading().catch(error => t.error(error))
  return read
}

/** Reads a number of events, then stops. */
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

/** A handler that records its events, and rejects where `fail` returns true. With a `gate` it waits for that. */
export function createHandler<T> ({ fail = () => false, gate }: { fail?: (event: StreamEvent<T>, attempt: number) => boolean, gate?: Promise<void> } = {}) {
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
      await (gate ?? turn())
      inside--
      keysInside.delete(key)
      if (fail(event, attempt)) throw new Error(`no: ${JSON.stringify(event.data)}`)
      handled.push(event)
    }
  }
}

/** A promise with its resolver. */
export function createGate (): { gate: Promise<void>, open: () => void } {
  let open = (): void => {}
  const gate = new Promise<void>(resolve => { open = resolve })
  return { gate, open }
}
