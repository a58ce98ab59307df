import type { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { SessionStatsCounter } from '../../plugins/session/stats.js'
import { joinFields } from '../../plugins/session/session-diff.js'
import { createMemoryStore } from '../../plugins/session/store/memory-store.js'
import { createRedisStore } from '../../plugins/session/store/redis-store.js'
import type { SessionChange, SessionStore, SessionTimeouts } from '../../plugins/session/store/store.js'
import { UserIndex } from '../../plugins/session/store/user-index.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import type { TestClock } from '../../plugins/testing/index.js'
import { forEachStore, openClient, openPort, openStore, startRedis, until } from '../helpers/index.js'

const HOUR = 3_600_000
const TIMEOUTS = { idleTimeout: HOUR, absoluteTimeout: 2 * HOUR }
const create = (fields: Record<string, string>, user?: string): SessionChange => ({ set: fields, isSealed: false, delete: [], create: true, from: '', text: joinFields(fields), owner: { user, device: 'd' } })
const change = (set: Record<string, string>, del: string[] = []): SessionChange => ({ set, isSealed: false, delete: del, create: false, from: 'an old version', text: 'never read' })
const usersOf = (store: SessionStore, maxPerUser = 0, onMaxPerUser: 'drop-oldest' | 'refuse' = 'drop-oldest') => new UserIndex(store, operation => operation(), { maxPerUser, onMaxPerUser }, new SessionStatsCounter(HOUR))

/** As a login does it: the session is stored before it is in the index, and is in the index before it is the user's. */
async function logIn (store: SessionStore, users: UserIndex, user: string, handle: string) {
  await store.write(handle, create({}))
  await users.enter(user, handle)
  return await store.write(handle, { ...change({ x: '1' }), owner: { user, device: 'd' } })
}

async function open (t: Test, name: 'memory' | 'redis' | 'cluster', given: Partial<SessionTimeouts> = {}): Promise<{ store: SessionStore, clock: TestClock, client: Redis | Cluster | undefined, prefix: string }> {
  const { client, port, prefix, clock } = await openStore(t, name)
  const timeouts = { ...TIMEOUTS, ...given }
  const store = port === undefined ? createMemoryStore(20_000, timeouts, clock) : createRedisStore(port, prefix, timeouts, operation => operation(), clock)
  return { store, clock, client, prefix }
}

forEachStore(['memory', 'redis', 'cluster'], name => {
  t.test(`${name}: what is written is read, and a change leaves the other fields and the owner`, async t => {
    const { store, clock } = await open(t, name)
    t.equal(await store.read('h'), undefined)
    t.ok(await store.write('h', create({ a: '1', b: '2' }, 'u')))
    const createdAt = clock.now()
    await clock.advance('1m')
    t.ok(await store.write('h', change({ c: '3' }, ['b'])))
    const { text, ...rest } = await store.read('h') ?? { text: '' }
    t.same(JSON.parse(text), { a: 1, c: 3 })
    t.match(rest, { isSealed: false, user: 'u', createdAt, lastSeenAt: createdAt })
    await store.write('h', { ...change({}), owner: { user: undefined, device: '' } })
    t.equal((await store.read('h'))?.user, undefined)
  })

  t.test(`${name}: a session's life is its time-out, which its use renews, and 0 after its end`, async t => {
    const { store, clock } = await open(t, name)
    const life = async () => Math.ceil(await store.lifeOf('h') / 60_000)
    t.equal(await life(), 0)
    await store.write('h', create({ a: '1' }, 'u'))
    t.equal(await life(), 61, 'an hour, and the minute in which it is not renewed')
    await clock.advance('30m')
    t.equal(await life(), 31)
    await store.renew('h')
    t.equal(await life(), 61)
    await clock.advance('55m')
    await store.renew('h')
    t.equal(await life(), 35, 'bounded by the absolute time-out')
    await store.destroy('h')
    t.equal(await life(), 0, 'and not that of the tombstone')
  })

  t.test(`${name}: changes based on the same version are merged, also with unusual names and values`, async t => {
    const { store } = await open(t, name)
    const odd = '"\\/\u0000\n ключ 🔑'
    const from = await store.write('h', create({ a: '1', [odd]: '"🔑 \\u0000"' })) ?? ''
    const first = await store.write('h', { ...change({ b: '[1.50,{}]' }), from, text: joinFields({ a: '1', [odd]: '"🔑 \\u0000"', b: '[1.50,{}]' }) })
    const second = await store.write('h', { ...change({ c: '1234567890' }, ['a']), from, text: 'out of date' })
    t.ok(first && second && first !== second)
    const { text, version } = await store.read('h') ?? { text: '', version: '' }
    t.same(JSON.parse(text), { [odd]: '🔑 \u0000', b: [1.5, {}], c: 1234567890 })
    t.equal(version, second)
    t.match(text, '1.50', 'a value is stored as it was written')
  })

  t.test(`${name}: a change to a session that does not exist is dropped`, async t => {
    const { store } = await open(t, name)
    t.equal(await store.write('h', change({ a: '1' })), undefined)
    t.equal(await store.read('h'), undefined)
  })

  t.test(`${name}: a destroyed session stays destroyed for an hour, whatever is saved under its id`, async t => {
    const { store, clock } = await open(t, name)
    await store.write('h', create({ a: '1' }, 'u'))
    t.equal(await store.destroy('h'), 'u')
    t.equal(await store.destroy('h'), undefined)
    t.equal(await store.write('h', change({ a: '2' })), undefined)
    t.equal(await store.write('h', create({ a: '3' })), undefined)
    await store.renew('h')
    t.equal(await store.read('h'), undefined)
    await store.write('g', create({ a: '1' }))
    t.equal(await store.destroy('g'), null)
    t.same(await store.infos(['h', 'g']), [undefined, undefined])
    await clock.advance('59m')
    t.equal(await store.write('h', create({ a: '3' })), undefined)
  })

  t.test(`${name}: a session ends idleTimeout after it was last renewed, or up to a minute later`, async t => {
    const { store, clock } = await open(t, name, { idleTimeout: HOUR / 2 })
    await store.write('h', create({ a: '1' }))
    const seen: unknown[] = []
    for (let round = 0; round < 3; round++) {
      await clock.advance('25m')
      seen.push((await store.read('h'))?.text)
      await store.renew('h')
    }
    t.same(seen, ['{"a":1}', '{"a":1}', '{"a":1}'])
    t.equal((await store.read('h'))?.lastSeenAt, clock.now())
    await clock.advance('30m')
    t.ok(await store.read('h'))
    await clock.advance('61s')
    t.equal(await store.read('h'), undefined)
  })

  t.test(`${name}: a session ends absoluteTimeout after its creation, whatever is read, renewed or written`, async t => {
    const { store, clock } = await open(t, name, { absoluteTimeout: HOUR })
    await store.write('h', create({ a: '1' }))
    await clock.advance('59m')
    t.ok(await store.write('h', change({ a: '2' })))
    await store.renew('h')
    t.match(await store.read('h'), { text: '{"a":2}' })
    await clock.advance('61s')
    t.equal(await store.read('h'), undefined)
  })

  t.test(`${name}: the sessions of a user are listed, and those that ended leave the index`, async t => {
    const { store, clock } = await open(t, name, { idleTimeout: HOUR / 2 })
    const users = usersOf(store)
    for (const handle of ['a', 'b', 'c']) {
      await logIn(store, users, 'user', handle)
      await clock.advance(1)
    }
    await logIn(store, users, 'other', 'd')
    t.equal(await users.destroy('b'), true)
    t.equal(await users.destroy('b'), false)
    t.same((await users.list('user')).map(info => info.handle), ['a', 'c'])
    await clock.advance('20m')
    await store.renew('c')
    await clock.advance('20m')
    t.match(await users.list('user'), [{ handle: 'c', device: 'd' }])
    t.same(await store.members('user', await store.now('user'), 0, 10), ['c'])
    t.same(await users.list('nobody'), [])
  })

  // A page has 200: three of them, and the excepted session is on the first.
  t.test(`${name}: all of the 450 sessions of a user end, but the excepted one`, async t => {
    const { store } = await open(t, name)
    const users = usersOf(store)
    const handles = Array.from({ length: 450 }, (_, i) => `h${String(i).padStart(5, '0')}`)
    await Promise.all(handles.map(handle => logIn(store, users, 'u', handle)))
    t.equal((await users.list('u')).length, 450)
    t.equal(await users.destroyAll('u', 'h00007'), 449)
    t.same((await users.list('u')).map(info => info.handle), ['h00007'])
    t.equal((await store.infos(handles)).filter(Boolean).length, 1)
    t.equal(await users.destroyAll('u', undefined), 1)
    t.same(await store.members('u', await store.now('u'), 0, 10), [])
  })

  t.test(`${name}: a session whose login is in progress while all are destroyed ends as well`, async t => {
    const { store } = await open(t, name)
    const users = usersOf(store)
    await store.write('h', create({}))
    await users.enter('u', 'h')
    t.equal(await users.destroyAll('u', undefined), 1)
    t.equal(await store.write('h', { ...change({ x: '1' }), owner: { user: 'u', device: 'd' } }), undefined)
  })

  t.test(`${name}: a session that has become another user's is not ended with those of the first`, async t => {
    const { store } = await open(t, name)
    const users = usersOf(store)
    await logIn(store, users, 'a', 'h')
    await store.write('h', { ...change({}), owner: { user: 'b', device: 'd' } })
    t.same([await users.list('a'), await users.destroyAll('a', undefined)], [[], 0])
    t.equal((await store.read('h'))?.user, 'b')
  })

  t.test(`${name}: a user never has more sessions than allowed: the oldest end`, async t => {
    const { store, clock } = await open(t, name)
    const users = usersOf(store, 3)
    for (let i = 0; i < 5; i++) {
      await logIn(store, users, 'u', `h${i}`)
      await clock.advance(1)
    }
    t.same((await users.list('u')).map(info => info.handle), ['h2', 'h3', 'h4'])
    t.equal(await store.read('h0'), undefined)
    await Promise.all(Array.from({ length: 20 }, (_, i) => logIn(store, users, 'u', `at once ${i}`).catch(() => {})))
    t.ok((await users.list('u')).length <= 3)
    await logIn(store, users, 'u', 'h5')
    t.ok((await users.list('u')).some(({ handle }) => handle === 'h5'))
  })

  t.test(`${name}: or the new session is refused, and a place that is free again is found`, async t => {
    const { store } = await open(t, name)
    const users = usersOf(store, 2, 'refuse')
    await logIn(store, users, 'u', 'a')
    await logIn(store, users, 'u', 'b')
    const TOO_MANY = { code: 'FST_REDIS_SUITE_SESSION_TOO_MANY', statusCode: 409 }
    await t.rejects(logIn(store, users, 'u', 'c'), TOO_MANY)
    await t.rejects(users.requireRoom('u'), TOO_MANY)
    await logIn(store, users, 'u', 'a')
    // It ended without leaving the index, as a session does that expires.
    await store.destroy('a')
    await users.requireRoom('u')
    t.ok(await logIn(store, users, 'u', 'c'))
    t.same((await users.list('u')).map(info => info.handle).sort(), ['b', 'c'])
  })
})

t.test('redis: every key has a TTL', async t => {
  const { store, client, prefix } = await open(t, 'redis')
  await logIn(store, usersOf(store), 'digest', 'h')
  await store.write('g', create({ a: '1' }))
  await store.destroy('g')
  const keys = (await client?.keys(`${prefix}:*`) ?? []).sort()
  t.same(keys, ['session:data:g', 'session:data:h', 'session:user:digest'].map(key => `${prefix}:${key}`))
  const ttls = await Promise.all(keys.map(async key => await client?.pttl(key) ?? 0))
  t.same(ttls.filter(ttl => ttl <= 0 || ttl > 2 * HOUR), [])
})

t.test('memory: the store never holds more sessions than allowed, and its index holds no others', async t => {
  const store = createMemoryStore(5, { idleTimeout: HOUR, absoluteTimeout: HOUR })
  const users = usersOf(store)
  for (let i = 0; i < 6; i++) await logIn(store, users, 'u', `h${i}`)
  t.equal(await store.read('h0'), undefined)
  t.ok(await store.read('h5'))
  t.equal((await store.members('u', await store.now('u'), 0, 10)).length, 5)
})

forEachStore(['redis', 'cluster'], name => {
  t.test(`${name}: each of 200 reads in one turn of the event loop gets its own session, and what is no session is none`, async t => {
    const { store, client, prefix } = await open(t, name)
    await Promise.all(Array.from({ length: 100 }, (_, i) => store.write(`h${i}`, create({ i: String(i), text: '"with spaces  and\\nlines"' }, 'u'))))
    await client?.set(`${prefix}:session:data:text`, 'no session')
    await client?.hset(`${prefix}:session:data:hash`, 'all', '{}')
    await client?.set(`${prefix}:session:data:half`, `s1${'0'.repeat(30)}01\nuser`)
    await store.destroy('dead')
    const handles = Array.from({ length: 200 }, (_, i) => i % 10 === 9 ? ['text', 'hash', 'half', 'dead', 'gone'][(i - 9) / 10 % 5] ?? '' : `h${i % 100}`)
    const results = await Promise.allSettled(handles.map(handle => store.read(handle)))
    const outcomes = results.map(result => result.status === 'rejected' ? String(result.reason.message) : result.value && { ...result.value, createdAt: 0, lastSeenAt: 0 })
    const expected = (handle: string) =>
      /^h\d/.test(handle) ? { text: joinFields({ i: handle.slice(1), text: '"with spaces  and\\nlines"' }), user: 'u', device: 'd', version: '1', isSealed: false, createdAt: 0, lastSeenAt: 0 } : undefined
    t.same(outcomes, handles.map(expected))
  })
})

const callsOf = (statistics: string, name: string) => Number(new RegExp(`cmdstat_${name}:calls=(\\d+),`).exec(statistics)?.[1] ?? 0)

t.test('one command reads up to 64 sessions', async t => {
  const server = await startRedis()
  const store = createRedisStore(await openPort(t, server), 'calls', TIMEOUTS)
  await store.write('h', create({ a: '1' }))
  await server.client().config('RESETSTAT')
  const texts = (await Promise.all(Array.from({ length: 200 }, () => store.read('h')))).map(session => session?.text)
  t.same(texts, texts.map(() => '{"a":1}'))
  const statistics = await server.client().info('commandstats')
  t.ok(callsOf(statistics, 'mget') <= 4, 'four batches')
})

t.test('an error of the whole batch (MASTERDOWN, NOPERM, an invalid reply) rejects every read of it', async t => {
  const server = await startRedis()
  const client = server.client()
  await client.config('SET', 'replica-serve-stale-data', 'no')
  await client.replicaof('127.0.0.1', '1')
  const port = await openPort(t, server)
  const store = createRedisStore(port, 'stale', TIMEOUTS)
  t.match(await Promise.allSettled([store.read('a'), store.read('b')]), [{ status: 'rejected', reason: { message: /MASTERDOWN/ } }, { status: 'rejected', reason: { message: /MASTERDOWN/ } }])
  await client.replicaof('NO', 'ONE')
  for (const reply of [null, [], 'text', [7], [[]]]) {
    const odd = createRedisStore(port, 'odd', TIMEOUTS, async () => reply as never)
    t.match(await Promise.allSettled([odd.read('a'), odd.read('b')]), [{ status: 'rejected' }, { status: 'rejected' }], JSON.stringify(reply))
  }
  await client.call('ACL', 'SETUSER', 'limited', 'on', '>pass', '~*')
  const limited = await openPort(t, { url: server.url.replace('//', '//limited:pass@') })
  t.match(await Promise.allSettled([createRedisStore(limited, 'acl', TIMEOUTS).read('a')]), [{ status: 'rejected', reason: { name: 'ReplyError' } }])
})

t.test('each session is read by its own command on a part of a Cluster', async t => {
  const own = await startRedis({ args: ['--cluster-enabled', 'yes'] })
  await own.client().call('CLUSTER', 'ADDSLOTS', ...Array(16_384).keys())
  await until('it takes keys', async () => await own.client().set('key', 1) === 'OK')
  const store = createRedisStore(await openPort(t, own), 'single', TIMEOUTS)
  for (let i = 0; i < 5; i++) await store.write(`h${i}`, create({ i: String(i) }))
  for (const round of ['first', 'second']) {
    const found = await Promise.all([0, 1, 2, 3, 4, 5].map(i => store.read(`h${i}`)))
    t.same(found.map(session => session?.text), ['{"i":0}', '{"i":1}', '{"i":2}', '{"i":3}', '{"i":4}', undefined], `${round} read`)
  }
})

t.test('a session can be read while Redis holds back writes', async t => {
  const server = await startRedis()
  const store = createRedisStore(await openPort(t, server), 'paused', TIMEOUTS)
  await store.write('h', create({ a: '1' }))
  await server.client().call('CLIENT', 'PAUSE', 60_000, 'WRITE')
  let isWritten = false
  const write = createRedisStore(portOf(openClient(t, server)), 'paused', TIMEOUTS).write('h', change({ a: '2' })).then(() => { isWritten = true })
  t.match(await store.read('h'), { text: '{"a":1}' })
  t.notOk(isWritten)
  await server.client().call('CLIENT', 'UNPAUSE')
  await write
  t.match(await store.read('h'), { text: '{"a":2}' })
})
