import { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { joinFields } from '../../plugins/session/fields.js'
import { SessionCounts } from '../../plugins/session/counts.js'
import { createMemoryStore } from '../../plugins/session/memory-store.js'
import { createRedisStore } from '../../plugins/session/redis-store.js'
import type { SessionChange, SessionStore, SessionTimeouts } from '../../plugins/session/store.js'
import { UserSessions } from '../../plugins/session/user-sessions.js'
import { startCluster, startRedis } from '../helpers/index.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
const cluster = await startCluster()
const client = new Redis(server.url)
const ofCluster = new Cluster(cluster.startupNodes)
t.teardown(() => { client.disconnect(); ofCluster.disconnect() })

let prefixes = 0
const stores: Record<string, (timeouts: SessionTimeouts) => SessionStore> = {
  memory: timeouts => createMemoryStore(20_000, timeouts),
  Redis: timeouts => createRedisStore(client, `p${++prefixes}`, timeouts),
  Cluster: timeouts => createRedisStore(ofCluster, `p${++prefixes}`, timeouts)
}
const HOUR = 3_600_000
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const create = (fields: Record<string, string>, user?: string): SessionChange => ({ set: fields, isSealed: false, delete: [], create: true, from: '', text: joinFields(fields), owner: { user, device: 'd' } })
const change = (set: Record<string, string>, del: string[] = []): SessionChange => ({ set, isSealed: false, delete: del, create: false, from: 'of long ago', text: 'never seen' })
const usersOf = (store: SessionStore, maxPerUser = 0, dropsOldest = true) => new UserSessions(store, operation => operation(), { maxPerUser, dropsOldest }, new SessionCounts(HOUR))

/** As a login does it: it is there before it is in the index, and in that before it is the user's. */
async function logIn (store: SessionStore, users: UserSessions, user: string, handle: string) {
  await store.write(handle, create({}))
  await users.enter(user, handle)
  return await store.write(handle, { ...change({ x: '1' }), owner: { user, device: 'd' } })
}

for (const [name, createStore] of Object.entries(stores)) {
  const contract = (promise: string, test: (t: Test, store: (timeouts?: Partial<SessionTimeouts>) => SessionStore) => Promise<unknown>) =>
    t.test(`${name} store: ${promise}`, t => test(t, timeouts => createStore({ idleTimeout: HOUR, absoluteTimeout: 2 * HOUR, ...timeouts })))

  contract('what is written is read, and a change leaves the other fields and the owner', async (t, open) => {
    const store = open()
    t.equal(await store.read('h'), undefined)
    t.ok(await store.write('h', create({ a: '1', b: '2' }, 'u')))
    t.ok(await store.write('h', change({ c: '3' }, ['b'])))
    t.match(await store.read('h'), { isSealed: false, user: 'u', createdAt: Number, lastSeenAt: Number })
    t.same(JSON.parse((await store.read('h'))?.text ?? ''), { a: 1, c: 3 })
    await store.write('h', { ...change({}), owner: { user: undefined, device: '' } })
    t.equal((await store.read('h'))?.user, undefined)
  })

  contract('changes that were made of the same version are merged, also with names and values that are odd', async (t, open) => {
    const store = open()
    const odd = '"\\/\u0000\n ключ 🔑'
    const from = await store.write('h', create({ a: '1', [odd]: '"🔑 \\u0000"' })) ?? ''
    const first = await store.write('h', { ...change({ b: '[1.50,{}]' }), from, text: joinFields({ a: '1', [odd]: '"🔑 \\u0000"', b: '[1.50,{}]' }) })
    const second = await store.write('h', { ...change({ c: '1234567890' }, ['a']), from, text: 'out of date' })
    t.ok(first && second && first !== second)
    const { text, version } = await store.read('h') ?? { text: '', version: '' }
    t.same(JSON.parse(text), { [odd]: '🔑 \u0000', b: [1.5, {}], c: 1234567890 })
    t.equal(version, second)
    t.match(text, '1.50', 'as it was written')
  })

  contract('a change to a session that is not there is dropped', async (t, open) => {
    const store = open()
    t.equal(await store.write('h', change({ a: '1' })), undefined)
    t.equal(await store.read('h'), undefined)
  })

  contract('what was destroyed stays so, whoever saves it', async (t, open) => {
    const store = open()
    await store.write('h', create({ a: '1' }, 'u'))
    t.equal(await store.destroy('h'), 'u')
    t.equal(await store.destroy('h'), undefined)
    t.equal(await store.write('h', change({ a: '2' })), undefined)
    t.equal(await store.write('h', create({ a: '3' })), undefined)
    t.equal(await store.read('h'), undefined)
    await store.write('g', create({ a: '1' }))
    t.equal(await store.destroy('g'), null)
    t.same(await store.infos(['h', 'g']), [undefined, undefined])
  })

  contract('a session ends idleTimeout after it was renewed last', async (t, open) => {
    const store = open({ idleTimeout: 400 })
    await store.write('h', create({ a: '1' }))
    for (let i = 0; i < 4; i++) {
      await wait(150)
      t.ok(await store.read('h'))
      await store.renew('h')
    }
    await wait(440)
    t.equal(await store.read('h'), undefined)
  })

  contract('a session ends absoluteTimeout after its creation, whatever is read or written', async (t, open) => {
    const store = open({ absoluteTimeout: 400 })
    await store.write('h', create({ a: '1' }))
    await wait(150)
    t.ok(await store.read('h'))
    t.ok(await store.write('h', change({ a: '2' })))
    await wait(270)
    t.equal(await store.read('h'), undefined)
  })

  contract("a user's sessions are listed, and those that ended leave the index", async (t, open) => {
    const store = open({ idleTimeout: 500 })
    const users = usersOf(store)
    for (const handle of ['a', 'b', 'c']) await logIn(store, users, 'user', handle)
    await logIn(store, users, 'other', 'd')
    t.equal(await users.destroy('b'), true)
    t.equal(await users.destroy('b'), false)
    t.same((await users.list('user')).map(info => info.handle), ['a', 'c'])
    await wait(300)
    await store.renew('c')
    await wait(300)
    t.match(await users.list('user'), [{ handle: 'c', device: 'd' }])
    t.same(await store.members('user', await store.now('user'), 0, 10), ['c'])
    t.same(await users.list('nobody'), [])
  })

  contract('10,000 sessions of a user end together, but for the one that is kept', async (t, open) => {
    const store = open()
    const users = usersOf(store)
    const handles = Array.from({ length: 10_000 }, (_, i) => `h${String(i).padStart(5, '0')}`)
    for (let at = 0; at < handles.length; at += 1000) await Promise.all(handles.slice(at, at + 1000).map(handle => logIn(store, users, 'u', handle)))
    let slowest = 0
    const clock = stopwatch()
    const state = { isOver: false }
    const others = (async () => {
      while (!state.isOver) {
        const began = clock()
        await store.read('somebody else')
        slowest = Math.max(slowest, clock() - began)
        await wait(2)
      }
    })()
    t.equal(await users.destroyAll('u', 'h00007'), 9_999)
    state.isOver = true
    await others
    t.comment(`others waited for ${slowest.toFixed(1)} ms at most`)
    t.ok(slowest < 300)
    t.same((await users.list('u')).map(info => info.handle), ['h00007'])
    t.same((await store.infos(handles)).filter(Boolean).length, 1)
    t.equal(await users.destroyAll('u', undefined), 1)
    t.same(await store.members('u', await store.now('u'), 0, 10), [])
  })

  contract('a session that is being made while all are ended does not outlive that', async (t, open) => {
    const store = open()
    const users = usersOf(store)
    await store.write('h', create({}))
    await users.enter('u', 'h')
    t.equal(await users.destroyAll('u', undefined), 1)
    t.equal(await store.write('h', { ...change({ x: '1' }), owner: { user: 'u', device: 'd' } }), undefined)
  })

  contract('a session that is another user\'s by now is not ended with those of the first', async (t, open) => {
    const store = open()
    const users = usersOf(store)
    await logIn(store, users, 'a', 'h')
    await store.write('h', { ...change({}), owner: { user: 'b', device: 'd' } })
    t.same([await users.list('a'), await users.destroyAll('a', undefined)], [[], 0])
    t.equal((await store.read('h'))?.user, 'b')
  })

  contract('of a user there are never more sessions than allowed: the oldest go', async (t, open) => {
    const store = open()
    const users = usersOf(store, 3)
    for (let i = 0; i < 5; i++) {
      await logIn(store, users, 'u', `h${i}`)
      await wait(3)
    }
    t.same((await users.list('u')).map(info => info.handle), ['h2', 'h3', 'h4'])
    t.equal(await store.read('h0'), undefined)
    await Promise.all(Array.from({ length: 20 }, (_, i) => logIn(store, users, 'u', `at once ${i}`).catch(() => {})))
    t.ok((await users.list('u')).length <= 3)
    await logIn(store, users, 'u', 'h4')
  })

  contract('or the new one is refused, and a place that is free again is found', async (t, open) => {
    const store = open()
    const users = usersOf(store, 2, false)
    await logIn(store, users, 'u', 'a')
    await logIn(store, users, 'u', 'b')
    const TOO_MANY = { code: 'FST_REDIS_SUITE_SESSION_TOO_MANY', statusCode: 409 }
    await t.rejects(logIn(store, users, 'u', 'c'), TOO_MANY)
    await t.rejects(users.requireRoom('u'), TOO_MANY)
    await logIn(store, users, 'u', 'a')
    // It ended without leaving the index, as one does whose TTL is over.
    await store.destroy('a')
    await users.requireRoom('u')
    t.ok(await logIn(store, users, 'u', 'c'))
    t.same((await users.list('u')).map(info => info.handle).sort(), ['b', 'c'])
  })
}

t.test('Redis store: every key has a TTL and none holds what a thief could use', async t => {
  const store = createRedisStore(client, 'ttl', { idleTimeout: HOUR, absoluteTimeout: 2 * HOUR })
  await logIn(store, usersOf(store), 'digest', 'h')
  await store.write('g', create({ a: '1' }))
  await store.destroy('g')
  const keys = await client.keys('ttl:*')
  t.same(keys.sort(), ['ttl:session:data:g', 'ttl:session:data:h', 'ttl:session:user:digest'])
  for (const key of keys) t.ok(await client.pttl(key) > 0, key)
})

t.test('memory store: it never keeps more sessions than it is told, nor an index of them', async t => {
  const store = createMemoryStore(5, { idleTimeout: HOUR, absoluteTimeout: HOUR })
  const users = usersOf(store)
  for (let i = 0; i < 6; i++) await logIn(store, users, 'u', `h${i}`)
  t.equal(await store.read('h0'), undefined)
  t.ok(await store.read('h5'))
  t.equal((await store.members('u', await store.now('u'), 0, 10)).length, 5)
})
