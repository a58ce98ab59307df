// A route invalidates however its response is sent, and a failed invalidation never makes a client repeat its request.
import { request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import fc from 'fast-check'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { compileGlob, escapeGlob, MAX_GLOB_LENGTH } from '../../plugins/cache/store/glob.js'
import type { RouteCacheOptions } from '../../plugins/cache/index.js'
import { MemoryCacheStore } from '../../plugins/cache/store/memory-store.js'
import { ALL_TAG } from '../../plugins/cache/store/store.js'
import { ask, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'
import { createStep, upTo } from '../helpers/cache/factories.js'
import { createTestApp, forEachStore, until, type StoreName } from '../helpers/index.js'

const INVALID = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'
type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown

/** A cached route with the tags `a` and `7`, and one that writes. */
async function build (t: Test, store: StoreName, invalidates: RouteCacheOptions['invalidates'], write: Handler = () => 'written') {
  return await createCacheApp(t, {
    store,
    server: { forceCloseConnections: true },
    options: { timeout: '1h' },
    routes (app) {
      for (const tag of ['a', 7]) app.get(`/${tag}`, { config: { cache: { ttl: '1h', tags: [tag] } } }, async () => 'read')
      app.post('/write', { config: { cache: { invalidates } } }, write)
    }
  })
}

async function store (app: FastifyInstance): Promise<void> {
  for (const url of ['/a', '/7']) await ask(app, url)
  await settled(app)
}

const cached = async (app: FastifyInstance): Promise<string[]> => await Promise.all(['/a', '/7'].map(async url => (await ask(app, url)).cache))

/** Ways past Fastify's `onSend` hooks. */
const SENT: Record<string, Handler> = {
  'reply.hijack()': (_request, reply) => { reply.hijack(); reply.raw.end('written') },
  'reply.raw.end()': async (_request, reply) => { reply.raw.end('written') },
  'reply.raw.end() without a promise': (_request, reply) => { reply.raw.end('written') },
  'reply.raw.writeHead()': (_request, reply) => { reply.hijack(); reply.raw.writeHead(201, { location: '/7' }).end('written') },
  'a body in parts': (_request, reply) => { reply.hijack(); reply.raw.write('wri'); setImmediate(() => reply.raw.end('tten')) }
}

onBothStores('a response that the handler sends past Fastify invalidates when it ends, by inject and over TCP', async (t, name) => {
  for (const [way, handler] of Object.entries(SENT)) {
    const { app } = await build(t, name, ['a', 7], handler)
    await app.listen({ port: 0, host: '127.0.0.1' })
    const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}/write`
    const posts = { inject: async () => (await app.inject({ method: 'POST', url: '/write' })).body, TCP: async () => await (await fetch(url, { method: 'POST' })).text() }
    for (const [how, post] of Object.entries(posts)) {
      await store(app)
      t.same(await cached(app), ['HIT', 'HIT'], `${way}, ${how}: stored`)
      t.equal(await post(), 'written', `${way}, ${how}`)
      await settled(app)
      t.same(await cached(app), ['MISS', 'MISS'], `${way}, ${how}: gone`)
    }
  }
})

onBothStores('a URL that a hijacked response changes, or names in Location by writeHead, is invalidated as well', async (t, name) => {
  const { app } = await createCacheApp(t, {
    store: name,
    options: { timeout: '1h' },
    routes (app) {
      for (const url of ['/p/:id', '/made']) app.get(url, { config: { cache: true } }, async () => 'read')
      app.put('/p/:name', (_request, reply) => { reply.hijack(); reply.raw.writeHead(201, { Location: '/made', 'x-other': 'a' }).end('written') })
    }
  })
  const urls = ['/p/1', '/made']
  for (const url of urls) await ask(app, url)
  await settled(app)
  await app.inject({ method: 'PUT', url: '/p/1' })
  await settled(app)
  t.same(await Promise.all(urls.map(async url => (await ask(app, url)).cache)), ['MISS', 'MISS'])
})

onBothStores('a hijacked response with an error status invalidates nothing', async (t, name) => {
  const { app } = await build(t, name, ['a'], (_request, reply) => { reply.hijack(); reply.raw.writeHead(500).end() })
  await store(app)
  await app.inject({ method: 'POST', url: '/write' })
  await settled(app)
  t.same(await cached(app), ['HIT', 'HIT'])
})

onBothStores('a handler whose client disconnected invalidates, also if it sends nothing', async (t, name) => {
  for (const hijacks of [true, false]) {
    const step = createStep()
    let hasLeft = false
    const { app, clock } = await build(t, name, ['a'], async (request, reply) => {
      request.raw.socket.once('close', () => { hasLeft = true })
      if (hijacks) reply.hijack()
      await step.run()
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    await store(app)
    const client = httpRequest({ method: 'POST', port: (app.server.address() as AddressInfo).port, path: '/write' }).on('error', () => {})
    client.end()
    await step.begun
    client.destroy()
    await until('the server sees that', () => hasLeft)
    // The handler writes after that.
    await ask(app, '/a')
    await settled(app)
    step.end('')
    await settled(app)
    await clock.advance('6s')
    await settled(app)
    t.equal((await ask(app, '/a')).cache, 'MISS')
  }
})

/** Requests of clients that may not write, and what of their route says so. */
const REFUSED: Record<string, { inHook?: Handler, inHandler?: Handler }> = {
  'a redirect to the login page by a hook': { inHook: async (_request, reply) => await reply.redirect('/login') },
  'a client that leaves during the check of a hook': { inHook: async (_request, reply) => await reply.code(401).send('no') },
  'a client that leaves during the check of the handler': { inHandler: async (_request, reply) => await reply.code(403).send('no') }
}

onBothStores('a client that may not write invalidates nothing', async (t, name) => {
  for (const [who, { inHook, inHandler }] of Object.entries(REFUSED)) {
    const step = createStep()
    let hasLeft = false
    const refuse = (handler: Handler): Handler => async (request, reply) => {
      request.raw.socket.once('close', () => { hasLeft = true })
      await step.run()
      return await handler(request, reply)
    }
    const { app, clock } = await createCacheApp(t, {
      store: name,
      server: { forceCloseConnections: true },
      options: { timeout: '1h' },
      routes (app) {
        app.get('/a', { config: { cache: { ttl: '1h', tags: ['a'] } } }, async () => 'read')
        app.post('/a', { ...inHook && { preHandler: refuse(inHook) as never }, config: { cache: { invalidates: ['a'] } } }, inHandler ? refuse(inHandler) : () => 'written')
      }
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    await ask(app, '/a')
    await settled(app)
    const client = httpRequest({ method: 'POST', port: (app.server.address() as AddressInfo).port, path: '/a' }).on('error', () => {})
    const done = new Promise(resolve => client.on('response', resolve))
    client.end()
    await step.begun
    if (who.startsWith('a client')) {
      client.destroy()
      await until('the server sees that', () => hasLeft)
    }
    await settled(app)
    step.end('')
    if (who.startsWith('a redirect')) await done
    await settled(app)
    await clock.advance('6s')
    await settled(app)
    t.equal((await ask(app, '/a')).cache, 'HIT', who)
  }
})

onBothStores('a redirect of the handler invalidates, and so does a hook that responds in its place', async (t, name) => {
  const by: Record<string, { inHook?: Handler, inHandler?: Handler }> = {
    'a redirect of the handler': { inHandler: (_request, reply) => reply.redirect('/a', 303) },
    'a hook': { inHook: async (_request, reply) => await reply.code(201).send('written') }
  }
  for (const [who, { inHook, inHandler }] of Object.entries(by)) {
    const { app } = await createCacheApp(t, {
      store: name,
      options: { timeout: '1h' },
      routes (app) {
        app.get('/a', { config: { cache: true } }, async () => 'read')
        app.post('/a', { ...inHook && { preHandler: inHook as never } }, inHandler ?? (() => 'written'))
      }
    })
    await ask(app, '/a')
    await settled(app)
    await app.inject({ method: 'POST', url: '/a' })
    await settled(app)
    t.equal((await ask(app, '/a')).cache, 'MISS', who)
  }
})

onBothStores('tags may be numbers wherever there are tags', async (t, name) => {
  const { app } = await createCacheApp(t, {
    store: name,
    options: { timeout: '1h' },
    routes (app) {
      app.get('/fixed', { config: { cache: { tags: [1] } } }, async () => 'read')
      app.get('/function', { config: { cache: { tags: () => [2] } } }, async () => 'read')
      app.get('/promise', { config: { cache: { tags: async () => [3] } } }, async () => 'read')
      app.get('/reply', { config: { cache: true } }, async (_request, reply) => await reply.cacheTags(4).send('read'))
      app.post('/write', { config: { cache: { invalidates: [1, '2', 3n] } } }, async () => 'written')
    }
  })
  const urls = ['/fixed', '/function', '/promise', '/reply']
  for (const url of urls) await ask(app, url)
  await app.cache.getOrSet('value', () => 'v', { ttl: '1h', tags: [5] })
  await app.cache.getOrSet('later', () => 'v', { ttl: '1h', tags: async () => [6] })
  await app.cache.set('set', 'v', { ttl: '1h', tags: async () => [7] })
  await app.cache.writeThrough('through', 'v', () => {}, { ttl: '1h', tags: () => [8], invalidates: [5] })
  await settled(app)
  t.same(await Promise.all(urls.map(async url => (await ask(app, url)).cache)), ['HIT', 'HIT', 'HIT', 'HIT'])
  await app.inject({ method: 'POST', url: '/write' })
  t.same(await Promise.all(urls.map(async url => (await ask(app, url)).cache)), ['MISS', 'MISS', 'MISS', 'HIT'])
  await app.cache.invalidateTags([4])
  t.equal((await ask(app, '/reply')).cache, 'MISS')
  const there = async () => await Promise.all(['value', 'later', 'set', 'through'].map(key => app.cache.has(key)))
  t.same(await there(), [false, true, true, true])
  await app.cache.invalidateTags([6, '7', 8])
  t.same(await there(), [false, false, false, false])
  for (const tag of [NaN, Infinity, null, {}, '', '\0a', true]) await t.rejects(app.cache.invalidateTags([tag as never]), { code: INVALID }, String(tag))
})

/** Results of `invalidates`, with the tags that are invalidated. */
const RETURNED: Record<string, [returns: () => unknown, expected: [string, string], logs: boolean]> = {
  'a number': [() => [7], ['HIT', 'MISS'], false],
  'a promise': [async () => ['a', 7], ['MISS', 'MISS'], false],
  'no tags': [() => [], ['HIT', 'HIT'], false],
  'a tag among others that are none': [() => ['a', {}, '', 7, null], ['MISS', 'MISS'], true],
  'a tag in place of a list': [() => 'a', ['MISS', 'HIT'], true],
  nothing: [() => undefined, ['HIT', 'HIT'], true],
  'an error': [() => { throw new Error('no') }, ['HIT', 'HIT'], true],
  'a promise that is rejected': [async () => { throw new Error('no') }, ['HIT', 'HIT'], true]
}

onBothStores('the option invalidates never changes the response: its valid tags are invalidated, and other results are logged with the route', async (t, name) => {
  for (const [what, [returns, expected, logs]] of Object.entries(RETURNED)) {
    const { app, lines } = await build(t, name, returns as never, (_request, reply) => reply.code(201).header('location', '/elsewhere').send('written'))
    await store(app)
    t.match(await ask(app, '/write', {}, { method: 'POST' }), { status: 201, body: 'written', headers: { location: '/elsewhere' } }, what)
    t.same(await cached(app), expected, what)
    const errors = lines.filter(({ level }) => Number(level) >= 50)
    t.equal(errors.length, logs ? 1 : 0, `${what}: logged`)
    if (logs) t.match(errors, [{ plugin: 'cache', route: '/write', msg: /config\.cache\.invalidates/ }])
  }
})

t.test('a changed URL is invalidated also where the function of the route fails', async t => {
  const { app } = await createCacheApp(t, {
    routes (app) {
      app.get('/p/:id', { config: { cache: true } }, async () => 'read')
      app.put('/p/:name', { config: { cache: { invalidates: () => { throw new Error('no') } } } }, async () => 'written')
    }
  })
  await ask(app, '/p/1')
  await settled(app)
  t.equal((await ask(app, '/p/1', {}, { method: 'PUT' })).status, 200)
  t.equal((await ask(app, '/p/1')).cache, 'MISS')
})

onBothStores('the response is sent only after its tags are invalidated', async (t, name) => {
  const step = createStep()
  const { app } = await build(t, name, async () => { await step.run(); return ['a'] })
  await store(app)
  let isSent = false
  const response = ask(app, '/write', {}, { method: 'POST' }).then(() => { isSent = true })
  await step.begun
  await settled(app)
  t.equal(isSent, false)
  step.end('')
  await response
  t.same(await cached(app), ['MISS', 'HIT'])
})

t.test('a stored response of a route that invalidates changes nothing', async t => {
  const { app } = await createCacheApp(t, { routes: app => app.get('/read', { config: { cache: { ttl: '1h', invalidates: ['a'] } } }, async () => 'read') })
  await ask(app, '/read')
  await settled(app)
  const { invalidations } = app.cache.stats()
  t.equal((await ask(app, '/read')).cache, 'HIT')
  await settled(app)
  t.equal(app.cache.stats().invalidations, invalidations)
})

t.test('tags that cannot be used are refused when the route is registered', async t => {
  const { app } = await createCacheApp(t)
  for (const tags of [[''], ['\0a'], [NaN], [{}], ['a', null], 'a', {}]) {
    for (const option of ['tags', 'invalidates']) {
      t.throws(() => app.post(`/${option}`, { config: { cache: { [option]: tags as never } } }, async () => 'x'), { code: INVALID, message: option }, `${option} ${String(tags)}`)
    }
  }
})

/** The definition of a pattern, character by character, in exponential time. */
function isMatch (glob: readonly string[], text: readonly string[]): boolean {
  const [token, ...rest] = glob
  const [character, ...others] = text
  if (token === undefined) return character === undefined
  if (token === '*') return isMatch(rest, text) || (character !== undefined && isMatch(glob, others))
  if (character === undefined) return false
  const isEqual = token === '?' || (token.length > 1 && token.startsWith('[') ? isMember(token, character) : (token.startsWith('\\') && token !== '\\' ? token.slice(1) : token) === character)
  return isEqual && isMatch(rest, others)
}

function isMember (set: string, character: string): boolean {
  const isNegated = set.startsWith('[^')
  return new RegExp(`^[${set.slice(isNegated ? 2 : 1, -1)}]$`, 'u').test(character) !== isNegated
}

/** A text that counts how often a character of it is read. */
function counted (text: string): { text: string, steps: () => number } {
  let steps = 0
  const counting = { length: text.length, codePointAt: (at: number) => { steps++; return text.codePointAt(at) } }
  return { text: counting as unknown as string, steps: () => steps }
}

t.test('a pattern accepts the texts that its definition accepts, whatever its tokens', async () => {
  const token = fc.constantFrom('*', '*', '?', 'a', 'b', '🫖', '\\*', '\\a', '[ab]', '[^a]', '[a-b]', '[^🫖b]', '\ud83e')
  const character = fc.constantFrom('a', 'b', '*', '🫖', '\udc00')
  fc.assert(fc.property(fc.array(token, { maxLength: 8 }), fc.array(character, { maxLength: 9 }), (glob, parts) => {
    const text = parts.join('')
    return compileGlob(glob.join(''))(text) === isMatch([...glob.join('').matchAll(/\\[^]|\[[^\]]+\]|[^]/gu)].map(([one]) => one), [...text])
  }), { numRuns: 5000 })
})

t.test('a comparison takes at most as many steps as the product of both lengths, whatever the pattern and the text', async t => {
  const check = (glob: string, text: string): boolean => {
    const subject = counted(text)
    compileGlob(glob)(subject.text)
    return subject.steps() <= 2 * (text.length + 1) * (glob.length + 1)
  }
  const unit = fc.constantFrom('*', '*', '*', 'a', 'a', '?', '[^b]', '/')
  fc.assert(fc.property(fc.array(unit, { maxLength: 60 }), fc.string({ unit: fc.constantFrom('a', 'a', 'a', '/', 'b'), maxLength: 400 }), (glob, text) => check(glob.join(''), text)), { numRuns: 2000 })
  const worst: Array<[string, string]> = [
    ['*/users/*/posts/*/comments', '/products?q=' + '/users//posts/'.repeat(1100)],
    ['*a'.repeat(40) + 'b', 'a'.repeat(15_000)],
    ['*' + '?'.repeat(200) + 'b', 'a'.repeat(15_000)],
    ['*' + 'a'.repeat(200) + 'b*', 'a'.repeat(15_000)],
    ['*'.repeat(MAX_GLOB_LENGTH), 'a'.repeat(15_000)]
  ]
  t.same(worst.filter(([glob, text]) => !check(glob, text)).map(([glob]) => glob), [])
})

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: a stored URL of 15 KB does not keep a pattern of three asterisks busy`, async t => {
    const { app } = await createTestApp(t, {
      store,
      server: { routerOptions: { maxParamLength: 20_000 } } as never,
      plugins: { cache: { timeout: '1h' } },
      routes: app => app.get('/products', { config: { cache: { ttl: '1m' } } }, async () => 'a')
    })
    await ask(app, `/products?q=${'/users//posts/'.repeat(1100)}`)
    await app.cache.set('/users/1/posts/2/comments', 1)
    await settled(app)
    // A regular expression takes seconds here, and with one more asterisk minutes: the test's time limit.
    t.equal(await app.cache.invalidatePattern('*/users/*/posts/*/*/*/comments'), 0)
    t.equal(await app.cache.invalidatePattern('*/users/*/posts/*/comments'), 1)
  })

  t.test(`${store}: a pattern is at most ${MAX_GLOB_LENGTH} characters long`, async t => {
    const { app } = await createTestApp(t, { store, plugins: { cache: {} } })
    await t.rejects(app.cache.invalidatePattern('*'.repeat(MAX_GLOB_LENGTH + 1)), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION' })
    t.equal(await app.cache.invalidatePattern('*'.repeat(MAX_GLOB_LENGTH)), 0)
  })
})

t.test('other work of the process goes on while many texts are compared', async t => {
  const store = new MemoryCacheStore(64 * 1024 ** 2)
  const label = 'a'.repeat(1024)
  await store.setMany(upTo(500).map(i => ({
    id: `${i}`, tags: [], make: versions => ({ kind: 'value' as const, label: label + i, meta: {}, body: Buffer.alloc(0), storedAt: 0, deleteAt: 3_600_000, tags: { [ALL_TAG]: versions[ALL_TAG] ?? '' } })
  })))
  let turns = 0
  let isDone = false
  const count = (): void => { turns++; if (!isDone) setImmediate(count) }
  setImmediate(count)
  t.equal(await store.removeMatching(compileGlob('*a1*')), 111)
  isDone = true
  t.ok(turns >= 30, `${turns} turns of the event loop`)
})

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: a key of another type under the prefix is skipped by a pattern, and not counted`, async t => {
    const test = await createTestApp(t, { store, plugins: { cache: { timeout: '1h' } } })
    const { app, prefix } = test
    const client = test.client()
    await app.cache.setMany(upTo(5).map(i => [`k${i}`, i]))
    const foreign = ['list', 'set', 'hash'].map(name => `${prefix}:cache:entry:${name}`)
    await Promise.all([client.lpush(foreign[0]!, 'x'), client.sadd(foreign[1]!, 'x'), client.hset(foreign[2]!, 'x', 'x')])
    await Promise.all(foreign.map(key => client.expire(key, 600)))
    t.equal(await app.cache.invalidatePattern('k*'), 5)
    t.same(await Promise.all(foreign.map(key => client.exists(key))), [1, 1, 1])
  })
})

t.test('redis: long keys of quotes, line breaks or backslashes are found by a pattern', async t => {
  const { app } = await createTestApp(t, { store: 'redis', plugins: { cache: { timeout: '1h' } } })
  for (const character of ['"', '\n', '\\', 'é']) await app.cache.set(`long${character.repeat(100_000)}end`, 1)
  t.equal(await app.cache.invalidatePattern('long*end'), 4)
})

t.test("redis: a pattern removes entries also where the client's own key prefix has characters with a meaning", async t => {
  const { app } = await createTestApp(t, { store: 'redis', connection: { keyPrefix: 'app[1]*?:' } as never, plugins: { cache: { timeout: '1h' } } })
  await app.cache.set('k', 1)
  t.equal(await app.cache.invalidatePattern('k'), 1)
})

t.test('the pattern of an escaped text finds it in a text of any length', async () => {
  fc.assert(fc.property(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), (text, around) => compileGlob(`*${escapeGlob(text)}*`)(around + text + around)), { numRuns: 500 })
})
