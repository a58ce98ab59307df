import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import { capture } from '../../plugins/cache/http/body/body-capture.js'
import { acquireFillsScript } from '../../plugins/cache/store/scripts.js'
import { createCacheApp, gate, settled } from '../helpers/cache/cache-app.js'
import { createGate, upTo } from '../helpers/cache/factories.js'
import { advanceUntil, advanceWhile, createTestApp, forEachStore, until, type StoreName } from '../helpers/index.js'
import { interceptCommands } from '../helpers/redis/intercept-commands.js'

const code = 'FST_REDIS_SUITE_CACHE_REENTRANT'
const PATIENT = { cache: { timeout: '1h' } } as const

/** The error that a call rejects with. */
const errorOf = async (work: Promise<unknown>): Promise<{ code?: string, message: string }> =>
  await work.then(() => ({ message: 'it did not reject' }), (error: unknown) => error as { code: string, message: string })

forEachStore(['memory', 'redis'], store => {
  // The test's clock stands still: a factory that waited for itself would never end. So no test calls twice for a key whose lease may not be
  // released yet.
  const open = async (t: Parameters<typeof createTestApp>[0]) => (await createTestApp(t, { store, plugins: PATIENT })).app.cache

  t.test(`${store}: a factory that asks for its own key is rejected, and the error names it`, async t => {
    const { app: { cache }, clock } = await createTestApp(t, { store, plugins: PATIENT })
    const error = await errorOf(cache.getOrSet('a', async () => await cache.getOrSet('a', () => 1)))
    t.equal(error.code, code)
    t.match(error.message, 'a → a')
    t.equal((await advanceWhile(clock, cache.getOrSet('a', () => 2))).value, 2, 'the key can be made afterwards')
  })

  t.test(`${store}: keys that depend on each other are rejected, and the error names all of them`, async t => {
    const cache = await open(t)
    const get = (key: string): Promise<unknown> => cache.getOrSet(key, async () => await get(key === 'a' ? 'b' : key === 'b' ? 'c' : 'a'))
    const error = await errorOf(get('a'))
    t.equal(error.code, code)
    t.match(error.message, 'a → b → c → a')
  })

  t.test(`${store}: a cycle is detected through wrap, withPrefix, several calls at once, a value's tags, and a request of the app's own`, async t => {
    const { app } = await createTestApp(t, {
      store,
      plugins: PATIENT,
      routes: app => app.get('/a', async () => await app.cache.getOrSet('a', () => 1))
    })
    const { cache } = app
    const users = cache.withPrefix('users')
    const wrapped = cache.wrap(async (id: number): Promise<unknown> => await wrapped(id), { key: 'wrapped' })
    t.equal((await errorOf(wrapped(1))).code, code)
    t.equal((await errorOf(users.getOrSet('a', async () => await cache.getOrSet('b', async () => await users.getOrSet('a', () => 1))))).code, code)
    t.equal((await errorOf(cache.getOrSet('c', async () => await Promise.all([cache.getOrSet('d', () => 1), cache.getOrSet('c', () => 1)])))).code, code)
    t.equal((await errorOf(cache.getOrSet('e', () => 1, { tags: (async () => [await cache.getOrSet('e', () => 't')]) as never }))).code, code)
    const response = await cache.getOrSet('a', async () => (await app.inject('/a')).json<{ code: string }>())
    t.equal(response.code, code)
  })

  t.test(`${store}: two flows that wait for each other's keys do not wait forever: the one that closes the cycle is rejected`, async t => {
    const cache = await open(t)
    const [both, begun] = [createGate(), { count: 0 }]
    const make = (other: string) => async () => {
      if (++begun.count === 2) both.open()
      await both.opened
      return await cache.getOrSet(other, () => 'nested')
    }
    const errors = await Promise.all([errorOf(cache.getOrSet('a', make('b'))), errorOf(cache.getOrSet('b', make('a')))])
    t.same(errors.map(error => error.code), [code, code])
  })

  t.test(`${store}: factories that request other keys, the same one many times, or a stored one, succeed`, async t => {
    const cache = await open(t)
    await cache.set('stored', 's')
    let runs = 0
    const shared = () => cache.getOrSet('shared', async () => { await new Promise(resolve => setImmediate(resolve)); return ++runs })
    const page = (id: number) => cache.getOrSet(`page${id}`, async () => await Promise.all([shared(), shared(), cache.getOrSet('stored', () => 'no'), cache.getOrSet(`part${id}`, () => id)]))
    t.same(await Promise.all(upTo(20).map(page)), upTo(20).map(id => [1, 1, 's', id]))
  })

  t.test(`${store}: work that a factory starts and does not await may request its key after it has ended`, async t => {
    const cache = await open(t)
    const ended = createGate()
    let later: Promise<unknown> = Promise.resolve()
    t.equal(await cache.getOrSet('a', async () => {
      later = ended.opened.then(async () => await cache.getOrSet('a', () => 2))
      return 1
    }), 1)
    await cache.delete('a')
    ended.open()
    t.equal(await later, 2)
  })

  t.test(`${store}: a factory may remove its key and compute it in another way`, async t => {
    const cache = await open(t)
    t.equal(await cache.getOrSet('a', async () => {
      await cache.delete('a')
      return await cache.getOrSet('a', () => 2)
    }), 2)
  })

  t.test(`${store}: the factory of a stale value may request the value during revalidation, and so may factories that it depends on`, async t => {
    const { app, clock } = await createTestApp(t, { store, plugins: { cache: { timeout: '10h', jitter: 0 } } })
    const { cache } = app
    let runs = 0
    const options = { ttl: '1m', staleWhileRevalidate: '10m' }
    const a = (): Promise<unknown> => cache.getOrSet('a', async () => ++runs === 1 ? 'first' : `after ${await a()}`, options)
    t.equal(await a(), 'first')
    await clock.advance('2m')
    t.equal(await a(), 'first')
    const stored = async (): Promise<boolean> => await cache.get('a') === 'after first'
    for (let round = 0; round < 200 && !await stored(); round++) await new Promise(resolve => setImmediate(resolve))
    t.equal(await cache.get('a'), 'after first')
  })
})

