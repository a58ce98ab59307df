import multipart, { type FastifyMultipartAttachFieldsToBodyOptions, type FastifyMultipartOptions } from '@fastify/multipart'
import type { FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { settled } from '../helpers/cache/cache-app.js'
import { http1, Visitor, type Transport } from '../helpers/compose/visitors.js'
import { createTestApp, type TestApp, type TestAppOptions } from '../helpers/index.js'

// What handlers are made of: uploads, templates, and other servers that they pass requests on to.

const MAX = 50

/** All four plugins on Redis; `counted` says how many requests the limiter has let pass. */
async function build (t: Test, { plugins, ...options }: TestAppOptions): Promise<TestApp & { counted: () => number }> {
  const all = { rateLimit: { max: MAX, timeWindow: '1h' }, session: {}, cache: { ttl: '1m', staleWhileRevalidate: '1h' }, idempotency: {}, ...plugins }
  const built = await createTestApp(t, { store: 'redis', ready: false, ...options, plugins: all })
  built.app.post<{ Body: { user: string } }>('/login', async request => { await request.login(request.body.user) })
  let counted = 0
  built.app.rateLimiter.on('allowed', () => { counted++ })
  return { ...built, counted: () => counted }
}

async function logIn (transport: Transport): Promise<[ann: Visitor, bob: Visitor]> {
  const [ann, bob] = [new Visitor('ann', transport('127.0.0.2')), new Visitor('bob', transport('127.0.0.3'))]
  for (const user of [ann, bob]) await user.post('/login', { user: user.name })
  return [ann, bob]
}

let boundaries = 0

/** Each time a browser sends a form it has another boundary. */
function form (file: string): [body: Buffer, headers: Record<string, string>] {
  const boundary = `----form${++boundaries}`
  const part = (name: string, more: string, value: string) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n${value}\r\n`
  const body = `${part('title', '', 'me')}${part('file', '; filename="me.txt"\r\nContent-Type: text/plain', file)}--${boundary}--\r\n`
  return [Buffer.from(body), { 'content-type': `multipart/form-data; boundary=${boundary}` }]
}

const textOf = async (request: FastifyRequest) => String(await (await request.file())?.toBuffer())

/** By how the package is told to give a form to handlers: how these find the file. */
const MODES: Array<[name: string, options: FastifyMultipartOptions | FastifyMultipartAttachFieldsToBodyOptions, read: (request: FastifyRequest) => Promise<string>]> = [
  ['in the body', { attachFieldsToBody: true }, async ({ body }) => String(await (body as { file: { toBuffer: () => Promise<Buffer> } }).file.toBuffer())],
  ['as values in the body', { attachFieldsToBody: 'keyValues' }, async ({ body }) => String((body as { file: Buffer }).file)],
  ['as a stream', {}, textOf]
]

for (const [name, options, read] of MODES) {
  t.test(`with @fastify/multipart and a form ${name} an upload is stored once however often it is sent, and pages show it`, async t => {
    const files = new Map<string, string>()
    const isStream = name === 'as a stream'
    const { app, counted, warnings } = await build(t, {
      before: app => app.register(multipart, options),
      routes: app => {
        app.get('/gallery', { config: { cache: { public: true, tags: ['gallery'] } } }, async () => Object.fromEntries(files))
        // A stream is not compared: the digest that the client sends is.
        const idempotency = isStream ? { fingerprint: ({ headers }: FastifyRequest) => String(headers['content-digest']) } : true
        app.post('/files', { config: { idempotency, cache: { invalidates: ['gallery'] } } }, async request => {
          const { userId = '' } = request.session
          const file = await read(request)
          files.set(userId, file)
          return { user: userId, size: file.length, run: files.size }
        })
      }
    })
    const [ann, bob] = await logIn(http1({ origin: await app.listen({ port: 0, host: '127.0.0.1' }) }))
    const upload = async (user: Visitor, file: string) => {
      const [body, headers] = form(file)
      return await user.post('/files', body, { ...headers, 'idempotency-key': 'one', 'content-digest': `${file.length}` })
    }
    t.same((await bob.get('/gallery')).json(), {})
    await settled(app)
    t.match(await bob.get('/gallery'), { cache: 'HIT', body: '{}' })
    const large = 'a'.repeat(100_000)
    for (const replayed of [undefined, 'true', 'true']) {
      const { status, body, headers } = await upload(ann, large)
      t.same([status, body, headers['idempotency-replayed']], [200, '{"user":"ann","size":100000,"run":1}', replayed])
    }
    t.same((await bob.get('/gallery')).json(), { ann: large }, 'the upload invalidates the page')
    t.match(await upload(ann, 'another file'), { status: 422 }, 'another file under the same key is refused')
    t.match((await upload(bob, 'a file of bob')).json(), { user: 'bob', run: 2 }, 'a key of one user is not that of another')
    t.same((await ann.get('/gallery')).json(), { ann: large, bob: 'a file of bob' })
    t.equal(counted(), ann.sent + bob.sent)
    while (ann.sent < MAX) await ann.get('/gallery')
    t.match(await upload(ann, large), { status: 429 }, 'an upload over the limit is refused before it is read')
    t.same(warnings(), [])
  })
}
