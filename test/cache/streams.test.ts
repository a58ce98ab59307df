import { request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { ask, askTwice, buildCacheApp, onEachStore, settled } from '../helpers/cache/cache-app.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const promise = onEachStore(server)
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

async function * chunks (count: number, ms = 1, size = 10) {
  for (let i = 0; i < count; i++) {
    await wait(ms)
    yield Buffer.alloc(size, 97 + i % 26)
  }
}

const webStream = (count: number) => ReadableStream.from(chunks(count)) as ReadableStream<Uint8Array>

/** Over a connection: hangs up after the first bytes. */
async function hangUp (address: AddressInfo, path: string, afterMs?: number): Promise<void> {
  await new Promise<void>(resolve => {
    const client = httpRequest({ port: address.port, path }, response => {
      if (afterMs === undefined) response.once('data', () => client.destroy())
    })
    client.on('error', () => {}).on('close', resolve).end()
    if (afterMs !== undefined) setTimeout(() => client.destroy(), afterMs)
  })
}

promise('a stream, of Node.js or of the web, is stored when it is whole, and a string, Buffer or typed array as it is', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  const bodies: Record<string, () => unknown> = {
    '/readable': () => Readable.from(chunks(5)),
    '/strings': () => Readable.from(['ä', 'b'], { objectMode: false }),
    '/web': () => webStream(5),
    '/empty-stream': () => Readable.from([]),
    '/string': () => 'ä',
    '/buffer': () => Buffer.from([0, 255]),
    '/typed': () => new Uint16Array([1, 2, 3]).subarray(1),
    '/null': () => null,
    '/object': () => ({ a: 'ä' })
  }
  for (const [url, body] of Object.entries(bodies)) app.get(url, { config: { cache: true } }, (_request, reply) => { reply.send(body()) })
  for (const url of Object.keys(bodies)) {
    const [miss, hit] = await askTwice(app, url)
    t.same([miss.cache, hit.cache, hit.bytes, hit.headers['content-type']], ['MISS', 'HIT', miss.bytes, miss.headers['content-type']], url)
  }
})

promise('a stream that is too long, breaks off, or is not as long as it said passes and is not stored', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { maxEntrySize: 100 } })
  app.get('/long', { config: { cache: true } }, (_request, reply) => { reply.send(Readable.from(chunks(20))) })
  app.get('/long-web', { config: { cache: true } }, (_request, reply) => { reply.send(webStream(20)) })
  app.get('/said', { config: { cache: true } }, (_request, reply) => { reply.header('content-length', '200').send(Readable.from(chunks(20))) })
  app.get('/short', { config: { cache: true } }, (_request, reply) => { reply.header('content-length', '100').send(Readable.from(chunks(5))) })
  app.get('/broken', { config: { cache: true } }, (_request, reply) => {
    reply.send(Readable.from((async function * () { yield * chunks(3); throw new Error('broke off') })()))
  })
  app.get('/destroyed', { config: { cache: true } }, (_request, reply) => {
    const body = new Readable({ read () {} })
    body.push('x')
    setTimeout(() => body.destroy(), 5)
    reply.send(body)
  })
  app.get('/broken-web', { config: { cache: true } }, (_request, reply) => {
    reply.send(ReadableStream.from((async function * () { yield * chunks(3); throw new Error('broke off') })()))
  })
  for (const url of ['/long', '/long-web', '/said', '/short', '/broken', '/destroyed', '/broken-web']) {
    const answers = []
    for (let i = 0; i < 2; i++) {
      answers.push(await ask(app, url).catch((error: Error) => error))
      await settled()
    }
    for (const answer of answers) if (!(answer instanceof Error)) t.equal(answer.cache, 'MISS', url)
    if (url.startsWith('/long')) t.same(answers.map(answer => answer instanceof Error ? 0 : answer.bytes.length), [200, 200])
  }
  t.equal(app.cache.stats().stored, 0)
})

promise('a client that hangs up in the middle leaves no truncated answer, and nobody waits for it', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  app.get('/slow', { config: { cache: true } }, (_request, reply) => { reply.send(Readable.from(chunks(20, 10))) })
  await app.listen({ port: 0 })
  const leader = hangUp(app.server.address() as AddressInfo, '/slow')
  await wait(20)
  const started = performance.now()
  const followers = await Promise.all([ask(app, '/slow'), ask(app, '/slow')])
  await leader
  t.ok(performance.now() - started < 2000)
  for (const { bytes } of followers) t.equal(bytes.length, 200)
  await settled()
  t.equal((await ask(app, '/slow')).bytes.length, 200)
})

promise('a client that hangs up before the answer is no reason not to store it', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  let runs = 0
  app.get('/slow', { config: { cache: true } }, async () => { runs++; await wait(100); return 'whole' })
  await app.listen({ port: 0 })
  const leader = hangUp(app.server.address() as AddressInfo, '/slow', 20)
  await wait(10)
  const follower = await ask(app, '/slow')
  await leader
  t.match([follower.body, runs], ['whole', 1])
  t.match(await ask(app, '/slow'), { cache: 'HIT', body: 'whole' })
})

promise('where the handler hijacks the reply, writes it itself or calls the 404 handler nothing is stored and nobody waits', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  const open: Array<() => void> = []
  app.get('/hijack', { config: { cache: true } }, (_request, reply) => {
    reply.hijack()
    reply.raw.write('own')
    open.push(() => reply.raw.end())
  })
  app.get('/raw', { config: { cache: true } }, (_request, reply) => { setTimeout(() => reply.raw.end('own'), 5) })
  app.get('/missing', { config: { cache: true } }, (_request, reply) => { reply.callNotFound() })
  app.get('/no-content', { config: { cache: true } }, (_request, reply) => { reply.code(204).send(Readable.from(chunks(2))) })
  app.get('/response', { config: { cache: true } }, (_request, reply) => { reply.send(new Response('x', { status: 500 })) })
  for (const url of ['/hijack', '/raw', '/missing', '/no-content', '/response']) {
    const started = performance.now()
    for (let round = 0; round < 2; round++) {
      const answers = Promise.all(Array.from({ length: 3 }, () => ask(app, url)))
      if (url === '/hijack') await until('all of them stream at once', () => open.length === 3)
      for (const end of open.splice(0)) end()
      t.equal(new Set((await answers).map(answer => answer.body)).size, 1, url)
      await settled()
    }
    t.ok(performance.now() - started < 3000, `nobody waits for ${url}`)
  }
  t.ok(app.cache.stats().stored <= 1, 'at most what has no content')
})