t.test('a cycle is detected across two apps of one process that share their keys, and not across different keys', async t => {
  const { apps } = await createTestApp(t, { store: 'redis', instances: 2, plugins: PATIENT })
  const [a, b] = apps as [FastifyInstance, FastifyInstance]
  t.equal((await errorOf(a.cache.getOrSet('k', async () => await b.cache.getOrSet('k', () => 1)))).code, code)
  const far = (await createTestApp(t, { store: 'redis', plugins: PATIENT })).app
  t.equal(await a.cache.getOrSet('k', async () => await far.cache.getOrSet('k', () => 'far')), 'far')
})

t.test('two instances whose factories wait for each other end after 5 s, with an error', async t => {
  // Like two processes: neither knows the leases of the other.
  const { apps, clock } = await createTestApp(t, { store: 'redis', instances: 2, plugins: PATIENT })
  for (const app of apps) hideHolders(app)
  const [a, b] = apps as [FastifyInstance, FastifyInstance]
  const [both, begun] = [createGate(), { count: 0 }]
  const get = (app: FastifyInstance, key: string): Promise<unknown> => app.cache.getOrSet(key, async () => {
    if (++begun.count === 2) both.open()
    await both.opened
    return await get(app, key === 'x' ? 'y' : 'x')
  })
  const { value: errors, passed } = await advanceWhile(clock, Promise.all([errorOf(get(a, 'x')), errorOf(get(b, 'y'))]), { step: 50 })
  t.same(errors.map(error => error.code), [code, code])
  t.ok(passed <= 7000, `${passed} ms`)
})

/** Makes an app read leases of others as if they belonged to other processes. */
function hideHolders (app: FastifyInstance): void {
  interceptCommands(app, async (name, args, send) => {
    const reply = await send()
    if (!name.startsWith('eval') || !([acquireFillsScript.sha1, acquireFillsScript.lua] as unknown[]).includes(args[0])) return reply
    const tokens = args.slice(2 + Number(args[1]), -3).filter((_, i) => i % 2 === 0)
    const values = [...reply as Buffer[]]
    for (const [i, token] of tokens.entries()) {
      if (!['', 'pass', token].includes(String(values[2 + 2 * i]))) values[2 + 2 * i] = Buffer.from('another process')
    }
    return values
  })
}

const MEGABYTE = Buffer.alloc(1024 ** 2, 'a')

/** A body without a Content-Length. */
function streamOf (megabytes: number): Readable {
  let left = megabytes
  return new Readable({ read () { this.push(left-- > 0 ? MEGABYTE : null) } })
}

/** A client that sends a request and does not read the response. */
async function pausedClient (t: Test, app: FastifyInstance, url: string): Promise<Socket> {
  const { port } = app.server.address() as AddressInfo
  const socket = connect({ port, host: '127.0.0.1' })
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  socket.pause()
  socket.write(`GET ${url} HTTP/1.1\r\nhost: a\r\n\r\n`)
  return socket
}

