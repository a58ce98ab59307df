import { Cluster, type Redis } from 'ioredis'
import fc from 'fast-check'
import t from 'tap'
import { compileGlob, escapeGlob, MAX_GLOB_LENGTH } from '../../plugins/cache/glob.js'
import { createMemoryStore } from '../../plugins/cache/memory-store.js'
import { EVERYTHING } from '../../plugins/cache/store.js'
import { ask, settled } from '../helpers/cache/cache-app.js'
import { upTo } from '../helpers/cache/factories.js'
import { createTestApp, forEachStore } from '../helpers/index.js'

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
  const store = createMemoryStore(64 * 1024 ** 2)
  const label = 'a'.repeat(1024)
  await store.put(upTo(500).map(i => ({
    id: `${i}`, tags: [], make: versions => ({ kind: 'value' as const, label: label + i, meta: {}, body: Buffer.alloc(0), storedAt: 0, life: 3_600_000, tags: { [EVERYTHING]: versions[EVERYTHING] ?? '' } })
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
    const { app, prefix } = await createTestApp(t, { store, plugins: { cache: { timeout: '1h' } } })
    const client = app.redis as Redis | Cluster
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

t.test('an escaped text is found by its own pattern in a text of any length', async () => {
  fc.assert(fc.property(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), (text, around) => compileGlob(`*${escapeGlob(text)}*`)(around + text + around)), { numRuns: 500 })
})
