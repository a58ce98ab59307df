// A good response or value that is not stored removes the stored one: serving it on would hide the change.
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { GetOrSetOptions, RouteCacheOptions } from '../../plugins/cache/index.js'
import { ask, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'
import { createStep, upTo } from '../helpers/cache/factories.js'
import { advanceUntil, createTestApp, forEachStore, until, type StoreName, type TestApp } from '../helpers/index.js'

type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown

const v1: Handler = () => 'v1'
const fails = (statusCode: number): Handler => () => { throw Object.assign(new Error('no'), { statusCode }) }

/** Good responses that are not stored. */
const NOT_STORED: Record<string, Handler> = {
  404: (_request, reply) => reply.code(404).send('gone'),
  410: (_request, reply) => reply.code(410).send('gone'),
  451: (_request, reply) => reply.code(451).send('gone'),
  'a thrown 404': fails(404),
  'reply.callNotFound()': (_request, reply) => { reply.callNotFound() },
  302: (_request, reply) => reply.redirect('/elsewhere'),
  206: (_request, reply) => reply.code(206).header('content-range', 'bytes 0-1/9').send('v2'),
  'a status that is not listed': (_request, reply) => reply.code(202).send('v2'),
  'no-store': (_request, reply) => reply.header('cache-control', 'no-store').send('v2'),
  private: (_request, reply) => reply.header('cache-control', 'private').send('v2'),
  'a malformed Cache-Control': (_request, reply) => reply.header('cache-control', '=').send('v2'),
  'Set-Cookie': (_request, reply) => reply.header('set-cookie', 'a=b').send('v2'),
  'Vary: *': (_request, reply) => reply.header('vary', '*').send('v2'),
  'reply.noCache()': (_request, reply) => reply.noCache().send('v2'),
  'a ttl of 0': (_request, reply) => reply.header('x-ttl', '0').send('v2'),
  'more bytes than maxEntrySize': () => 'x'.repeat(1001),
  'a stream of more bytes than maxEntrySize': () => Readable.from(upTo(2).map(() => 'x'.repeat(600))),
  'reply.hijack()': (_request, reply) => { reply.hijack(); reply.raw.end('v2') },
  'reply.raw.end()': (_request, reply) => { reply.raw.end('v2'); return reply }
}

/** A request in the background has no such header. */
const READS_A_HEADER: Handler = request => `v2 ${String(request.headers['x-other'])}`

/** Failures, and responses that are about the client alone. */
const LEFT: Record<string, Handler> = {
  500: (_request, reply) => reply.code(500).send('no'),
  503: (_request, reply) => reply.code(503).send('no'),
  'an error': () => { throw new Error('no') },
  'a stream that breaks off': () => Readable.from((async function * () { yield 'v2'; throw new Error('no') })()),
  ...Object.fromEntries([400, 401, 403, 408, 412, 416, 429].map(status => [status, fails(status)]))
}

async function build (t: Test, store: StoreName, cache: RouteCacheOptions, more: { instances?: number, before?: (app: FastifyInstance) => unknown } = {}) {
  let handler = v1
  const test = await createCacheApp(t, {
    store,
    ...more,
    options: { timeout: '1h' },
    routes: app => app.get('/', { config: { cache: { ttl: (_request, reply) => reply.getHeader('x-ttl') === undefined ? '10s' : 0, maxEntrySize: 1000, unkeyed: 'bypass', ...cache } } }, (request, reply) => handler(request, reply))
  })
  /** Nothing but the response v1 is stored after this. */
  const storeV1 = async (): Promise<void> => {
    await test.app.cache.clear()
    handler = v1
    await ask(test.app, '/')
    await settled(test.app)
  }
  return { ...test, storeV1, answer: (next: Handler) => { handler = next } }
}

onBothStores('an unstorable response to a request in the background removes the stale one', async (t, store) => {
  const { app, clock, answer, storeV1 } = await build(t, store, { staleWhileRevalidate: '1h', staleIfError: '1h' })
  for (const [name, handler] of Object.entries(NOT_STORED)) {
    await storeV1()
    await clock.advance('11s')
    answer(handler)
    t.match(await ask(app, '/'), { cache: 'STALE', body: 'v1' }, name)
    await settled(app)
    t.not((await ask(app, '/')).body, 'v1', `${name}: it is gone`)
    await settled(app)
    answer(fails(500))
    t.equal((await ask(app, '/')).status, 500, `${name}: also in place of an error`)
    await settled(app)
    // After a response that was not stored clients refresh by themselves for 10 minutes.
    await clock.advance('11m')
  }
})

onBothStores('an unstorable response to a client removes the one stored for errors', async (t, store) => {
  const { app, clock, answer, storeV1 } = await build(t, store, { staleIfError: '1h' })
  for (const [name, handler] of Object.entries(NOT_STORED)) {
    await storeV1()
    await clock.advance('11s')
    answer(handler)
    t.not((await ask(app, '/')).body, 'v1', name)
    await settled(app)
    answer(fails(500))
    t.match(await ask(app, '/'), { status: 500 }, `${name}: it is gone`)
    await settled(app)
  }
})

onBothStores('a failure, and a response that is about the client alone, leave the stale response', async (t, store) => {
  const { app, clock, answer, storeV1 } = await build(t, store, { staleWhileRevalidate: '1m', staleIfError: '1h' })
  for (const [name, handler] of Object.entries(LEFT)) {
    await storeV1()
    for (const step of ['11s', '2m'] as const) {
      await clock.advance(step)
      answer(handler)
      await app.inject('/').catch(() => {})
      await settled(app)
    }
    answer(fails(500))
    t.match(await ask(app, '/'), { status: 200, cache: 'STALE', body: 'v1' }, name)
    await settled(app)
  }
})

onBothStores('a response that depends on a header of one client leaves the stored response to the others', async (t, store) => {
  const { app, clock, answer } = await build(t, store, { staleIfError: '1h' })
  await ask(app, '/')
  await settled(app)
  await clock.advance('11s')
  answer(READS_A_HEADER)
  t.equal((await ask(app, '/', { 'x-other': 'a' })).body, 'v2 a')
  await settled(app)
  answer(fails(500))
  t.match(await ask(app, '/'), { status: 200, cache: 'STALE', body: 'v1' })
})

onBothStores('a client whose header changes the response never removes the shared one', async (t, store) => {
  const { app, clock, answer } = await build(t, store, { staleIfError: '1h' })
  for (const [name, handler] of Object.entries(NOT_STORED)) {
    for (const method of ['GET', 'HEAD'] as const) {
      await app.cache.clear()
      answer((request, reply) => request.headers['x-other'] === undefined ? 'v1' : handler(request, reply))
      await ask(app, '/')
      await settled(app)
      t.equal((await ask(app, '/')).cache, 'HIT', name)
      await ask(app, '/', { 'x-other': 'a' }, { method })
      await settled(app)
      t.match(await ask(app, '/'), { cache: 'HIT', body: 'v1' }, `${method}: ${name}`)
      // Requests of that client, which did not wait for one another any longer, do so again.
      await clock.advance('11s')
    }
  }
})

onBothStores('a response of 404 or 410 to HEAD removes the stored one', async (t, store) => {
  const { app, clock, answer } = await build(t, store, { staleIfError: '1h' })
  await ask(app, '/')
  await settled(app)
  await clock.advance('11s')
  answer(fails(410))
  t.equal((await ask(app, '/', {}, { method: 'HEAD' })).status, 410)
  await settled(app)
  answer(fails(500))
  t.equal((await ask(app, '/')).status, 500)
})

onBothStores('a 304 that confirms a response and forbids to store it removes it', async (t, store) => {
  const { app, clock, answer } = await build(t, store, { staleIfError: '1h' })
  answer((_request, reply) => reply.header('etag', '"1"').send('v1'))
  await ask(app, '/')
  await settled(app)
  await clock.advance('11s')
  answer((_request, reply) => reply.code(304).header('cache-control', 'no-store').send())
  t.match(await ask(app, '/'), { status: 200, body: 'v1' })
  await settled(app)
  answer(fails(500))
  t.equal((await ask(app, '/')).status, 500)
})

onBothStores('a request that bypasses the look-up, and one that is authorized, remove nothing that others share', async (t, store) => {
  const by: Record<string, [RouteCacheOptions, Record<string, string>]> = {
    authorization: [{}, { authorization: 'Bearer a' }],
    'authorization with ttl headers': [{ ttl: 'headers' }, { authorization: 'Bearer a' }],
    'no-store': [{ requestDirectives: 'obey' }, { 'cache-control': 'no-store' }],
    body: [{}, { 'content-length': '1' }]
  }
  for (const [name, [options, headers]] of Object.entries(by)) {
    const { app, clock, answer } = await build(t, store, { staleIfError: '1h', ...options })
    answer((_request, reply) => reply.header('cache-control', 'max-age=10').send('v1'))
    await ask(app, '/')
    await settled(app)
    await clock.advance('11s')
    answer(() => 'mine')
    t.equal((await ask(app, '/', headers)).body, 'mine', name)
    await settled(app)
    answer(fails(500))
    t.match(await ask(app, '/'), { cache: 'STALE', body: 'v1' }, name)
  }
})

onBothStores('a response of one variant removes that variant alone, and one of an owner the owner\'s alone, also where access is refused', async (t, store) => {
  const { app, clock, answer } = await build(t, store, { staleIfError: '1h', private: request => String(request.headers['x-user']) })
  const asUser = (user: string, lang: string) => ask(app, '/', { 'x-user': user, 'accept-language': lang })
  answer((request, reply) => reply.header('vary', 'accept-language').send(`${String(request.headers['accept-language'])}`))
  for (const user of ['ann', 'bob']) for (const lang of ['de', 'fr']) await asUser(user, lang).then(() => settled(app))
  await clock.advance('11s')
  answer(fails(404))
  await asUser('ann', 'de')
  answer(fails(403))
  await asUser('bob', 'fr')
  await settled(app)
  answer(fails(500))
  const statuses = []
  for (const user of ['ann', 'bob']) for (const lang of ['de', 'fr']) statuses.push((await asUser(user, lang)).status)
  t.same(statuses, [500, 200, 200, 500])
})

onBothStores('after a hook answered a request in the background in place of the route, clients\' requests refresh the response', async (t, store) => {
  const { app, clock, answer } = await build(t, store, { staleWhileRevalidate: '1h', harmless: ['x-key'] }, {
    before: app => app.addHook('onRequest', async (request, reply) => request.headers['x-key'] === undefined ? await reply.redirect('/login') : undefined)
  })
  const headers = { 'x-key': 'k' }
  await ask(app, '/', headers)
  await settled(app)
  await clock.advance('11s')
  answer(() => 'v2')
  t.match(await ask(app, '/', headers), { cache: 'STALE', body: 'v1' })
  await settled(app)
  t.equal((await ask(app, '/', headers)).body, 'v2')
})

onBothStores('a response that was stored meanwhile is not removed by one that was begun before', async (t, store) => {
  const { app, clock, answer } = await build(t, store, { staleIfError: '1h', tags: ['t'] })
  await ask(app, '/')
  await settled(app)
  await clock.advance('11s')
  const step = createStep()
  answer(async (_request, reply) => { await step.run(); return await reply.code(404).send('gone') })
  const old = ask(app, '/')
  await step.begun
  await app.cache.invalidateTags(['t'])
  answer(() => 'v3')
  await ask(app, '/')
  await settled(app)
  step.end('')
  t.equal((await old).status, 404)
  await settled(app)
  t.match(await ask(app, '/'), { cache: 'HIT', body: 'v3' })
})

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: a response that one instance withdraws is not served from L1 by another instance`, async t => {
    const { apps, clock, answer } = await build(t, store, { requestDirectives: 'obey', ttl: '1h' }, { instances: 2 })
    const [app, other] = apps as [FastifyInstance, FastifyInstance]
    await ask(app, '/')
    await settled(app, other)
    await until('L1 of the other one answers', async () => { await ask(other, '/'); return other.cache.stats().l1Hits > 0 })
    answer(fails(404))
    t.equal((await ask(app, '/', { 'cache-control': 'no-cache' })).status, 404)
    await settled(app, other)
    await clock.advance(101)
    t.equal((await ask(other, '/')).status, 404)
  })
})

t.test('a withdrawn response that Redis had evicted is not served from L1', async t => {
  const { app, clock, prefix, client, answer } = await build(t, 'redis', { ttl: '1h' })
  await ask(app, '/')
  await settled(app)
  await until('L1 answers', async () => { await ask(app, '/'); return app.cache.stats().l1Hits > 0 })
  await client().unlink(await client().keys(`${prefix}:cache:entry:*`))
  answer(fails(404))
  // L1 is not used until this process knows that it has heard all invalidations.
  await clock.advance(101)
  for (let i = 0; i < 5; i++) {
    t.equal((await ask(app, '/')).status, 404)
    await settled(app)
  }
})

// Values

const rejects = (error = new Error('no')) => async () => { throw error }

async function openData (t: Test, store: StoreName, instances = 1): Promise<TestApp & { get: (factory: () => unknown, options?: GetOrSetOptions<unknown>, app?: FastifyInstance) => Promise<unknown> }> {
  const test = await createTestApp(t, { store, instances, plugins: { cache: { timeout: '1h' } } })
  const defaults = { ttl: '10s', staleWhileRevalidate: '1m', staleIfError: '1h' }
  return { ...test, get: (factory, options = {}, app = test.app) => app.cache.getOrSet('k', factory, { ...defaults, ...options } as GetOrSetOptions<unknown>) }
}

/** Results of a factory that are not stored, with their options. */
const UNSTORED: Record<string, [value: unknown, options?: GetOrSetOptions<unknown>]> = {
  null: [null],
  undefined: [undefined],
  'a ttl of 0': ['v2', { ttl: () => 0 }],
  'a ttl of 0, later': ['v2', { ttl: async () => 0 }],
  'a ttl that cannot be read': ['v2', { ttl: () => 'soon' }],
  'a value that the serializer refuses': [10n],
  'a ttl that throws': ['v2', { ttl: () => { throw new Error('no ttl') } }],
  'tags that cannot be used': ['v2', { tags: () => [{}] as never }]
}

forEachStore(['memory', 'redis', 'cluster'], store => {
  t.test(`${store}: a value that is not stored removes the stale one, made in the background and by a caller`, async t => {
    const { app, clock, get } = await openData(t, store)
    for (const [name, [value, options]] of Object.entries(UNSTORED)) {
      for (const later of ['11s', '2m'] as const) {
        await app.cache.set('k', 'v1', { ttl: '10s', staleWhileRevalidate: '1m', staleIfError: '1h' })
        await clock.advance(later)
        const first = await get(() => value, options).catch((error: Error) => error)
        if (later === '11s') t.equal(first, 'v1', `${name}: stale at first`)
        else t.not(first, 'v1', name)
        await advanceUntil(clock, `${name}: it is gone`, async () => !await app.cache.has('k'), { step: 1 })
        // After an error a key rests.
        await clock.advance('2s')
        t.match(await get(rejects()).catch((error: Error) => error), { message: 'no' }, `${name}: also in place of an error`)
        await clock.advance('2s')
      }
    }
  })

  t.test(`${store}: a factory that fails leaves the stale value`, async t => {
    const { app, clock, get } = await openData(t, store)
    await app.cache.set('k', 'v1', { ttl: '10s', staleWhileRevalidate: '1m', staleIfError: '1h' })
    for (const later of ['11s', '2m', '2m'] as const) {
      await clock.advance(later)
      t.equal(await get(rejects()), 'v1')
    }
  })

  t.test(`${store}: a value that was set while a factory found nothing stays`, async t => {
    const { app, clock, get } = await openData(t, store)
    await app.cache.set('k', 'v1', { ttl: '10s', staleWhileRevalidate: '1m', staleIfError: '1h' })
    await clock.advance('2m')
    const step = createStep()
    const old = get(async () => { await step.run(); return null })
    await step.begun
    await app.cache.set('k', 'v3', { ttl: '1h' })
    step.end('')
    t.equal(await old, null)
    for (let i = 0; i < 5; i++) t.equal(await app.cache.get('k'), 'v3')
  })
})

t.test('a value that a refresh ahead does not find is removed from L1 of all instances, though it was fresh', async t => {
  const { apps, clock, get } = await openData(t, 'redis', 2)
  const [app, other] = apps as [FastifyInstance, FastifyInstance]
  await app.cache.set('k', 'v1', { ttl: '1h' })
  await until('L1 of the other one has it', async () => { await other.cache.get('k'); return other.cache.stats().l1Hits > 0 })
  await clock.advance('59m')
  t.equal(await get(() => null, { refreshAhead: 0.1, ttl: '1h' }, app), 'v1')
  await advanceUntil(clock, 'no instance has it', async () => !await app.cache.has('k') && !await other.cache.has('k'), { step: 10, atMost: 30_000 })
})
