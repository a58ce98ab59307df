import { isDeepStrictEqual } from 'node:util'
import v8 from 'node:v8'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import type { CachePluginOptions, Serializer } from '../../plugins/cache/index.js'
import { advanceUntil, advanceWhile, createTestApp, forEachStore, sharedRedis, until, type StoreName } from '../helpers/index.js'

// SCALE=10 multiplies the rounds, and the duration.
const SCALE = Number(process.env['SCALE'] ?? 1)
const INVALID = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'
const UNSERIALIZABLE = 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE'

async function open (t: Test, options: CachePluginOptions = {}, store: StoreName = 'redis') {
  const { app: { cache }, clock, prefix } = await createTestApp(t, { store, plugins: { cache: { timeout: '1h', ttl: '1d', ...options } } })
  const soon = async <R>(promise: Promise<R>): Promise<R> => (await advanceWhile(clock, promise)).value
  return { cache, clock, prefix, soon }
}

const ODD = ['\0', '\ud800', '\udfff', '\ud800x', '__proto__', 'constructor', 'toString', 'hasOwnProperty', '*', '?', '{a}', '}{', ':', 'a:b', 'x'.repeat(100_000), '\n', '"', '\\', ' ', 'ä', '🙂', '#', '-1']
const text = fc.oneof(fc.constantFrom(...ODD), fc.string({ unit: 'binary', minLength: 1 }), fc.string({ minLength: 1, maxLength: 4 }))

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: any text is a distinct key, with and without a prefix`, async t => {
    const { cache } = await open(t, { l1: false }, store)
    await fc.assert(fc.asyncProperty(fc.uniqueArray(text, { minLength: 2, maxLength: 6 }), text, async (keys, prefix) => {
      const views = [cache, cache.withPrefix(prefix), cache.withPrefix(prefix).withPrefix(prefix)]
      for (const [n, view] of views.entries()) await view.setMany(keys.map((key, i) => [key, [n, i]]))
      for (const [n, view] of views.entries()) if (JSON.stringify(await view.getMany(keys)) !== JSON.stringify(keys.map((_, i) => [n, i]))) return false
      const [first = '', ...rest] = keys
      if (!await cache.delete(first) || await cache.has(first)) return false
      return (await cache.getMany(rest)).every(value => value !== undefined) && await views[1]!.has(first)
    }), { numRuns: 40 * SCALE })
  })

  t.test(`${store}: any text is a tag, which invalidates the values that have it and no others`, async t => {
    const { cache, clock } = await open(t, { l1: false }, store)
    // A value that is tagged `__proto__` is not read from Redis again, see the frames.
    const tag = text.filter(tag => !tag.startsWith('\0') && tag !== '__proto__')
    await fc.assert(fc.asyncProperty(fc.uniqueArray(tag, { minLength: 2, maxLength: 5 }), async tags => {
      let made = 0
      const makeAll = async () => {
        made = 0
        for (const [i, tag] of tags.entries()) {
          await cache.getOrSet(`known ${i}`, () => ++made, { tags: [tag] })
          await cache.getOrSet(`late ${i}`, () => ++made, { tags: () => [tag] })
        }
        return made
      }
      const keys = tags.flatMap((_, i) => [`known ${i}`, `late ${i}`])
      await cache.deleteMany(keys)
      // At first the tags may have no version yet; later it is known.
      for (let round = 0; round < 3; round++) {
        await makeAll()
        await advanceUntil(clock, 'all are stored', async () => await makeAll() === 0, { step: 1 })
        const [first = '', ...rest] = tags
        await cache.invalidateTags([first])
        if (await cache.get('known 0') !== undefined || await cache.get('late 0') !== undefined) return false
        if ((await cache.getMany(rest.flatMap((_, i) => [`known ${i + 1}`, `late ${i + 1}`]))).includes(undefined)) return false
        await clock.advance(1)
        if (await makeAll() !== 2) return false
      }
      await cache.setMany(tags.map((tag, i) => [`known ${i}`, i, { tags: [tag] }]))
      await cache.invalidateTags(tags)
      return (await cache.getMany(tags.map((_, i) => `known ${i}`))).every(value => value === undefined)
    }), { numRuns: 15 * SCALE })
  })
})

t.test('halves of surrogate pairs, which UTF-8 cannot distinguish, are distinct keys and tags', async t => {
  const { cache } = await open(t, { l1: false })
  const halves = ['\ud800', '\udfff', '\ufffd']
  await cache.setMany(halves.map(half => [half, half, { tags: [half] }]))
  t.same(await cache.getMany(halves), halves)
  await cache.invalidateTags(['\ud800'])
  t.same(await cache.getMany(halves), [undefined, '\udfff', '\ufffd'])
})

t.test('an argument or option of a wrong kind is refused with a coded error, and no call hangs', async t => {
  const { cache, soon } = await open(t, { tiers: { short: 1000 } })
  const bare = Object.create(null) as unknown
  const junk = fc.oneof(fc.constantFrom<unknown>(null, 0, -1, NaN, Infinity, '', 'x', '1 parsec', true, {}, [], [''], [1], Symbol('s'), 1n, bare, () => { throw new Error('thrown') }, new Date(NaN)), fc.anything())
  const names = ['ttl', 'staleWhileRevalidate', 'staleIfError', 'jitter', 'tags', 'negativeTtl', 'softTimeout', 'hardTimeout', 'refreshAhead', 'signal', 'invalidates', 'unknown', '__proto__']
  const calls: Array<(given: never, options: never) => unknown> = [
    given => cache.get(given), given => cache.getMany(given), given => cache.has(given), given => cache.delete(given), given => cache.deleteMany(given),
    given => cache.set(given, 1), given => cache.getOrSet(given, () => 1), given => cache.getOrSet('k', given), given => cache.writeThrough('k', 1, given),
    given => cache.invalidateTags(given), given => cache.invalidatePattern(given), given => cache.withPrefix(given), given => cache.wrap(given, { key: 'k' }),
    given => cache.wrap(() => 1, { key: given }), given => cache.on('hit', given),
    (_, options) => cache.getOrSet('miss', () => 1, options), (_, options) => cache.set('k', 1, options), (_, options) => cache.setMany([['k', 1, options]]),
    (_, options) => cache.writeThrough('k', 1, () => {}, options), (_, options) => cache.withPrefix('p', options), (_, options) => cache.wrap(() => 1, { key: 'w', ...options as object })
  ]
  await fc.assert(fc.asyncProperty(fc.nat(calls.length - 1), junk, fc.constantFrom(...names), async (i, given, name) => {
    await cache.delete('miss')
    try {
      // Fails if the call does not end.
      await soon(Promise.resolve(calls[i]!(given as never, Object.fromEntries([[name, given]]) as never)))
    } catch (error) {
      const { code, message } = error as { code?: string, message: string }
      // A function that is an option may throw any value.
      return code === INVALID || message === 'thrown' || t.fail(`call ${i} with ${name}: ${message}`)
    }
    return true
  }), { numRuns: 400 * SCALE })
  t.equal(await soon(cache.getOrSet('after', () => 1)), 1)
})

t.test('a value is returned as its serializer makes it, or is refused with a coded error', async t => {
  const circular: Record<string, unknown> = {}
  circular['self'] = circular
  const { cache: json, soon } = await open(t)
  for (const value of [circular, 1n, { deep: 1n }, () => 1, Symbol('s'), JSON.parse('['.repeat(20_000) + ']'.repeat(20_000)), { toJSON () { throw new Error('no') } }]) {
    await t.rejects(json.set('bad', value), { code: UNSERIALIZABLE })
    await t.rejects(soon(json.getOrSet('bad', () => value)), { code: UNSERIALIZABLE })
    let written = false
    await t.rejects(json.writeThrough('bad', value, () => { written = true }), { code: UNSERIALIZABLE })
    t.equal(written, false, 'the source is not written')
  }
  t.equal(await json.has('bad'), false)
  await fc.assert(fc.asyncProperty(fc.jsonValue({ noUnicodeString: false }), async value => {
    await json.set('json', value)
    return JSON.stringify(await json.get('json')) === JSON.stringify(value)
  }), { numRuns: 100 * SCALE })
  const { cache: clone } = await open(t, { serializer: 'structured-clone', l1: false })
  await fc.assert(fc.asyncProperty(fc.anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withTypedArray: true, withSparseArray: true }), async value => {
    let expected: unknown
    try { expected = structuredClone(value) } catch { return true }
    if (expected === undefined) return true
    await clone.set('clone', value)
    const given = await clone.get('clone')
    // Node.js 20 does not consider two invalid dates equal; their bytes are.
    return isDeepStrictEqual(given, expected) || v8.serialize(given).equals(v8.serialize(expected))
  }), { numRuns: 100 * SCALE })
})

t.test('other callers do not see a change of a returned value', async t => {
  const raw: Serializer = { name: 'raw', serialize: value => value as Buffer, deserialize: bytes => bytes }
  for (const [serializer, wrapped] of [['structured-clone', true], [raw, false]] as const) {
    const { cache, clock } = await open(t, { serializer })
    const bytesOf = (value: unknown) => wrapped ? (value as { data: Buffer }).data : value as Buffer
    const make = () => { const data = Buffer.from('right'); return wrapped ? { data } : data }
    const given = make()
    await cache.set('set', given)
    bytesOf(given).fill(0)
    t.equal(bytesOf(await cache.get('set')).toString(), 'right')
    bytesOf(await cache.getOrSet('k', make)).fill(0)
    for (let i = 0; i < 3; i++) {
      const read = bytesOf(await cache.get('k'))
      t.equal(read.toString(), 'right')
      read.fill(0)
      for (const value of await Promise.all([1, 2].map(async () => await cache.getOrSet('k', make)))) {
        t.equal(bytesOf(value).toString(), 'right')
        bytesOf(value).fill(0)
      }
      await clock.advance(1)
    }
  }
})

t.test('a serializer that reuses its memory, throws or returns junk affects one value at most', async t => {
  const scratch = new Uint8Array(64)
  const reusing: Serializer = {
    name: 'reusing',
    serialize: value => scratch.subarray(0, new TextEncoder().encodeInto(JSON.stringify(value), scratch).written),
    deserialize: bytes => JSON.parse(bytes.toString()) as unknown
  }
  const { cache } = await open(t, { serializer: reusing })
  await cache.setMany([['a', 'first'], ['b', 'other'], ['c', 'third']])
  t.same(await cache.getMany(['a', 'b', 'c']), ['first', 'other', 'third'])
  t.same(await Promise.all(['d', 'e'].map(async key => await cache.getOrSet(key, () => key))), ['d', 'e'])
  await until('both are stored', () => cache.stats().stored === 5)
  t.same(await cache.getMany(['d', 'e']), ['d', 'e'])

  for (const result of [undefined, null, 5, {}, [], Promise.resolve('x'), new ArrayBuffer(8), { buffer: 'x', byteOffset: 'utf8' }] as unknown[]) {
    const { cache: bad } = await open(t, { serializer: { name: 'bad', serialize: () => result as string, deserialize: () => 1 } })
    await t.rejects(bad.set('k', 1), { code: UNSERIALIZABLE }, String(result))
  }
  const { cache: unreadable } = await open(t, { serializer: { name: 'unreadable', serialize: () => 'x', deserialize () { throw new Error('no') } } })
  t.equal(await unreadable.getOrSet('k', () => 'made'), 'made')
  await until('it is stored', () => unreadable.stats().stored === 1)
  t.equal(await unreadable.get('k'), undefined)
  t.equal(await unreadable.getOrSet('k', () => 'made again'), 'made again')
})

t.test('stored bytes that were cut or changed never make a read fail, and a changed frame is a miss', async t => {
  const { cache, prefix, soon } = await open(t, { l1: false })
  const client = (await sharedRedis()).client()
  const value = { name: 'right', list: [1, 2, 3] }
  let [body, missed, same] = [0, 0, 0]
  const wrong: unknown[] = []
  for (let run = 0; run < 200 * SCALE; run++) {
    await cache.set('k', value, { tags: ['t'] })
    const [key = ''] = await client.keys(`${prefix}:cache:entry:*`)
    const right = await client.getBuffer(key) as Buffer
    const bodyAt = right.length - Buffer.byteLength(JSON.stringify(value))
    const cut = run % 4 === 0
    const at = Math.floor(Math.random() * right.length)
    const bytes = Buffer.from(cut ? right.subarray(0, at) : right)
    if (!cut) bytes[at] = bytes[at]! ^ (1 << Math.floor(Math.random() * 8))
    await client.set(key, bytes, 'PX', 60_000)
    const [got, error] = await cache.get('k').then(got => [got, undefined], (error: unknown) => [undefined, error])
    if (error !== undefined) wrong.push({ at, cut, error })
    else if (got === undefined) missed++
    else if (JSON.stringify(got) === JSON.stringify(value)) same++
    // JSON has no checksum: another digit is another number.
    else if (!cut && at >= bodyAt) body++
    else wrong.push({ at, cut, bodyAt, got })
    if (await soon(cache.getOrSet('k', () => 'made')) === undefined) wrong.push({ at, cut, got: 'no value' })
  }
  t.same(wrong, [])
  t.comment(`${missed} misses, ${same} as it was, ${body} with another body`)
  // Values of another type, and an empty one.
  const [key = ''] = await client.keys(`${prefix}:cache:entry:*`)
  for (const damage of [() => client.lpush(key, 'x'), () => client.hset(key, 'a', 'b'), () => client.set(key, '')]) {
    await client.del(key)
    await damage()
    t.equal(await cache.get('k'), undefined)
    t.equal(await soon(cache.getOrSet('k', () => 'made')), 'made')
    t.equal(await cache.writeThrough('k', 'written', () => {}), 'written')
    await cache.set('k', 'set')
    t.equal(await cache.get('k'), 'set')
  }
})
