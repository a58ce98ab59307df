import { once } from 'node:events'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import { capture } from '../../plugins/cache/capture.js'
import { createCacheApp, gate } from '../helpers/cache/cache-app.js'
import { advanceUntil, forEachStore, until, type StoreName } from '../helpers/index.js'

const MEGABYTE = Buffer.alloc(1024 ** 2, 'a')

/** A body whose length no header tells. */
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

/** The test's clock stands still: a request that waited for another one's time-out would never end. */
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
  t.test(`${store}: while a client does not read a stream that is too large to be stored, others have theirs at once`, async t => {
    const { app, runs, get } = await listening(t, store, MEGABYTE.length, reply => { reply.send(streamOf(32)) })
    await pausedClient(t, app, '/')
    await until('the handler runs', () => runs.count === 1)
    t.same(await Promise.all([get(app), get(app), get(app)]), Array.from({ length: 3 }, () => 32 * MEGABYTE.length))
  })

  t.test(`${store}: while a client does not read a stream that may be stored, it is stored, and others get it`, async t => {
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

t.test('other instances proceed as well as soon as it is known that a stream is too large', async t => {
  const { apps, clock, runs, get } = await listening(t, 'redis', MEGABYTE.length, reply => { reply.send(streamOf(32)) }, 2)
  const [a, b] = apps as [FastifyInstance, FastifyInstance]
  await pausedClient(t, a, '/')
  await until('the handler runs', () => runs.count === 1)
  let isDone = false
  const got = get(b).finally(() => { isDone = true })
  // It asks again every few milliseconds.
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
