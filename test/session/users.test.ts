import { createHash } from 'node:crypto'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { session, type SessionPluginOptions } from '../../plugins/session/index.js'
import { startCluster, startRedis, until } from '../helpers/index.js'
import { Browser, SECRET, startApp } from '../helpers/session/session-app.js'

declare module 'fastify' {
  interface Session {
    userId?: string
    isAdmin?: boolean
    basket?: string[]
    visits?: number
  }
}

const KEY = createHash('sha256').update('one').digest()
const OTHER_KEY = createHash('sha256').update('other').digest('hex')
const server = await startRedis()
const cluster = await startCluster()
let prefixes = 0

async function build (t: Test, connection?: RedisPluginOptions, options: Partial<SessionPluginOptions> = {}) {
  const { app, logged } = await startApp(t, connection, options)
  app.get('/', async ({ session }) => ({ userId: session.userId, isAdmin: session.isAdmin, basket: session.basket, visits: session.visits }))
  app.post<{ Params: { item: string } }>('/basket/:item', async ({ session, params: { item } }) => { session.basket = [...session.basket ?? [], item] })
  app.post<{ Params: { user: string } }>('/login/:user', async (request, reply) => {
    const { user } = request.params
    await request.login(user, { keep: ['basket'], set: { isAdmin: user === 'root' } })
    return await reply.send({ handle: app.sessions.handleOf(request.session.sessionId) })
  })
  app.post('/logout', async request => { await request.logout() })
  app.post('/save', async request => {
    request.session.visits = 1
    await request.session.save()
  })
  app.get('/bare', { config: { session: false } }, async request => ({ session: request.session }))
  app.post('/bare/login', { config: { session: false } }, async request => await request.login('ann'))
  return { app, logged }
}

