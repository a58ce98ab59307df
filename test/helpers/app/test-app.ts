import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Cluster, Redis } from 'ioredis'
import type { Test } from 'tap'
import { cache, type CachePluginOptions } from '../../../plugins/cache/index.js'
import { events, type EventsPluginOptions } from '../../../plugins/events/index.js'
import { health, type HealthPluginOptions } from '../../../plugins/health/index.js'
import { idempotency, type IdempotencyPluginOptions } from '../../../plugins/idempotency/index.js'
import { lock, type LockPluginOptions } from '../../../plugins/lock/index.js'
import { metrics, type MetricsPluginOptions } from '../../../plugins/metrics/index.js'
import { rateLimit, type RateLimitPluginOptions } from '../../../plugins/rate-limit/index.js'
import { redis, type RedisClient, type RedisPluginOptions } from '../../../plugins/redis/index.js'
import { session, type SessionPluginOptions } from '../../../plugins/session/index.js'
import { createTestClock, type TestClock } from '../../../plugins/testing/index.js'
import { sharedCluster, sharedRedis } from '../servers/shared.js'
import { byDriver, openClient } from './driver.js'
import { collectLog } from './log-lines.js'
import { ageKeys, newPrefix, waitForReplies, type StoreName } from './store.js'

/** A server, or a Cluster, that the test has started. */
type OwnServer =
  | { readonly url: string, readonly answers?: boolean }
  | { readonly startupNodes: ReadonlyArray<{ host: string, port: number }>, readonly answers?: boolean }

interface Options {
  cache: CachePluginOptions
  events: EventsPluginOptions
  health: HealthPluginOptions
  idempotency: IdempotencyPluginOptions
  lock: LockPluginOptions
  metrics: MetricsPluginOptions
  rateLimit: RateLimitPluginOptions
  session: Partial<SessionPluginOptions>
}

/** The client's own deadline uses the system's clock: it must not pass on a busy machine. */
const PATIENT: RedisPluginOptions = { commandTimeout: '15s' }

const PLUGINS = { cache, events, health, idempotency, lock, metrics, rateLimit, session }
export const SECRET = 'a secret of at least thirty-two characters'

export interface TestAppOptions {
  /** The options of the plugins, which are registered in this order; `clock` is added. */
  plugins?: Partial<Options>
  /** The store of the plugins, or a server that the test has started. @default 'memory' */
  store?: StoreName | OwnServer
  /** Further options of the connection. */
  connection?: Partial<RedisPluginOptions>
  /** How many apps share the store. @default 1 */
  instances?: number
  /** `'real'`: the system's, for tests of a server's or socket's own time. @default a clock that stands still until it is advanced */
  clock?: TestClock | 'real'
  /** @default a prefix that no other test has */
  prefix?: string
  server?: FastifyServerOptions
  /** Registers other plugins before the suite's, but after the connection. */
  before?: (app: FastifyInstance) => unknown
  routes?: (app: FastifyInstance, instance: number) => unknown
  /** `false`: the test adds routes itself, and the first request makes the app ready. @default true */
  ready?: boolean
}

export interface TestApp {
  /** The first of `apps`. */
  app: FastifyInstance
  apps: FastifyInstance[]
  clock: TestClock
  prefix: string
  /** Returns the test's own client of the store, of ioredis. */
  client: () => Redis | Cluster
  /** The log lines of all apps, at the level `debug` and above. */
  lines: Array<Record<string, unknown>>
  /** Messages of the level `warn` and above. */
  warnings: () => string[]
}

