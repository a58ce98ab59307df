import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { createMemoryStore } from '../../plugins/session/memory-store.js'
import { createRedisStore } from '../../plugins/session/redis-store.js'
import type { SessionStore, SessionTimeouts } from '../../plugins/session/store.js'
import { startRedis } from '../helpers/index.js'

const server = await startRedis()
const client = new Redis(server.url)
t.teardown(() => client.disconnect())

let prefixes = 0
const stores: Record<string, (timeouts: SessionTimeouts) => SessionStore> = {
  memory: timeouts => createMemoryStore(1000, timeouts),
  Redis: timeouts => createRedisStore(client, `p${++prefixes}`, timeouts)
}
const HOUR = 3_600_000
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const create = (fields: Record<string, string>, user?: string) => ({ set: fields, delete: [], create: true, user })
const change = (set: Record<string, string>, del: string[] = []) => ({ set, delete: del, create: false, user: undefined })

for (const [name, createStore] of Object.entries(stores)) {
  const contract = (promise: string, test: (t: Test, store: (timeouts?: Partial<SessionTimeouts>) => SessionStore) => Promise<unknown>) =>
    t.test(`${name} store: ${promise}`, t => test(t, timeouts => createStore({ idleTimeout: HOUR, absoluteTimeout: 2 * HOUR, ...timeouts })))

  contract('what is written is read, and a change leaves the other fields', async (t, open) => {
    const store = open()
    t.equal(await store.read('h'), undefined)
    t.equal(await store.write('h', create({ a: '1', b: '2' })), true)
    t.equal(await store.write('h', change({ c: '3' }, ['b'])), true)
    t.match(await store.read('h'), { fields: { a: '1', c: '3' }, createdAt: Number, lastSeenAt: Number })
  })

  contract('a change to a session that is not there is dropped', async (t, open) => {
    const store = open()
    t.equal(await store.write('h', change({ a: '1' })), false)
    t.equal(await store.read('h'), undefined)
  })

  contract('what was destroyed stays so, whoever saves it', async (t, open) => {
    const store = open()
    await store.write('h', create({ a: '1' }, 'u'))
    await store.destroy('h')
    t.equal(await store.write('h', change({ a: '2' })), false)
    t.equal(await store.write('h', create({ a: '3' })), false)
    t.equal(await store.read('h'), undefined)
    t.same(await store.list('u'), [])
  })

  contract('a session ends idleTimeout after its last read', async (t, open) => {
    const store = open({ idleTimeout: 200 })
    await store.write('h', create({ a: '1' }))
    for (let i = 0; i < 4; i++) {
      await wait(80)
      t.ok(await store.read('h'), 'each read renews it')
    }
    await wait(220)
    t.equal(await store.read('h'), undefined)
  })

  contract('a session ends absoluteTimeout after its creation, whatever is read or written', async (t, open) => {
    const store = open({ absoluteTimeout: 200 })
    await store.write('h', create({ a: '1' }))
    await wait(90)
    t.ok(await store.read('h'))
    t.equal(await store.write('h', change({ a: '2' })), true)
    await wait(130)
    t.equal(await store.read('h'), undefined)
  })

  contract("a user's sessions are listed, without those that ended", async (t, open) => {
    const store = open({ idleTimeout: 250 })
    for (const handle of ['a', 'b', 'c']) await store.write(handle, create({ x: '1' }, 'user'))
    await store.write('d', create({ x: '1' }, 'other'))
    await store.destroy('b')
    t.same((await store.list('user')).map(info => info.handle).sort(), ['a', 'c'])
    await wait(150)
    await store.read('c')
    await wait(150)
    t.same((await store.list('user')).map(info => info.handle), ['c'])
    t.same(await store.list('nobody'), [])
  })
}

t.test('Redis store: every key has a TTL and none holds what a thief could use', async t => {
  const store = createRedisStore(client, 'ttl', { idleTimeout: HOUR, absoluteTimeout: 2 * HOUR })
  await store.write('h', create({ a: '1' }, 'secret-user@example.com'))
  await store.write('g', create({ a: '1' }))
  await store.destroy('g')
  const keys = await client.keys('ttl:*')
  t.equal(keys.length, 3)
  for (const key of keys) {
    t.ok(await client.pttl(key) > 0, key)
    t.notMatch(key, 'secret-user')
  }
})

t.test('memory store: it never keeps more sessions than it is told', async t => {
  const store = createMemoryStore(5, { idleTimeout: HOUR, absoluteTimeout: HOUR })
  for (let i = 0; i < 6; i++) await store.write(`h${i}`, create({ a: '1' }))
  t.equal(await store.read('h0'), undefined)
  t.ok(await store.read('h5'))
})
