import { randomBytes } from 'node:crypto'
import { Cluster, type Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Entry } from '../../plugins/cache/entry.js'
import { createMemoryStore } from '../../plugins/cache/memory-store.js'
import { createRedisStore } from '../../plugins/cache/redis-store.js'
import { EVERYTHING, type CacheStore } from '../../plugins/cache/store.js'
import { hashId } from '../../plugins/shared/keys.js'
import { startCluster, startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const cluster = await startCluster()
const ofCluster = new Cluster(cluster.startupNodes)
t.teardown(() => ofCluster.disconnect())
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
let made = 0

interface Subject {
  store: CacheStore
  /** Makes the store forget the versions of tags, as an eviction does. */
  loseTags: (...tags: string[]) => Promise<unknown>
}

function ofRedis (client: Redis | Cluster): Subject {
  const prefix = `s${++made}`
  return { store: createRedisStore(client, prefix), loseTags: (...tags) => Promise.all(tags.map(tag => client.del(`${prefix}:cache:tag:${tag === EVERYTHING ? `#${hashId(tag)}` : tag}`))) }
}

const subjects: Record<string, () => Subject> = {
  memory () {
    const store = createMemoryStore(64 * 1024 ** 2)
    return { store, loseTags: () => store.tags(Array.from({ length: 100_000 }, (_, i) => `other ${i}`)) }
  },
  Redis: () => ofRedis(server.client()),
  Cluster: () => ofRedis(ofCluster)
}

/** What the plugin does with a store when it makes an entry, in its steps. */
async function begin ({ store }: Subject, name: string, tags: string[] = []) {
  const id = hashId(name)
  const { generation } = await store.read(id, tags)
  const { now, versions } = await store.begin(hashId(`${name} work ${++made}`), 'me', [EVERYTHING, ...tags], 1000)
  const entry: Entry = { kind: 'value', label: name, meta: { a: 'ü' }, body: Buffer.from(name), storedAt: now, life: 60_000, tags: versions }
  return { id, entry, write: (over: Partial<Entry> = {}) => store.write(id, { ...entry, ...over }, generation) }
}

const put = async (subject: Subject, name: string, tags: string[] = []) => await (await begin(subject, name, tags)).write()
const has = async ({ store }: Subject, name: string, tags: string[] = []) => (await store.read(hashId(name), tags)).entry !== undefined

for (const [name, make] of Object.entries(subjects)) {
  const promise = (text: string, test: (t: Test, subject: Subject) => Promise<unknown>) => t.test(`${name}: ${text}`, t => test(t, make()))

  promise('what is written is read, whole, and nothing under another key', async (t, subject) => {
    const body = randomBytes(70_000)
    const { id, entry, write } = await begin(subject, 'a', ['x'])
    t.equal(await write({ body }), true)
    const found = await subject.store.read(id, ['x', 'y'])
    t.same({ ...found.entry, body: '' }, { ...entry, body: '' })
    t.ok(body.equals(found.entry?.body ?? Buffer.alloc(0)))
    t.match(found.versions, { x: entry.tags['x'], y: undefined, [EVERYTHING]: entry.tags[EVERYTHING] })
    t.equal(await has(subject, 'b'), false)
  })

  promise("a write after a removal or after somebody else's write is refused, and of 20 at once one is stored", async (t, subject) => {
    const beforeRemoval = await begin(subject, 'a')
    t.equal(await subject.store.remove(beforeRemoval.id), false)
    t.same([await beforeRemoval.write(), await has(subject, 'a')], [false, false])
    const late = await begin(subject, 'a')
    t.equal(await put(subject, 'a'), true, 'who saw the removal stores')
    t.equal(await late.write(), false)
    t.equal(await put(subject, 'a'), true, 'who saw the other entry stores in its place')
    const many = await Promise.all(Array.from({ length: 20 }, () => begin(subject, 'b')))
    t.equal((await Promise.all(many.map(({ write }) => write()))).filter(Boolean).length, 1)
  })

  promise('what expired is not there any more, and is no change', async (t, subject) => {
    await (await begin(subject, 'a')).write({ life: 40 })
    const { write } = await begin(subject, 'a')
    await wait(60)
    t.equal(await has(subject, 'a'), false)
    t.equal(await write(), true)
  })

  promise('an entry is invalid once one of its tags changes, also one that the reader does not know of, and no other entry is', async (t, subject) => {
    const { store } = subject
    for (const [key, tags] of Object.entries({ a: ['x'], b: ['x', 'y'], c: ['y'], d: [] })) await put(subject, key, tags)
    await store.invalidate(['x'])
    t.same(await Promise.all(['a', 'b', 'c', 'd'].map(key => has(subject, key))), [false, false, true, true])
    t.equal(await put(subject, 'a', ['x']), true)
    await store.invalidate(['y'])
    t.same(await Promise.all(['a', 'b', 'c', 'd'].map(key => has(subject, key))), [true, false, false, true])
    await store.invalidate([EVERYTHING])
    t.same(await Promise.all(['a', 'b', 'c', 'd'].map(key => has(subject, key))), [false, false, false, false])
  })

  promise('what was begun before a tag changed is invalid although it is stored after it', async (t, subject) => {
    const { write } = await begin(subject, 'a', ['x'])
    await subject.store.invalidate(['x'])
    await write()
    t.equal(await has(subject, 'a'), false)
  })

  promise('a tag that was evicted takes its entries with it, and does not give them back when it is used again', async (t, subject) => {
    await put(subject, 'a', ['x'])
    await put(subject, 'b')
    await subject.loseTags('x')
    t.equal(await has(subject, 'a'), false)
    await put(subject, 'c', ['x'])
    t.same([await has(subject, 'a'), await has(subject, 'c')], [false, true])
    await subject.loseTags(EVERYTHING)
    t.equal(await has(subject, 'b'), false)
  })

  promise('what is put is invalid once a tag is invalidated after it, also where nobody waits for either', async (t, subject) => {
    const { store } = subject
    for (const tag of ['x', EVERYTHING]) {
      for (let i = 0; i < 20; i++) {
        const { id, entry } = await begin(subject, `put ${tag} ${i}`, ['x'])
        const make = (tags: Record<string, string>): Entry => ({ ...entry, tags })
        if (i > 0) await store.put([{ id, tags: ['x'], make }])
        // On a Cluster the tag and the entry lie on several nodes: there who invalidates waits for what came before.
        const putting = store.put([{ id, tags: ['x'], make }])
        if (name === 'Cluster') await putting
        await Promise.all([putting, store.invalidate([tag])])
        t.equal((await store.read(id, ['x'])).entry, undefined, `${tag} ${i}`)
      }
    }
  })

  promise('of 20 who claim a work one gets it, and keeps it for as long as it says so', async (t, { store }) => {
    const begun = await Promise.all(Array.from({ length: 20 }, (_, i) => store.begin('w', `t${i}`, [], 600)))
    t.equal(begun.filter(({ claim }) => claim === 'mine').length, 1)
    t.equal(begun.filter(({ claim }) => claim === 'theirs').length, 19)
    const mine = `t${begun.findIndex(({ claim }) => claim === 'mine')}`
    for (let i = 0; i < 3; i++) {
      await wait(300)
      await store.renew('w', mine, 600)
      await store.renew('w', 'another', 60_000)
    }
    t.equal((await store.begin('w', 'another', [], 600)).claim, 'theirs')
    await wait(750)
    t.equal((await store.begin('w', 'another', [], 600)).claim, 'mine', 'whoever dies is succeeded')
    await store.end('w', mine, false)
    t.equal((await store.begin('w', mine, [], 600)).claim, 'theirs', 'its old token does not end it')
    await store.end('w', 'another', false)
    t.equal((await store.begin('w', mine, [], 50)).claim, 'mine')
  })

  promise('after a work that cannot be shared nobody waits, and after a while it is claimed again', async (t, { store }) => {
    await store.begin('w', 'a', [], 1000)
    await store.end('w', 'b', true)
    t.equal((await store.begin('w', 'b', [], 50)).claim, 'theirs')
    await store.end('w', 'a', true)
    t.same([(await store.begin('w', 'b', [], 50)).claim, (await store.begin('w', 'c', [], 50)).claim], ['pass', 'pass'])
    await store.end('w', 'a', false)
    t.equal((await store.begin('w', 'b', [], 50)).claim, 'pass')
    await until('it is claimed', async () => (await store.begin('w', 'b', [], 50)).claim === 'mine', 1500)
  })

  promise('remove() says whether there was an entry, and leaves something that has a generation', async (t, subject) => {
    await put(subject, 'a')
    const id = hashId('a')
    t.same([await subject.store.remove(id), await subject.store.remove(id), await has(subject, 'a')], [true, false, false])
    t.not((await subject.store.read(id, [])).generation, '')
  })

  promise('a tag has a version from when it is first asked for, and says when it was invalidated', async (t, { store }) => {
    const before = await store.now()
    const first = await store.tags(['x', 'y'])
    t.match(first, { x: { invalidatedAt: 0 }, y: { invalidatedAt: 0 } })
    t.same(await store.tags(['x', 'y']), first)
    await store.invalidate(['x'])
    const after = await store.now()
    const { x, y } = await store.tags(['x', 'y'])
    t.same(y, first['y'])
    t.not(x?.version, first['x']?.version)
    t.ok(Number(x?.invalidatedAt) >= before - store.skew && Number(x?.invalidatedAt) <= after + store.skew, `${x?.invalidatedAt} from ${before} to ${after}`)
    t.ok(Math.abs(before - Date.now()) < 60_000, 'milliseconds since the epoch')
  })

  promise('removeMatching() removes what has such a label, however long, and counts entries alone', async (t, subject) => {
    const { store } = subject
    const long = `yes-${'x'.repeat(6000)}`
    const names = [...Array.from({ length: 60 }, (_, i) => `${i % 2 ? 'yes' : 'no'}-"${i}`), long]
    for (const each of names) await put(subject, each)
    await store.remove(hashId('yes-"1'))
    t.equal(await store.removeMatching(label => label.startsWith('yes')), 30)
    for (const each of names) t.equal(await has(subject, each), each.startsWith('no'), each.slice(0, 20))
    t.equal(await store.removeMatching(() => true), 30, 'what was removed before is no entry')
  })
}

for (const name of ['Redis', 'Cluster']) {
  const nodes = name === 'Redis' ? [server] : cluster.nodes.slice(0, 3).map(node => node.server)
  const client = name === 'Redis' ? server.client() : ofCluster
  const keysOf = async (prefix: string) => (await Promise.all(nodes.map(node => node.client().keys(`${prefix}:*`)))).map(keys => keys)

  t.test(`${name}: every key has a TTL, and is named after the prefix, whatever the names of tags`, async t => {
    const store = createRedisStore(client, 'ttl', 'self')
    const subject = { store, loseTags: async () => {} }
    for (let i = 0; i < 20; i++) await put(subject, `a${i}`, [`t${i}`, '{x}', 'a b*\n'])
    await store.invalidate(['t1', 't30'])
    await store.remove(hashId('a1'))
    await store.remove(hashId('none'))
    await store.tags(['new'])
    await store.begin('w', 'a', [], 10_000)
    await store.renew('w', 'a', 10_000)
    await store.begin('v', 'a', [], 10_000)
    await store.end('v', 'a', true)
    const keys = await keysOf('ttl')
    t.ok(keys.every(each => each.length > 0), 'every master has some')
    for (const key of keys.flat()) {
      t.not(await client.pttl(key), -1, key)
      t.match(key, /^ttl:cache:(entry|tag|claim):[\w#-]+$/)
    }
  })

  t.test(`${name}: damaged bytes are no entry, and are replaced`, async t => {
    const prefix = `d${name}`
    const subject = { store: createRedisStore(client, prefix), loseTags: async () => {} }
    const key = `${prefix}:cache:entry:${hashId('a')}`
    await put(subject, 'a')
    const frame = await client.getBuffer(key) ?? Buffer.alloc(0)
    const damaged = [1, 2, 12, 13, 16, 17, 18, 40, frame.length - 1].map(length => frame.subarray(0, length))
    damaged.push(Buffer.from('x'), Buffer.concat([Buffer.from([0x7f]), randomBytes(200)]), Buffer.alloc(40, 0xff), Buffer.concat([frame, frame]), Buffer.concat([Buffer.from([1]), frame.subarray(1)]))
    for (const bytes of damaged) {
      await client.set(key, bytes, 'PX', 60_000)
      t.equal(await has(subject, 'a'), false, bytes.toString('hex').slice(0, 40))
      t.equal(await put(subject, 'a'), true, 'it is replaced')
      t.equal(await has(subject, 'a'), true)
    }
  })
}

t.test('memory: it stays within its size, and the entries that were used least recently go first', async t => {
  const store = createMemoryStore(100 * 1024)
  const subject = { store, loseTags: async () => {} }
  for (let i = 0; i < 200; i++) {
    await put(subject, `a${i}`)
    t.equal(await has(subject, 'a0'), true)
  }
  const kept = await Promise.all(Array.from({ length: 200 }, (_, i) => has(subject, `a${i}`)))
  t.ok(kept.filter(Boolean).length < 100)
  t.equal(kept[199], true)
})