/** Starts apps with plugins of the suite on one store, and closes them with the test. */
export async function createTestApp (t: Test, options: TestAppOptions = {}): Promise<TestApp> {
  const { instances = 1, prefix = newPrefix(), store = 'memory' } = options
  const { logger, lines } = collectLog()
  const clock = options.clock === undefined || options.clock === 'real' ? createTestClock() : options.clock
  const connection = await connectionTo(store)
  const apps: FastifyInstance[] = []
  const own = connection && inspect(t, connection)
  const client = () => own ?? notInMemory()
  if (connection !== undefined && options.clock !== 'real') {
    const answers = () => typeof store === 'string' || store.answers !== false
    ageKeys(t, clock, client(), prefix, answers)
    waitForReplies(t, clock, () => apps.map(app => app.redis as RedisClient), answers)
  }

  for (let instance = 0; instance < instances; instance++) {
    const app: FastifyInstance = Fastify({ loggerInstance: logger as never, ...options.server }) as never
    t.teardown(() => closeApp(app, clock))
    if (connection !== undefined) await app.register(redis, { ...await byDriver(connection), prefix, ...options.clock !== 'real' && PATIENT, ...options.connection })
    await options.before?.(app)
    for (const [name, given] of Object.entries(options.plugins ?? {})) {
      if (!Object.hasOwn(PLUGINS, name)) throw new Error(`createTestApp: no plugin "${name}"; one of ${Object.keys(PLUGINS).join(', ')}`)
      const more = { ...options.clock !== 'real' && { clock }, ...name === 'session' && { secret: SECRET } }
      await app.register(PLUGINS[name as keyof Options] as never, { ...more, ...given } as never)
    }
    await options.routes?.(app, instance)
    if (options.ready !== false) await app.ready()
    apps.push(app)
  }
  const [app] = apps
  if (app === undefined) throw new Error('instances: at least 1')
  return { app, apps, clock, prefix, client, lines, warnings: () => lines.filter(({ level }) => Number(level) >= 40).map(({ msg }) => String(msg)) }
}

async function connectionTo (store: NonNullable<TestAppOptions['store']>): Promise<RedisPluginOptions | undefined> {
  if (store === 'memory') return undefined
  if (typeof store === 'string' && !['redis', 'cluster'].includes(store)) throw new Error(`createTestApp: no store "${store}"; 'memory', 'redis', 'cluster' or a server`)
  if (store === 'redis') return { url: (await sharedRedis()).url }
  const { startupNodes, url } = store === 'cluster' ? { ...await sharedCluster(), url: undefined } : { startupNodes: undefined, url: undefined, ...store }
  return startupNodes === undefined ? { url: url ?? '' } : { cluster: { nodes: [...startupNodes] } }
}

function notInMemory (): never {
  throw new Error('client(): the memory store has no client')
}

/** Returns a connection of the test's own, so that it may break that of the app. */
function inspect (t: Test, { url, cluster }: RedisPluginOptions): Redis | Cluster {
  return openClient(t, cluster === undefined ? { url: url ?? '' } : { startupNodes: cluster.nodes as Array<{ host: string, port: number }> })
}

/** Advances the clock until the app is closed, because closing may wait for a timer. */
export async function closeApp (app: FastifyInstance, clock: TestClock): Promise<void> {
  await advanceWhile(clock, app.close(), { step: 100 })
}

/**
  * Advances the clock in small steps, with time for servers to respond in between, until `check` returns true.
  *
  * @param what - the name of the condition in the error if it never becomes true
  * @returns by how many milliseconds the clock was advanced
  */
export async function advanceUntil (clock: TestClock, what: string, check: () => unknown, { step = 10, atMost = 120_000 } = {}): Promise<number> {
  for (let passed = 0; ; passed += step) {
    await turn()
    const result = check()
    const checked = result instanceof Promise ? pendingUntilSettled<unknown>(result) : { promise: result, isPending: false }
    // The condition may depend on a deadline of the clock.
    for (let turns = 0; checked.isPending; turns++) {
      if (turns >= CHECK_TURNS) {
        await clock.advance(step)
        passed += step
      }
      if (passed >= atMost) break
      await turn()
    }
    if (!checked.isPending && await checked.promise) return passed
    if (passed >= atMost) throw new Error(`not within ${atMost} ms of the test's clock: ${what}`)
    await clock.advance(step)
  }
}

/** Advances the clock until the promise settles. @returns its value, and by how many milliseconds the clock was advanced */
export async function advanceWhile<T> (clock: TestClock, promise: Promise<T>, { step = 10, atMost = 120_000 } = {}): Promise<{ value: T, passed: number }> {
  const settled = pendingUntilSettled(promise)
  const passed = await advanceUntil(clock, 'the promise settles', () => !settled.isPending, { step, atMost })
  return { value: await promise, passed }
}

/** The number of turns, of 2 ms or more, for which a check is repeated before the clock advances. */
const CHECK_TURNS = 500

function pendingUntilSettled<T> (promise: Promise<T>): { promise: Promise<T>, isPending: boolean } {
  const state = { promise, isPending: true }
  promise.catch(() => {}).finally(() => { state.isPending = false })
  return state
}

/** Lets sockets be read and written. */
const turn = () => new Promise(resolve => setTimeout(resolve, 2))
