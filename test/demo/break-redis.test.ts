import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { readConfig } from '../../demo/config.js'
import { FAULTS, type Fallbacks, type Fault, type LiveEvent, type Status, type StoreState } from '../../demo/live-events.js'
import { OwnRedis } from '../../demo/own-redis.js'
import { openSse } from '../helpers/events/sse-client.js'
import { startShop } from '../helpers/demo/start-shop.js'
import { startRedis, until } from '../helpers/index.js'
import { isListening, isRunning } from '../helpers/servers/inspect.js'

const ownRedis = await OwnRedis.start()
t.teardown(() => ownRedis.stop())
const [app] = await startShop(t as Test, { ownRedis })
await app.listen({ port: 0, host: '127.0.0.1' })
const { port } = app.server.address() as AddressInfo
const host = `127.0.0.1:${port}`

const setFault = async (fault: string, headers: Record<string, string> = {}) =>
  await app.inject({ method: 'POST', url: '/live/redis', payload: { fault }, headers: { host, ...headers } })

/** Opens the event stream of the page. @returns its latest event about the fallbacks */
async function watch (t: Test): Promise<() => LiveEvent<Fallbacks> | undefined> {
  const client = await openSse(t, app, '/live')
  return () => {
    const [last] = [...client.text.matchAll(/^data: (\{"kind":"fallbacks".*\})$/gm)].slice(-1)
    return last === undefined ? undefined : JSON.parse(last[1] ?? '')
  }
}

type States = Record<'cache' | 'rate-limit' | 'session' | 'lock' | 'idempotency' | 'events' | 'stream' | 'health', Status>

const WORKS: States = { cache: 'pass', 'rate-limit': 'pass', session: 'pass', lock: 'pass', idempotency: 'pass', events: 'pass', stream: 'pass', health: 'pass' }
const UNAVAILABLE: States = { cache: 'warn', 'rate-limit': 'warn', session: 'fail', lock: 'fail', idempotency: 'fail', events: 'fail', stream: 'fail', health: 'warn' }

const EXPECTED: Record<Fault, { states: Partial<States>, circuit: StoreState['circuit'] }> = {
  hang: { states: UNAVAILABLE, circuit: 'open' },
  kill: { states: UNAVAILABLE, circuit: 'open' },
  // Sessions, locks and keys wait for replies that are late; what has a fallback does not.
  slow: { states: { ...WORKS, cache: 'warn', 'rate-limit': 'warn', events: 'fail', stream: 'fail', health: 'warn' }, circuit: 'late' },
  // Messages take no memory.
  full: { states: { ...UNAVAILABLE, events: 'pass' }, circuit: 'closed' },
  'read-only': { states: { ...UNAVAILABLE, events: 'pass' }, circuit: 'closed' }
}

function statesOf ({ behaviors }: LiveEvent<Fallbacks>): Partial<States> {
  return Object.fromEntries(behaviors.map(({ plugin, state }) => [plugin, state]))
}

t.test('each fault shows the fallback of each plugin as it happens, and mending ends it', async t => {
  const latest = await watch(t)
  const has = (states: Partial<States>) => {
    const seen = latest()
    return seen !== undefined && Object.entries(states).every(([plugin, state]) => statesOf(seen)[plugin as keyof States] === state)
  }
  await until('all plugins work', () => has(WORKS))
  for (const fault of FAULTS) {
    t.match((await setFault(fault)).json(), { fault, since: Number })
    const { states, circuit } = EXPECTED[fault]
    await until(`${fault}: each plugin shows its fallback`, () => has(states) && latest()?.circuit === circuit)
    t.match(latest(), { fault, circuit })
    if (fault !== 'slow') t.match(latest()?.behaviors.find(({ plugin }) => plugin === 'rate-limit')?.text, 'this instance decides')
    t.equal((await app.inject('/products/1')).statusCode, 200, `${fault}: the shop responds`)
    await setFault('none')
    await until(`${fault}: all plugins work again`, () => has(WORKS) && latest()?.circuit === 'closed')
    t.equal(latest()?.fault, null)
  }
})