/** The test's clock stands still: a request that waited for the timeout of another one would never end. */
async function listening (t: Test, store: StoreName, maxEntrySize: number, handler: (reply: FastifyReply, run: number) => unknown, instances = 1) {
  const runs = { count: 0 }
  const { apps, clock } = await createCacheApp(t, {
    store,
    instances,
    options: { maxEntrySize, timeout: '1h' },
    routes: app => app.get('/', { config: { cache: { ttl: '1m' } } }, (_request, reply) => handler(reply, ++runs.count))
  })
  for (const app of apps) await app.listen({ port: 0, host: '127.0.0.1' })
  const get = async (app: FastifyInstance): Promise<number> => {
    const response = await fetch(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}/`)
    return (await response.arrayBuffer()).byteLength
  }
  return { apps, app: apps[0]!, clock, runs, get }
}

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: while a client does not read a stream that is too large to be stored, others receive theirs at once`, async t => {
    const { app, runs, get } = await listening(t, store, MEGABYTE.length, reply => { reply.send(streamOf(32)) })
    await pausedClient(t, app, '/')
    await until('the handler runs', () => runs.count === 1)
    t.same(await Promise.all([get(app), get(app), get(app)]), Array.from({ length: 3 }, () => 32 * MEGABYTE.length))
  })

  t.test(`${store}: while a client does not read a stream that may be stored, it is stored, and others receive it`, async t => {
    const { app, runs, get } = await listening(t, store, 32 * MEGABYTE.length, reply => { reply.send(streamOf(24)) })
    await pausedClient(t, app, '/')
    await until('the handler runs', () => runs.count === 1)
    t.same(await Promise.all([get(app), get(app)]), [24 * MEGABYTE.length, 24 * MEGABYTE.length])
    t.equal(runs.count, 1)
  })

  const { opened, open } = gate()
  t.teardown(open)
  const endless: Record<string, (reply: FastifyReply) => unknown> = {
    'sends events' (reply) { reply.type('text/event-stream').send(new PassThrough()) },
    'sends the pictures of a camera' (reply) { reply.type('multipart/x-mixed-replace; boundary=x').send(new PassThrough()) },
    'writes to the raw response without hijack' (reply) { reply.raw.writeHead(200); reply.raw.write('x') },
    'writes to the raw response without a head' (reply) { reply.raw.write('x') },
    'hijacks the reply' (reply) { reply.hijack() },
    'forbids to store its response by no-store' (reply) { reply.header('cache-control', 'no-store').send(new PassThrough()) },
    'calls noCache before it works for long': async reply => { reply.noCache(); await opened }
  }
  for (const [what, respond] of Object.entries(endless)) {
    t.test(`${store}: while a handler ${what}, no other request waits`, async t => {
      const { app, runs } = await listening(t, store, MEGABYTE.length, (reply, run) => run === 1 ? respond(reply) : reply.send('second'))
      const first = await pausedClient(t, app, '/')
      await until('the handler runs', () => runs.count === 1)
      const second = await app.inject('/')
      t.equal(second.body, 'second')
      first.destroy()
      open()
    })
  }
})

t.test('each kind of stream is stored after it was sent over a connection', async t => {
  const bodies: Record<string, () => unknown> = {
    text: () => Readable.from(['a', 'b']),
    bytes: () => Readable.from(Buffer.from('ab')),
    file: () => createReadStream(import.meta.filename),
    web: () => new Blob(['ab']).stream(),
    later: () => Readable.from((async function * () { for (const part of ['a', 'b']) { await new Promise(resolve => setImmediate(resolve)); yield part } })())
  }
  const { app, warnings } = await createCacheApp(t, {
    options: { unkeyed: 'bypass' },
    routes: app => app.get<{ Params: { kind: string } }>('/:kind', { config: { cache: { ttl: '1m' } } }, async ({ params }, reply) => await reply.type('text/plain').send(bodies[params.kind]?.()))
  })
  const origin = await app.listen({ port: 0, host: '127.0.0.1' })
  for (const kind of Object.keys(bodies)) {
    const outcomes = []
    for (let i = 0; i < 2; i++) {
      const response = await fetch(`${origin}/${kind}`)
      t.match(await response.text(), /^(?:ab|import )/)
      outcomes.push(response.headers.get('x-cache'))
      await settled(app)
    }
    t.same(outcomes, ['MISS', 'HIT'], kind)
  }
  t.same(warnings(), [])
})

t.test('other instances proceed as well as soon as it is known that a stream is too large', async t => {
  const { apps, clock, runs, get } = await listening(t, 'redis', MEGABYTE.length, reply => { reply.send(streamOf(32)) }, 2)
  const [a, b] = apps as [FastifyInstance, FastifyInstance]
  await pausedClient(t, a, '/')
  await until('the handler runs', () => runs.count === 1)
  let isDone = false
  const got = get(b).finally(() => { isDone = true })
  // It polls every few milliseconds.
  const waited = await advanceUntil(clock, 'the other instance responds', () => isDone, { step: 8 })
  t.equal(await got, 32 * MEGABYTE.length)
  t.ok(waited < 1000, `${waited} ms`)
})

t.test('a stream is known to be too large before its reader has read anything, and is not read further', async t => {
  const source = streamOf(100)
  let read = 0
  source.on('data', () => { read++ })
  const { payload, body } = capture(source, 3 * MEGABYTE.length, undefined)
  t.equal(await body, 'unstorable')
  await new Promise(resolve => setImmediate(resolve))
  t.ok(read <= 5, `${read} MiB`)
  let size = 0
  for await (const chunk of payload as Readable) size += (chunk as Buffer).length
  t.equal(size, 100 * MEGABYTE.length)
})

t.test('a stream of neither text nor bytes fails for its reader, and is not stored', async t => {
  const { payload, body } = capture(Readable.from([{ a: 1 }]), 100, undefined)
  await t.rejects((payload as Readable).toArray(), TypeError)
  t.equal(await body, 'broken')
})
