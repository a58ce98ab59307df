import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, events, health, idempotency, lock, rateLimit, redis, session } from '../../plugins/index.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { readPage, root } from '../helpers/docs/doc-blocks.js'
import { advanceUntil, advanceWhile, closeApp, startCluster, startRedis } from '../helpers/index.js'
import { hasCommand, lacking } from '../helpers/servers/commands.js'
import { Browser, SECRET } from '../helpers/session/session-app.js'

/** The permissions that docs/operations/redis-settings.md lists, by plugin. */
const rows = new Map([...readPage('docs/operations/redis-settings.md').matchAll(/^\| ([\w -]+) \| ((?:those of [\w-]+, )?`[~&+].*) \|$/gm)]
  .map(([, name = '', cell = '']) => [name, cell.replace(/; from .*/, '').replaceAll('\\|', '|').replaceAll('`', '')]))

/** Each does what a program may do with it. */
const uses: Record<string, (app: FastifyInstance, clock: TestClock) => Promise<unknown>> = {
  cache: useCache,
  'write-behind': useWriteBehind,
  session: useSession,
  'rate-limit': useRateLimit,
  events: useEvents,
  streams: useStreams,
  lock: useLock,
  idempotency: useIdempotency,
  // It needs no more than each connection.
  'each connection': useHealth
}

const noSharding = await lacking('ssubscribe')
const isOld = noSharding !== false

const PASSWORD = 'secret'
const userOf = (use: string) => use.replaceAll(' ', '-')
const acl = await Promise.all(Object.keys(uses).map(async use =>
  `${userOf(use)} on >${PASSWORD} resetchannels ${await rulesOnServer('each connection', 'a Cluster', use)}`))
const server = await startRedis({ acl })
const cluster = await startCluster({ acl })

for (const [name, use] of Object.entries(uses)) {
  const login = { username: userOf(name), password: PASSWORD }
  const places = [
    { kind: 'Redis', connection: { url: server.url, ...login }, servers: [server] },
    // The maps and doubles of RESP3 make no difference to the plugins.
    { kind: 'Cluster', connection: { cluster: { nodes: cluster.startupNodes, options: { redisOptions: { ...login, replyMapping: 'resp3' as const } } } }, servers: cluster.nodes.map(node => node.server) }
  ]
  for (const { kind, connection, servers } of places) {
    t.test(`${kind}: ${name} works as a user with the permissions of docs/operations/redis-settings.md, and asks for no more`, { skip: name === 'events' && kind === 'Cluster' && noSharding }, async t => {
      const clock = createTestClock()
      const app = await build(t, connection, clock)
      await advanceWhile(clock, use(app, clock))
      await closeApp(app, clock)
      const refused = (await Promise.all(servers.map(async server => await server.client().call('ACL', 'LOG') as unknown[][]))).flat()
      // ioredis sends CLIENT SETINFO by itself, and ignores a refusal. Before Redis 7 the log has no subcommands.
      const setInfo = isOld ? 'client' : 'client|setinfo'
      t.same(refused.filter(entry => entry[entry.indexOf('object') + 1] !== setInfo), [])
      await Promise.all(servers.map(async server => await server.client().call('ACL', 'LOG', 'RESET')))
    })
  }
}

t.test('each command in the scripts of a plugin is in its row', async t => {
  const folders = {
    cache: 'cache/store',
    'write-behind': 'cache/data/write-behind',
    session: 'session',
    'rate-limit': 'rate-limit',
    events: 'events/pubsub',
    streams: 'events/stream',
    lock: 'lock',
    idempotency: 'idempotency'
  }
  for (const [name, folder] of Object.entries(folders)) {
    // Write-behind and streams share the queue with leased partitions.
    const own = name === 'write-behind' || name === 'streams' ? [folder, 'shared/work-queue'] : [folder]
    const files = own.flatMap(each => readdirSync(join(root, 'plugins', each), { recursive: true, encoding: 'utf8' }).map(file => `${each}/${file}`))
      .filter(file => file.endsWith('.ts'))
    const text = files.map(file => readFileSync(join(root, 'plugins', file), 'utf8')).join('\n')
    const sent = new Set([...text.matchAll(/redis\.p?call\('(\w+)'(?:, '(CREATE|GROUPS|STREAM)')?/g)].map(([, command = '', sub]) => (sub === undefined ? command : `${command}|${sub}`).toLowerCase()))
    // Only with the clock of a test.
    sent.delete('xinfo|stream')
    t.ok(sent.size > 0, name)
    const allowed = rulesOf(name).split(' ')
    for (const command of sent) t.ok(allowed.includes(`+${command}`), `${name}: ${command}`)
  }
})

/** Returns the commands of a row, with those of another row that it names. */
function rulesOf (name: string): string {
  const row = rows.get(name)
  if (row === undefined) throw new Error(`no row for ${name}`)
  return row.replace(/^those of ([\w-]+), /, (_, other: string) => `${rulesOf(other)} `)
}

/** Returns the rules of rows without those of commands that the server does not know, and would refuse. */
async function rulesOnServer (...names: string[]): Promise<string> {
  const rules = names.flatMap(name => rulesOf(name).split(' '))
  const isKnown = await Promise.all(rules.map(async rule => !rule.startsWith('+') || await hasCommand(rule.slice(1).replace(/\|.*/, ''))))
  // The clock of the test asks for the last id of a stream where Redis does not number entries of a given time.
  return [...rules.filter((_rule, i) => isKnown[i]), ...isOld ? ['+xinfo|stream'] : []].join(' ')
}

async function build (t: Test, connection: object, clock: TestClock): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => closeApp(app, clock))
  await app.register(redis, { ...connection, prefix: 'shop' })
  return app
}

async function useCache (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(cache, { ttl: '1m', values: { ttl: '1m' }, clock, timeout: '1h' })
  app.get('/page', { config: { cache: { tags: () => ['pages'] } } }, async () => 'page')
  app.post('/page', { config: { cache: { invalidates: () => ['pages'] } } }, async () => 'changed')
  for (const method of ['GET', 'GET', 'POST', 'GET'] as const) await app.inject({ method, url: '/page' })
  const data = app.cache
  await data.setMany([['a', 1, { tags: ['t'] }], ['b', 2]])
  await data.getOrSet('c', () => 'x'.repeat(100_000), { tags: ['t'] })
  await data.getMany(['a', 'b', 'c'])
  await data.writeThrough('a', 2, async () => {}, { invalidates: ['t'] })
  await data.deleteMany(['a', 'b'])
  await data.invalidateTags(['t'])
  await data.invalidatePattern('*')
  await data.storeStats()
  await data.clear()
}

async function useWriteBehind (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(cache, { clock, timeout: '1h' })
  const written = new Set<string>()
  const write = (batch: ReadonlyArray<{ key: string }>) => {
    for (const { key } of batch) {
      if (key === 'bad') throw new Error('no')
      written.add(key)
    }
  }
  const behind = app.cache.writeBehind('rows', { write, retries: 1, backoff: { min: 1, max: 1 }, flushEvery: 10 })
  const isOver = async () => written.size === 2 && (await behind.stats()).deadLetters === 1
  await Promise.all(['a', 'b', 'bad'].map(async key => await behind.add(key, 1)))
  await advanceUntil(clock, 'all is written or given up', isOver)
  await behind.deadLetters.list()
  await behind.deadLetters.replay()
  await advanceUntil(clock, 'it is given up again', isOver)
  await behind.deadLetters.discard()
}

async function useSession (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(session, { secret: SECRET, maxPerUser: 2, clock, timeout: '1h' })
  app.post('/login', async request => await request.login('ann'))
  let ended = 0
  app.post('/watch', async request => { app.sessions.watch(request, () => { ended++ }) })
  app.post('/visit', async ({ session }) => { Object.assign(session, { visits: 1 }) })
  app.post('/forget', async ({ session }) => { Reflect.deleteProperty(session, 'visits') })
  app.post('/logout', async request => await request.logout())
  const [one, ...others] = [new Browser(app), new Browser(app), new Browser(app)]
  for (const browser of [one, ...others]) await browser?.send('POST', '/login')
  for (const url of ['/login', '/watch', '/visit', '/forget', '/logout']) await one?.send('POST', url)
  if (ended !== 1) throw new Error('the end of a session that is watched was not reported')
  const [first] = await app.sessions.list('ann')
  await app.sessions.destroy(first?.handle ?? '')
  await app.sessions.destroyAll('ann')
}

async function useRateLimit (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(rateLimit, { max: 2, timeWindow: '1m', ban: 1, onStoreError: 'closed', clock, timeout: '1h' })
  app.get('/', async () => '')
  for (let i = 0; i < 6; i++) await app.inject('/')
  for (const algorithm of ['sliding-log', 'sliding-counter', 'gcra'] as const) {
    const policy = { name: algorithm, algorithm, max: 2, timeWindow: '1m', exponentialBackoff: { base: '1s', cap: '1m' } }
    const decision = await app.rateLimiter.consume('k', policy)
    await app.rateLimiter.peek('k', policy)
    await app.rateLimiter.refund('k', policy, decision)
    await (await app.rateLimiter.reserve('k', policy, 2)).settle(1)
    for (let i = 0; i < 4; i++) await app.rateLimiter.consume('k', policy)
    await app.rateLimiter.reset('k', policy)
  }
}

async function useHealth (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(health, { details: true, clock })
  await app.inject('/health')
}

async function useEvents (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(events, { clock, timeout: '1h' })
  const heard: unknown[] = []
  const ends = await Promise.all(['order:placed', 'order:*'].map(async pattern => await app.events.subscribe(pattern, data => { heard.push(data) })))
  await app.events.publish('order:placed', { id: 1 })
  await advanceUntil(clock, 'it is heard', () => heard.length === 2)
  for (const end of ends) await end()
}

async function useStreams (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(events, { clock, timeout: '1h' })
  const stream = app.events.stream<string>('orders', { partitions: 2 })
  let given = 0
  await stream.consume({ group: 'g', retries: 1, backoff: { min: 1, max: 1 }, handler: ({ data }) => { given++; if (data === 'bad') throw new Error('no') } })
  for (const data of ['a', 'b', 'bad']) await stream.append(data, { key: data })
  for await (const { data } of stream.read({ after: '0' })) if (data === 'bad') break
  const letters = stream.deadLetters('g')
  await advanceUntil(clock, 'one is given up', async () => given === 4 && (await letters.list()).length === 1)
  await letters.replay()
  await advanceUntil(clock, 'it is given up again', async () => given === 6 && (await letters.list()).length === 1)
  await letters.discard()
  await app.events.stats()
}

async function useLock (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(lock, { clock, timeout: '1h' })
  const idle = (): void => {}
  let leave = idle
  const held = app.locks.using('one', { ttl: '1m' }, async () => await new Promise<void>(resolve => { leave = resolve }))
  const waiting = app.locks.using(['one', 'two'], { wait: '1h' }, () => {})
  await advanceUntil(clock, 'the lock is held', () => leave !== idle)
  // Long enough for an extension.
  await clock.advance('25s')
  leave()
  await Promise.all([held, waiting])
  const handle = await app.locks.acquire('one')
  await handle.extend()
  await app.locks.isLocked('one')
  const semaphore = app.locks.semaphore('work', { permits: 1 })
  const permit = await semaphore.acquire()
  await t.rejects(semaphore.acquire({ wait: 0 }))
  await permit.extend()
  await semaphore.available()
  await permit.release()
  await app.locks.once('job', { every: '1h' }, idle)
  await handle.release()
}

async function useIdempotency (app: FastifyInstance, clock: TestClock): Promise<void> {
  await app.register(idempotency, { clock, timeout: '1h', scope: request => request.ip })
  const idle = (): void => {}
  let answer = idle
  app.post('/', { config: { idempotency: { lease: '1m' } } }, async () => { await new Promise<void>(resolve => { answer = resolve }) })
  app.post('/fails', { config: { idempotency: true } }, async () => { throw new Error('no') })
  const send = (url: string) => app.inject({ method: 'POST', url, headers: { 'idempotency-key': 'k' } })
  const both = Promise.all([send('/'), send('/')])
  await advanceUntil(clock, 'the first one is handled', () => answer !== idle)
  // Long enough for a renewal.
  await clock.advance('25s')
  answer()
  await both
  await send('/')
  await send('/fails')
}
