import Fastify, { type FastifyInstance } from 'fastify'
import calculateSlot from 'cluster-key-slot'
import type { Cluster } from 'ioredis'
import t, { type Test } from 'tap'
import { clusterOf, redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { clientFor } from '../../plugins/shared/redis/cluster-nodes.js'
import { guardRedis, type RedisGuard } from '../../plugins/shared/redis/guard.js'
import type { RedisPort } from '../../plugins/shared/redis/port.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { createTestApp, startCluster, startRedis, until } from '../helpers/index.js'
import { Browser } from '../helpers/session/session-app.js'

const TIMEOUT = 150
const CHECK_INTERVAL = 250
const KEYS = Array.from({ length: 60 }, (_, i) => `key${i}`)

// It takes keys two seconds after it got its slots.
const single = await startRedis({ args: ['--cluster-enabled', 'yes'] })
await single.client().call('CLUSTER', 'ADDSLOTS', ...Array(16_384).keys())
// While a master hangs in these tests, no replica takes over.
const servers = await startCluster({ nodeTimeout: 60_000, acl: ['app on >secret ~* &* +@all -cluster +cluster|slots'] })
const first = servers.nodes[0]!

interface Connected {
  app: FastifyInstance
  client: Cluster
  port: RedisPort
  guard: RedisGuard
  clock: TestClock
  text: () => string
  /** Sets keys, each by a command of its own. */
  set: (keys: readonly string[]) => Promise<Array<PromiseSettledResult<string>>>
  isOnFirst: (key: string) => boolean
}

async function connected (t: Test, options: Partial<RedisPluginOptions> = {}): Promise<Connected> {
  const { logger, text } = collectLog()
  const app: FastifyInstance = Fastify({ loggerInstance: logger as never }) as never
  t.teardown(() => app.close())
  await app.register(redis, { cluster: { nodes: servers.startupNodes }, commandTimeout: 60_000, closeTimeout: 100, ...options } as RedisPluginOptions)
  const client = clusterOf(app.redis)!
  const clock = createTestClock()
  const port = portOf(client)
  const guard = guardRedis(port, app.log, TIMEOUT, 'redis', clock)
  return {
    app,
    client,
    port,
    guard,
    clock,
    text,
    set: async keys => await Promise.allSettled(keys.map(key => guard.run(async () => await clientFor(port, key).send<string>('set', [key, 'value'])))),
    isOnFirst: key => client.slots[calculateSlot(`${options.keyPrefix ?? ''}${key}`)]?.[0] === `${first.host}:${first.port}`
  }
}

/** Resolves when masters have replied to all commands before: each connection replies in order. */
async function answered (client: Cluster, which: (port: number) => boolean = () => true): Promise<void> {
  await Promise.all(client.nodes('master').filter(node => which(Number(node.options.port))).map(async node => await node.ping()))
  // The replies have been processed.
  await new Promise(resolve => setImmediate(resolve))
}

/** The first master hangs, and the guard notices it, as the others reply. */
async function hang (t: Test, { client, clock, guard }: Connected): Promise<void> {
  first.server.pause()
  t.teardown(() => first.server.resume())
  await t.rejects(guard.run(async () => { throw new Error('lost') }), { message: 'lost' })
  await answered(client, port => port !== first.port)
  await clock.advance(TIMEOUT)
  t.equal(guard.isWhole, false)
}

const codes = (results: ReadonlyArray<PromiseSettledResult<string>>) => results.map(result => result.status === 'fulfilled' ? result.value : result.reason.code)

t.test('the servers of the tests announce no address outside of 127.0.0.0/8', async t => {
  for (const { server } of servers.nodes) {
    const slots = await server.client().call('CLUSTER', 'SLOTS') as Array<[number, number, ...Array<[string]>]>
    const hosts = slots.flatMap(([, , ...nodes]) => nodes.map(([host]) => host))
    t.same(hosts.filter(host => !host.startsWith('127.')), [])
  }
  t.match(await single.client().call('CLUSTER', 'NODES'), /^\w+ 127\.0\.0\.1:/)
})

t.test('commands that were collected while a slot moved fail by themselves, and the circuit stays closed', async t => {
  const { client, guard, isOnFirst } = await connected(t)
  const keys = KEYS.filter(isOnFirst)
  const asked = Promise.allSettled(keys.map(key => guard.run(async () => await client.set(key, 'value'))))
  // The client's reaction to a slot that has moved.
  Reflect.get(client, '_groupsBySlot')[calculateSlot(keys[0]!)] = -1
  t.match(await asked, keys.map(() => ({ status: 'rejected', reason: { message: /same slots allocation group/ } })))
  t.equal(guard.circuit.opened, 0)
})

t.test('a user that may not ask a Cluster for its state has its nodes used all the same', async t => {
  // The client itself asks the same before it is ready.
  const options = { enableReadyCheck: false }
  const { client, port, guard, set } = await connected(t, { cluster: { nodes: servers.startupNodes, options }, username: 'app', password: 'secret' })
  t.same(codes(await set(['key'])), ['OK'])
  const refused = async () => (await Promise.all(servers.nodes.map(({ server }) => server.client().call('ACL', 'LOG')))).flat().length
  await t.rejects(guard.run(async () => { throw new Error('lost') }), { message: 'lost' })
  await answered(client)
  t.equal(await refused(), 3, 'each master was asked')
  t.equal(guard.isWhole, true)
  t.equal(await guard.run(async () => await clientFor(port, 'key').send('get', ['key'])), 'value')
})

t.test('keys of a master that hangs are refused at once, others are served, and it is used again when it replies', async t => {
  const whole = await connected(t)
  const { client, guard, clock, set, isOnFirst, text } = whole
  t.same(codes(await set(KEYS)), KEYS.map(() => 'OK'))
  t.equal(guard.isWhole, true)

  first.server.pause()
  const timedOut = set(KEYS.filter(isOnFirst).slice(0, 1))
  await clock.advance(TIMEOUT)
  t.same(codes(await timedOut), ['FST_REDIS_SUITE_REDIS_TIMEOUT'])
  await answered(client, port => port !== first.port)
  await clock.advance(TIMEOUT)
  t.equal(guard.isWhole, false)
  // The test's clock does not advance, so that no deadline passes.
  t.same(codes(await set(KEYS)), KEYS.map(key => isOnFirst(key) ? 'FST_REDIS_SUITE_REDIS_NODE_DOWN' : 'OK'))
  t.equal(guard.circuit.state, 'closed')

  first.server.resume()
  await answered(client)
  await clock.advance(CHECK_INTERVAL)
  await answered(client)
  t.equal(guard.isWhole, true)
  t.equal(guard.troubledAt, clock.monotonic())
  t.same(codes(await set(KEYS)), KEYS.map(() => 'OK'))
  t.same([text().match(/nodes of the Cluster do not reply/g)?.length, text().match(/all masters of the Cluster reply/g)?.length], [1, 1])
})

t.test('an operation that fails closed waits for a late node of a Cluster, but not for one that hangs while others reply', async t => {
  const { app, client, port, clock, isOnFirst } = await connected(t)
  const patient = guardRedis(port, app.log, TIMEOUT, 'redis', clock, { isPatient: true })
  const [key, other] = [KEYS.find(isOnFirst) ?? '', KEYS.find(each => !isOnFirst(each)) ?? '']
  const setBoth = async () => await Promise.all([key, other].map(each => patient.run(async () => await clientFor(port, each).send('set', [each, 'value']))))
  await setBoth()
  /** Sends the first master a command without a reply, while `flowing` gets replies. @returns the milliseconds until it is rejected */
  const waitsFor = async (flowing: string): Promise<number> => {
    const began = clock.now()
    const over = new AbortController()
    const asked = patient.run(async () => { clientFor(port, key); await new Promise(() => {}) })
      .catch(() => clock.now() - began).finally(() => over.abort())
    for (let i = 0; !over.signal.aborted; i++) {
      if (i < 12) await client.set(flowing, 'value')
      await clock.advance(50)
    }
    return Number(await asked)
  }
  t.ok(await waitsFor(key) >= 600, 'late')
  await setBoth()
  first.server.pause()
  t.teardown(() => first.server.resume())
  t.equal(await waitsFor(other), TIMEOUT, 'hangs')
})

t.test('with a keyPrefix the node is that of the whole key', async t => {
  const prefixed = await connected(t, { keyPrefix: 'app:' })
  await hang(t, prefixed)
  t.same(codes(await prefixed.set(KEYS)), KEYS.map(key => prefixed.isOnFirst(key) ? 'FST_REDIS_SUITE_REDIS_NODE_DOWN' : 'OK'))
})

t.test('a slot that moved is found also where all its commands travel with others', async t => {
  // The client would look by itself only later.
  const options = { slotsRefreshInterval: 60_000 }
  const { client, set, isOnFirst } = await connected(t, { cluster: { nodes: servers.startupNodes, options } })
  const [from, to, third] = servers.nodes
  const keys = KEYS.filter(isOnFirst)
  const slot = calculateSlot(keys[0]!)
  for (const node of [from, to]) await node!.server.client().flushall()
  const [fromId, id] = await Promise.all([from, to].map(async node => String(await node!.server.client().call('CLUSTER', 'MYID'))))
  // A node that imported a slot takes a new epoch, so that the former owner's next message does not take the slot back.
  await to!.server.client().call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId!)
  await from!.server.client().call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', id!)
  for (const node of [to, from, third]) await node!.server.client().call('CLUSTER', 'SETSLOT', slot, 'NODE', id!)
  t.match((await set(keys))[0], { status: 'rejected', reason: /^ReplyError: MOVED/ })
  await until('all keys are set again', async () => codes(await set(keys)).every(code => code === 'OK'))
  t.equal(client.slots[slot]?.[0], `${to!.host}:${to!.port}`)
  t.equal(await to!.server.client().get(keys[0]!), 'value')
})