t.test('a fault replaces the one before it, and mending a sound Redis changes nothing', async t => {
  for (const fault of ['hang', 'kill', 'read-only', 'full', 'none', 'none']) t.equal((await setFault(fault)).statusCode, 200, fault)
  await until('Redis responds', async () => await app.redis.ping().catch(() => '') === 'PONG')
  t.equal((await app.redis.config('GET', 'maxmemory') as string[])[1], String(64 * 1024 * 1024))
  t.match(await app.redis.info('replication'), /role:master/)
  t.same((await app.redis.config('GET', 'save') as string[])[1], '', 'without persistence')
})

t.test('Redis is broken by the page of this origin only', async t => {
  const refused: Array<Record<string, string>> = [
    { origin: 'https://elsewhere.example' }, { origin: 'null' }, { origin: `http://localhost:${port + 1}` }, { 'sec-fetch-site': 'cross-site' }, { 'sec-fetch-site': 'same-site' },
    // A page of this name, which leads to 127.0.0.1, would be of the same origin.
    { host: `rebound.example:${port}`, origin: `http://rebound.example:${port}` }
  ]
  for (const headers of refused) t.match((await setFault('hang', headers)).json(), { statusCode: 403 }, JSON.stringify(headers))
  const form = await app.inject({ method: 'POST', url: '/live/redis', payload: 'fault=hang', headers: { host, 'content-type': 'application/x-www-form-urlencoded' } })
  t.equal(form.statusCode, 415, 'a form is not accepted')
  t.equal((await setFault('nonsense')).statusCode, 400)
  t.equal(ownRedis.state.fault, undefined)

  const allowed: Array<Record<string, string>> = [{}, { origin: `http://${host}`, 'sec-fetch-site': 'same-origin' }, { host: `localhost:${port}`, origin: `http://localhost:${port}` }, { host: `[::1]:${port}`, origin: `http://[::1]:${port}` }]
  for (const headers of allowed) t.equal((await setFault('none', headers)).statusCode, 200, JSON.stringify(headers))
})

t.test('the probes, which have no limit, are not reachable from the network', async t => {
  for (const [method, path] of [['GET', 'page'], ['POST', 'visit'], ['POST', 'once']] as const) {
    const response = await fetch(`http://${host}/live/redis/${path}`, { method, headers: { 'idempotency-key': 'network' } })
    t.equal(response.status, 404, path)
    t.equal(response.headers.get('set-cookie'), null)
  }
})

t.test('on another Redis, and without one, the routes are absent and the page reports it', async t => {
  const { url } = await startRedis()
  for (const env of [{ REDIS_URL: url }, {}]) {
    const [other] = await startShop(t, { env })
    for (const [method, path] of [['POST', '/live/redis'], ['GET', '/live/redis/page'], ['POST', '/live/redis/visit'], ['POST', '/live/redis/once']] as const) {
      t.equal((await other.inject({ method, url: path, payload: { fault: 'none' } })).statusCode, 404, `${method} ${path}`)
    }
    t.notOk('/live/redis' in (await other.inject('/docs/json')).json().paths)
    const stream = await openSse(t, other, '/live')
    await until('the page has its first event', () => stream.text.includes('"kind":"hello"'))
    t.match(stream.text, '"isBreakable":false')
    stream.hangUp()
  }
})

t.test('START_REDIS excludes another Redis, and the Redis that is started ends with its owner', async t => {
  t.throws(() => readConfig({ START_REDIS: 'true', REDIS_URL: 'redis://x' }), /START_REDIS/)
  t.throws(() => readConfig({ START_REDIS: 'true', REDIS_CLUSTER: 'x:1' }), /START_REDIS/)
  t.equal(readConfig({ START_REDIS: 'true' }).START_REDIS, true)

  for (const fault of [undefined, 'hang', 'kill'] as const) {
    const own = await OwnRedis.start()
    const proxyPort = Number(new URL(own.url).port)
    const pid = own.pid
    await own.setFault(fault)
    await own.stop()
    t.same([await isListening(proxyPort), isRunning(pid)], [false, false], `${fault}`)
  }
})