for (const store of ['memory', 'Redis', 'Cluster']) {
  const promise = (name: string, test: (t: Test, connection: RedisPluginOptions | undefined) => Promise<unknown>) => {
    const place = store === 'Redis' ? { url: server.url } : { cluster: { nodes: cluster.startupNodes } }
    t.test(`${store}: ${name}`, t => test(t, store === 'memory' ? undefined : { ...place, prefix: `u${++prefixes}` }))
  }

  promise('login gives a new id, keeps what it is told, and is saved when it returns; logout ends it and clears the cookie', async (t, connection) => {
    const { app } = await build(t, connection)
    const user = new Browser(app)
    await user.send('POST', '/basket/tea')
    const planted = user.cookie
    const { handle } = (await user.send('POST', '/login/root')).json()
    t.not(user.cookie, planted)
    t.same((await user.send('GET', '/')).json(), { userId: 'root', isAdmin: true, basket: ['tea'] })
    t.match(await app.sessions.list('root'), [{ handle }])
    const stolen = user.cookie
    const logout = await user.send('POST', '/logout')
    t.match(logout.cookies, [{ name: 'sid', value: '', path: '/' }])
    for (const cookie of [planted, stolen]) {
      user.cookie = cookie
      t.same((await user.send('GET', '/')).json(), {})
    }
    t.same(await app.sessions.list('root'), [])
  })

  promise('the list says where a user is logged in, by handles that are worth nothing to a thief', async (t, connection) => {
    const { app } = await build(t, connection)
    const [phone, laptop] = [new Browser(app, { 'user-agent': 'phone' }), new Browser(app, { 'user-agent': `laptop ${'x'.repeat(1000)}` })]
    const { handle } = (await phone.send('POST', '/login/ann')).json()
    await laptop.send('POST', '/login/ann')
    await phone.send('GET', '/')
    const list = await app.sessions.list('ann', { current: handle })
    t.match(list.find(info => info.current), { handle, address: '192.0.2.7', userAgent: 'phone', createdAt: Number, lastSeenAt: Number })
    t.equal(list.find(info => !info.current)?.userAgent?.length, 256)
    phone.cookie = `sid=${handle}`
    t.same((await phone.send('GET', '/')).json(), {})
    t.equal(await app.sessions.count('ann'), 2)
    t.equal(await app.sessions.destroy(handle), true)
    t.equal(await app.sessions.destroy(handle), false)
    await t.rejects(app.sessions.destroy('{x}'), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
    await t.rejects(app.sessions.list(''), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
    await t.rejects(app.sessions.destroyAll('ann', { except: undefined, keep: handle } as never), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
    t.same(await app.sessions.destroyAll('ann'), 1)
  })

  promise('a user has as many sessions as allowed: the oldest ends, or the new one is refused and the visitor keeps what he has', async (t, connection) => {
    const { app } = await build(t, connection, { maxPerUser: 2 })
    const devices = [new Browser(app), new Browser(app), new Browser(app)] as const
    for (const device of devices) {
      t.equal((await device.send('POST', '/login/ann')).statusCode, 200)
      await new Promise(resolve => setTimeout(resolve, 3))
    }
    t.same(await Promise.all(devices.map(async device => (await device.send('GET', '/')).json().userId)), [undefined, 'ann', 'ann'])
    const strict = await build(t, connection === undefined ? undefined : { ...connection, prefix: `${connection.prefix}r` }, { maxPerUser: 1, onMaxPerUser: 'refuse' })
    const [first, second] = [new Browser(strict.app), new Browser(strict.app)]
    await first.send('POST', '/login/ann')
    await second.send('POST', '/basket/tea')
    const refused = await second.send('POST', '/login/ann')
    t.equal(refused.statusCode, 409)
    t.match(refused.json(), { code: 'FST_REDIS_SUITE_SESSION_TOO_MANY' })
    t.same((await second.send('GET', '/')).json(), { basket: ['tea'] })
    t.equal((await first.send('POST', '/login/ann')).statusCode, 200, 'who logs in again on the same device leaves his own place')
    await first.send('POST', '/logout')
    t.equal((await second.send('POST', '/login/ann')).statusCode, 200)
  })

  promise('a route without sessions has none, reads none and sets no cookie', async (t, connection) => {
    const { app } = await build(t, connection)
    const user = new Browser(app)
    await user.send('POST', '/login/ann')
    const bare = await user.send('GET', '/bare')
    t.same([bare.json(), bare.headers['set-cookie']], [{ session: null }, undefined])
    t.match((await user.send('POST', '/bare/login')).json(), { code: 'FST_REDIS_SUITE_SESSION_NO_SESSION' })
    t.match((await user.send('GET', '/')).json(), { userId: 'ann' })
  })

  promise('whose a session is may be another property, a number, or what a function says', async (t, connection) => {
    const { app } = await build(t, connection, { userId: ({ userId }) => userId === undefined ? undefined : `tenant:${userId}` })
    app.log.level = 'silent'
    const user = new Browser(app)
    const response = await user.send('POST', '/login/ann')
    t.match(response.json(), { code: 'FST_REDIS_SUITE_SESSION_NOT_THE_USER' })
    const byNumber = await build(t, connection === undefined ? undefined : { ...connection, prefix: `${connection.prefix}n` })
    const { app: child } = byNumber
    t.equal(await child.sessions.count(7), 0)
  })

  promise('what leaves a user leaves the list', async (t, connection) => {
    const app = Fastify()
    t.teardown(() => app.close())
    if (connection) await app.register(redis, connection)
    await app.register(session, { secret: SECRET })
    app.post<{ Params: { user: string } }>('/as/:user', async ({ session, params: { user } }) => { session.userId = user === 'nobody' ? undefined as never : user })
    const user = new Browser(app)
    await user.send('POST', '/as/ann')
    t.equal(await app.sessions.count('ann'), 1)
    await user.send('POST', '/as/bob')
    t.same([await app.sessions.count('ann'), await app.sessions.count('bob')], [0, 1])
    await user.send('POST', '/as/nobody')
    t.same([await app.sessions.count('ann'), await app.sessions.count('bob')], [0, 0])
  })
}

t.test('one round trip reads a session and renews it; what is unchanged is not written; what changed is written alone', async t => {
  const own = await startRedis()
  const { app } = await build(t, { url: own.url, prefix: 'trip' })
  const user = new Browser(app)
  await user.send('POST', '/basket/tea')
  const { handle } = (await user.send('POST', '/login/ann')).json()
  const client = own.client()
  const calls = async () => Object.fromEntries([...(await client.info('commandstats')).matchAll(/cmdstat_(\w+):calls=(\d+)/g)].map(([, name, count]) => [name, Number(count)]))
  const spent = async (work: () => Promise<unknown>) => {
    const before = await calls()
    await work()
    const after = await calls()
    return ['hmget', 'evalsha_ro', 'evalsha', 'hset', 'zadd', 'pexpire'].map(name => (after[name] ?? 0) - (before[name] ?? 0))
  }
  t.same(await spent(() => user.send('GET', '/')), [1, 1, 0, 0, 0, 0], 'one command, in a script that reads all of a turn')
  await client.hset(`trip:session:data:${handle}`, 'f:basket', '"changed by another one"')
  t.same(await spent(() => user.send('POST', '/save')), [2, 1, 1, 1, 0, 0], 'and one script to write: it looks whether it is there, and the index stays as it is')
  t.equal(await client.hget(`trip:session:data:${handle}`, 'f:basket'), '"changed by another one"')
  await client.pexpire(`trip:session:data:${handle}`, 50_000)
  await client.hset(`trip:session:data:${handle}`, 'seen', Date.now() - 61_000)
  await user.send('GET', '/')
  await until('it is renewed, which nobody waited for', async () => await client.pttl(`trip:session:data:${handle}`) > 80_000_000)
  t.ok(Date.now() - (await app.sessions.list('ann'))[0]!.lastSeenAt < 60_000)
})

t.test('sealed sessions tell a reader of Redis nothing, and open by old keys until these are taken away', async t => {
  const own = await startRedis()
  const at = { url: own.url, prefix: 'sealed' }
  const { app } = await build(t, at, { encrypt: KEY })
  const user = new Browser(app, { 'user-agent': 'secret agent' })
  await user.send('POST', '/basket/very secret tea'.replaceAll(' ', '%20'))
  const { handle } = (await user.send('POST', '/login/ann')).json()
  const client = own.client()
  const all = JSON.stringify(await Promise.all((await client.keys('*')).map(async key => key.includes(':data:') ? await client.hgetall(key) : await client.zrange(key, '0', '-1'))))
  for (const word of ['tea', 'ann', 'agent', '192.0.2.7']) t.notMatch(all, word)
  t.match(await app.sessions.list('ann'), [{ address: '192.0.2.7', userAgent: 'secret agent' }])

  const rotated = await build(t, at, { encrypt: [OTHER_KEY, KEY] })
  t.match((await user.send('GET', '/', undefined, rotated.app)).json(), { userId: 'ann', basket: ['very secret tea'] })
  await user.send('POST', '/save', undefined, rotated.app)
  t.match((await user.send('GET', '/', undefined, rotated.app)).json(), { userId: 'ann', visits: 1 })
  t.match((await browserWith(user.cookie, (await build(t, at, { encrypt: OTHER_KEY })).app)).json(), { userId: 'ann', visits: 1 }, 'what was changed since is sealed by the new key')
  const without = await build(t, at, { encrypt: createHash('sha256').update('a third one').digest('base64') })
  for (let i = 0; i < 5; i++) t.same((await browserWith(user.cookie, without.app)).json(), {}, 'what cannot be opened is none')
  t.equal(without.logged().match(/cannot be read/g)?.length, 1, 'and said once')

  const other = new Browser(app)
  const { handle: foreign } = (await other.send('POST', '/login/eve')).json()
  const textOf = async (of: string) => JSON.parse(await client.hget(`sealed:session:data:${of}`, 'all') ?? '') as Record<string, string>
  const { userId } = await textOf(handle)
  await client.hset(`sealed:session:data:${foreign}`, 'all', JSON.stringify({ ...await textOf(foreign), userId }))
  t.same((await browserWith(other.cookie, app)).json(), {}, "one session's property is worth nothing in another")
  await client.hset(`sealed:session:data:${handle}`, 'all', JSON.stringify({ ...await textOf(handle), isAdmin: true }))
  t.same((await browserWith(user.cookie, rotated.app)).json(), {}, 'nor is what was not sealed')
})

function browserWith (cookie: string | undefined, app: FastifyInstance) {
  const user = new Browser(app)
  user.cookie = cookie
  return user.send('GET', '/')
}

t.test("with onStoreError 'anonymous' a request goes on without a session while Redis hangs, and none is lost by it", async t => {
  const own = await startRedis()
  const { app } = await build(t, { url: own.url }, { timeout: 80, onStoreError: 'anonymous' })
  const user = new Browser(app)
  await user.send('POST', '/login/ann')
  const { cookie } = user
  own.pause()
  for (const [method, url] of [['GET', '/'], ['POST', '/basket/tea'], ['GET', '/bare']] as const) {
    const response = await user.send(method, url)
    t.same([response.statusCode, response.headers['set-cookie']], [200, undefined], url)
  }
  for (const url of ['/save', '/login/ann', '/logout']) {
    const response = await user.send('POST', url)
    t.same([response.statusCode, response.headers['set-cookie'], response.headers['retry-after']], [503, undefined, '1'], `${url} does not pretend`)
  }
  own.resume()
  t.equal(user.cookie, cookie)
  await t.resolves(app.redis.ping())
  await new Promise(resolve => setTimeout(resolve, 400))
  t.match((await user.send('GET', '/')).json(), { userId: 'ann' })
  t.equal(await app.sessions.count('ann'), 1)
})

t.test('the options of @fastify/session pass through: its cookies, prefix, signer and ids', async t => {
  const ids: string[] = []
  const signer = { sign: (value: string) => `${value}.signed`, unsign: (input: string) => ({ valid: input.endsWith('.signed'), renew: false, value: input.replace(/\.signed$/, '') }) }
  const { app } = await build(t, { url: server.url, prefix: 'pass' }, {
    secret: signer as never,
    cookieName: 'id',
    cookiePrefix: 's:',
    rolling: true,
    cookie: { maxAge: 60_000, path: '/', domain: 'example.com', sameSite: 'strict', secure: false },
    idGenerator: () => { ids.push(`id-${ids.length}-${'x'.repeat(30)}`); return ids.at(-1) ?? '' }
  })
  const user = new Browser(app)
  const login = await user.send('POST', '/login/ann')
  t.match(login.cookies[0], { name: 'id', value: `s:${ids.at(-1)}.signed`, domain: 'example.com', sameSite: 'Strict' })
  const again = await user.send('GET', '/')
  t.match(again.cookies[0], { name: 'id' }, 'rolling: each answer renews the cookie')
  t.equal(again.json().userId, 'ann')
  const logout = await user.send('POST', '/logout')
  t.match(logout.cookies[0], { name: 'id', value: '', domain: 'example.com' })
  const eager = await build(t, { url: server.url, prefix: 'eager' }, { saveUninitialized: true })
  t.match((await new Browser(eager.app).send('GET', '/')).cookies[0], { name: 'sid' })
})