t.test('a server of a Cluster that the client does not know as one serves many requests at once', async t => {
  await until('it takes keys', async () => await single.client().set('key', 1) === 'OK')
  let runs = 0
  const { app } = await createTestApp(t, {
    store: single,
    server: { trustProxy: true },
    plugins: { rateLimit: { max: 5 }, session: {}, cache: { l1: false } },
    routes (app) {
      app.post<{ Params: { user: string } }>('/login/:user', async request => await request.login(request.params.user))
      app.get('/me', async request => ({ user: request.session.userId }))
      app.get<{ Params: { id: string } }>('/items/:id', { config: { cache: { ttl: '1m', tags: request => [`item:${request.params.id}`], public: true } } }, async request => ({ id: request.params.id, run: ++runs }))
    }
  })
  const users = Array.from({ length: 10 }, (_, i) => new Browser(app, { 'x-forwarded-for': `10.0.0.${i}` }))
  await Promise.all(users.map((user, i) => user.send('POST', `/login/${i}`)))
  for (const cache of ['MISS', 'HIT']) {
    t.same((await Promise.all(users.map(user => user.send('GET', '/me')))).map(reply => reply.json()), users.map((_, i) => ({ user: String(i) })))
    if (cache === 'HIT') await until('all items are stored', async () => (await single.client().keys('*:cache:entry:*')).length === 10)
    const items = await Promise.all(users.map((user, i) => user.send('GET', `/items/${i}`)))
    t.same(items.map(reply => [reply.statusCode, reply.headers['x-cache'], reply.json().id]), users.map((_, i) => [200, cache, String(i)]))
  }
  t.equal(runs, 10)
  const last = await Promise.all(users.map(user => user.send('GET', '/me')))
  t.same(last.map(({ statusCode }) => statusCode), users.map(() => 429), 'each has had five')
})
