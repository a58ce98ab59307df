// config.concurrency: how many requests of a route are handled at once.
import { connect } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { lock, type ConcurrencyOptions, type LockPluginOptions } from '../../plugins/lock/index.js'
import { advanceWhile, createTestApp, forEachStore, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { createGate, upTo, type Gate } from '../helpers/cache/factories.js'

interface Held { inside: number, most: number, gate: Gate }

async function open (t: Test, concurrency: ConcurrencyOptions, options: TestAppOptions = {}, plugin: LockPluginOptions = {}) {
  const held: Held = { inside: 0, most: 0, gate: createGate() }
  const test = await createTestApp(t, {
    plugins: { lock: { ttl: '1 hour', timeout: '1 day', ...plugin } },
    routes: app => app.get('/', { config: { concurrency } }, async () => {
      held.most = Math.max(held.most, ++held.inside)
      await held.gate.opened
      held.inside--
      return 'done'
    }),
    ...options
  })
  return { ...test, held }
}

const ask = async (app: FastifyInstance, user = 'ann') => {
  const { statusCode, headers, body } = await app.inject({ url: '/', headers: { 'x-user': user } })
  return { status: statusCode, retryAfter: headers['retry-after'], body }
}
const byUser = (request: FastifyRequest) => String(request.headers['x-user'])

forEachStore(['memory', 'redis', 'cluster'], store => {
  const instances = store === 'memory' ? 1 : 2

  t.test(`${store}: no more than max requests are handled at once on all instances; others are refused at once, and pass later`, async t => {
    const { apps, clock, held } = await open(t, { max: 3 }, { store, instances })
    const asked = upTo(10).map(async i => await ask(apps[i % instances]!))
    await until('three are inside', () => held.inside === 3)
    const refused = await Promise.all(asked.map(async answer => await Promise.race([answer, new Promise<undefined>(resolve => { setTimeout(() => resolve(undefined), 200) })])))
    t.equal(refused.filter(answer => answer?.status === 503).length, 7)
    t.match(refused.find(answer => answer !== undefined), { retryAfter: '1', body: /FST_REDIS_SUITE_LOCK_BUSY/ })
    held.gate.open()
    t.equal((await Promise.all(asked)).filter(({ status }) => status === 200).length, 3)
    await until('the places are free', async () => (await ask(apps[0]!)).status === 200)
    t.equal(held.most, 3)
    await clock.advance(1)
  })

  t.test(`${store}: each key has its own places, and a caller with too many requests gets 429`, async t => {
    const { app, held } = await open(t, { max: 1, key: byUser }, { store })
    const first = ['ann', 'bob'].map(async user => await ask(app, user))
    await until('both are inside', () => held.inside === 2)
    t.match(await ask(app, 'ann'), { status: 429, retryAfter: '1' })
    held.gate.open()
    t.same((await Promise.all(first)).map(({ status }) => status), [200, 200])
  })

  t.test(`${store}: requests wait in a queue, one beyond it is refused, and one that waits too long too`, async t => {
    const { app, clock, held } = await open(t, { max: 1, queue: 2, wait: '5s' }, { store })
    const first = ask(app)
    await until('one is inside', () => held.inside === 1)
    const waiting = [ask(app), ask(app)]
    for (let turns = 0; turns < 50; turns++) await new Promise(resolve => setImmediate(resolve))
    t.match(await ask(app), { status: 503, retryAfter: '5' })
    const { value: late, passed } = await advanceWhile(clock, Promise.all(waiting), { step: 50 })
    t.same(late.map(({ status }) => status), [503, 503])
    t.ok(passed >= 5000, `after ${passed} ms`)
    const next = ask(app)
    held.gate.open()
    const { value: served } = await advanceWhile(clock, Promise.all([first, next]), { step: 50 })
    t.same(served.map(({ status }) => status), [200, 200])
  })
})

t.test('in a burst max requests are handled, and as many as the queue has wait', async t => {
  for (const [max, queue, count] of [[4, 20, 24], [4, 4, 8], [4, 1, 5]] as const) {
    const { app, clock, held } = await open(t, { max, queue })
    const asked = upTo(count + 1).map(async () => await ask(app))
    await until('the places are taken', () => held.inside === max)
    held.gate.open()
    const { value } = await advanceWhile(clock, Promise.all(asked), { step: 10 })
    t.equal(value.filter(({ status }) => status === 200).length, count, `${max} and ${queue}`)
    t.equal(held.most, max)
  }
})

t.test('the place of a request is free when its client leaves, its handler fails, or its stream ends', async t => {
  let inside = 0
  const { app } = await createTestApp(t, {
    plugins: { lock: {} },
    routes (app) {
      app.get('/hangs', { config: { concurrency: { max: 1 } } }, async request => {
        inside++
        await new Promise(resolve => { request.raw.once('close', resolve) })
      })
      app.get('/fails', { config: { concurrency: { max: 1 } } }, async () => { throw new Error('broken') })
      app.get('/hijacks', { config: { concurrency: { max: 1 } } }, async (_request, reply) => {
        reply.hijack()
        reply.raw.end('raw')
      })
    }
  })
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
  for (const round of [1, 2]) {
    const socket = connect(Number(port), '127.0.0.1')
    await until('it is inside', () => {
      if (inside < round && !socket.destroyed) socket.write('GET /hangs HTTP/1.1\r\nhost: x\r\n\r\n')
      return inside === round
    })
    socket.destroy()
    await until('its place is free', async () => await app.locks.isLocked('x') === false)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  for (const [url, status] of [['/fails', 500], ['/hijacks', 200]] as const) {
    for (let i = 0; i < 3; i++) {
      t.equal((await app.inject(url)).statusCode, status, url)
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
})

t.test('a client that left before its place was taken takes none, and one that leaves frees its place when the handler has ended', async t => {
  const gate = createGate()
  const seen = { arrived: 0, inside: 0, most: 0 }
  const { app } = await createTestApp(t, {
    plugins: { lock: {} },
    routes (app) {
      app.get('/late', { preHandler: async () => { seen.arrived++; await gate.opened }, config: { concurrency: { max: 1 } } }, async () => 'done')
      app.get('/long', { config: { concurrency: { max: 1 } } }, async () => {
        seen.most = Math.max(seen.most, ++seen.inside)
        await new Promise(resolve => setTimeout(resolve, 300))
        seen.inside--
        return 'done'
      })
    }
  })
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
  const leave = async (url: string, hasArrived: () => boolean) => {
    const socket = connect(Number(port), '127.0.0.1')
    socket.write(`GET ${url} HTTP/1.1\r\nhost: x\r\n\r\n`)
    await until('it has arrived', hasArrived)
    socket.destroy()
    await new Promise(resolve => setTimeout(resolve, 30))
  }
  await leave('/late', () => seen.arrived === 1)
  gate.open()
  await until('its place is free', async () => (await app.inject('/late')).statusCode === 200)
  await leave('/long', () => seen.inside === 1)
  t.equal((await app.inject('/long')).statusCode, 503, 'its handler goes on')
  await until('its place is free', async () => (await app.inject('/long')).statusCode === 200)
  t.equal(seen.most, 1)
})

t.test('routes of one URL with different constraints have places of their own', async t => {
  const gate = createGate()
  let inside = 0
  const handler = async () => { inside++; await gate.opened; return 'done' }
  const { app } = await createTestApp(t, {
    plugins: { lock: {} },
    routes (app) {
      for (const version of ['1.0.0', '2.0.0']) app.get('/', { constraints: { version }, config: { concurrency: { max: 1 } } }, handler)
    }
  })
  const asked = ['1.0.0', '2.0.0'].map(async version => await app.inject({ url: '/', headers: { 'accept-version': version } }))
  await until('both are inside', () => inside === 2)
  gate.open()
  t.same((await Promise.all(asked)).map(({ statusCode }) => statusCode), [200, 200])
})

t.test('a response of the cache takes no place', async t => {
  const { app, held } = await open(t, { max: 1 }, {
    plugins: { lock: {}, cache: { ttl: '1m' } },
    routes (app) {
      let runs = 0
      app.get('/', { config: { cache: true, concurrency: { max: 1 } } }, async () => {
        if (++runs > 1) await new Promise(() => {})
        return 'done'
      })
    }
  })
  t.equal(held.inside, 0)
  t.same((await Promise.all(upTo(5).map(async () => await ask(app)))).map(({ status }) => status), [200, 200, 200, 200, 200])
  t.equal((await ask(app)).status, 200)
})

t.test('while Redis is down each instance has its share of the places', async t => {
  const server = await startRedis()
  const { app, held } = await open(t, { max: 4 }, { store: { url: server.url, answers: true }, clock: 'real' }, { instances: 2, timeout: 100 })
  await server.kill()
  const asked = upTo(6).map(async () => await ask(app))
  await until('two are inside', () => held.inside === 2)
  held.gate.open()
  const statuses = (await Promise.all(asked)).map(({ status }) => status).sort()
  t.same(statuses, [200, 200, 503, 503, 503, 503])
})

t.test('what cannot be used is refused at registration, and a key that is none is an error of the request', async t => {
  for (const concurrency of [{}, { max: 0 }, { max: 1, key: 'x' }, { max: 1, queue: -1 }, { max: 1, wiat: 5 }, 5] as never[]) {
    const app = Fastify()
    await app.register(lock)
    await t.rejects(async () => { app.get('/', { config: { concurrency } }, async () => ''); await app.ready() }, { code: 'FST_REDIS_SUITE_LOCK_INVALID_OPTION', message: /route GET \// })
    await app.close().catch(() => {})
  }
  for (const key of [() => undefined, () => ({}), () => NaN] as never[]) {
    const { app } = await open(t, { max: 1, key })
    t.match(await ask(app), { status: 500, body: /FST_REDIS_SUITE_LOCK_INVALID_VALUE/ })
  }
})

t.test('the log warns of a misspelt config, and of one without the plugin', async t => {
  const { warnings } = await createTestApp(t, {
    plugins: { lock: {} },
    routes: app => app.get('/', { config: { Concurrency: { max: 1 } } as object }, async () => '')
  })
  t.match(warnings().join(), /write config.concurrency/)
  const { warnings: without } = await createTestApp(t, {
    plugins: { cache: {} },
    routes: app => app.get('/', { config: { concurrency: { max: 1 } } }, async () => '')
  })
  t.match(without().join(), /config.concurrency of these routes has no effect/)
})
