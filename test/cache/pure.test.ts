import t from 'tap'
import { matchesEtag } from '../../plugins/cache/cacheability.js'
import { Coalescer } from '../../plugins/cache/coalesce.js'
import { decodeFrame, encodeFrame } from '../../plugins/cache/frame.js'
import { ageOf, freshnessOf } from '../../plugins/cache/freshness.js'
import { dataKey, responseKey, type KeyParts } from '../../plugins/cache/key.js'

const entry = { body: Buffer.from('{"a":1}'), meta: { headers: { etag: '"x"' } }, storedAt: 1000, ttl: 500, stale: 200, tags: { t: 'v' } }

t.test('an entry survives being stored, whatever bytes its body has', async t => {
  for (const body of [Buffer.alloc(0), Buffer.from('text é'), Buffer.from(Array.from({ length: 256 }, (_, i) => i))]) {
    t.same(decodeFrame(encodeFrame({ ...entry, body })), { ...entry, body })
  }
})

t.test('bytes that are damaged, cut, of another version or tampered with are no entry', async t => {
  const good = encodeFrame(entry)
  const tampered = (change: (text: string) => string) => {
    const meta = Buffer.from(change(good.toString('utf8', 5, 5 + good.readUInt32BE(1))))
    const head = Buffer.alloc(5)
    head.writeUInt8(1, 0)
    head.writeUInt32BE(meta.length, 1)
    return Buffer.concat([head, meta, entry.body])
  }
  const bad: Buffer[] = [
    Buffer.alloc(0), Buffer.from('x'), Buffer.from('not a frame at all'), good.subarray(0, 10), good.subarray(0, -1), Buffer.concat([good, Buffer.from('x')]),
    Buffer.concat([Buffer.from([2]), good.subarray(1)]), tampered(() => '[]'), tampered(() => 'null'), tampered(() => '{'), tampered(text => text.replace('500', '"500"')),
    tampered(text => text.replace('500', '-1')), tampered(text => text.replace('"t":"v"', '"t":5')), tampered(text => text.replace('{', '{"__proto__":{"x":1},'))
  ]
  for (const [i, bytes] of bad.entries()) t.equal(decodeFrame(bytes), undefined, String(i))
  for (let i = 0; i < good.length; i++) {
    const flipped = Buffer.from(good)
    flipped[i] = (flipped[i] ?? 0) ^ 0xff
    t.doesNotThrow(() => decodeFrame(flipped))
  }
  t.equal(Reflect.get({}, 'x'), undefined)
})

t.test('fresh until its ttl, then stale for a while, then expired', async t => {
  const table: Array<[number, string, number]> = [[1000, 'fresh', 0], [1499, 'fresh', 0], [1500, 'stale', 0], [1699, 'stale', 0], [1700, 'expired', 0], [0, 'fresh', 0], [3100, 'expired', 2]]
  for (const [now, freshness, age] of table) {
    t.equal(freshnessOf(entry, now), freshness)
    t.equal(ageOf(entry, now), age)
  }
})

t.test('keys are equal only for requests that are', async t => {
  const base: KeyParts = { path: '/a', query: 'x=1&y=2', vary: [], owner: undefined }
  t.equal(responseKey({ ...base, query: 'y=2&x=1' }), responseKey(base), 'the order of a query is none')
  const others: KeyParts[] = [
    base, { ...base, path: '/a/' }, { ...base, path: '/A' }, { ...base, path: '/%61' }, { ...base, query: '' }, { ...base, query: 'x=1' }, { ...base, query: 'x=1&y=2&y=2' },
    { ...base, query: 'x=1%26y=2' }, { ...base, query: 'x=2&y=1' }, { ...base, query: 'x=1;y=2' }, { ...base, owner: '' }, { ...base, owner: 'ann' },
    { ...base, owner: 'null' }, { ...base, vary: [['accept', 'a']] }, { ...base, vary: [['accept', 'b']] }, { ...base, vary: [['accept-language', 'a']] },
    { ...base, query: 'x=1&x=2' }, { ...base, query: 'x=2&x=1' }
  ]
  t.equal(new Set([...others.map(responseKey), dataKey('/a'), dataKey('')]).size, others.length + 2)
})

t.test('If-None-Match is compared weakly, in lists and with *', async t => {
  for (const [header, expected] of [['"x"', true], ['W/"x"', true], ['"a", W/"x"', true], ['*', true], ['"y"', false], ['x', false], ['', false], [undefined, false]] as const) {
    t.equal(matchesEtag(header, '"x"'), expected, String(header))
  }
})

t.test('the first works, the others wait until it has ended, or lose patience', async t => {
  const coalescer = new Coalescer()
  const first = coalescer.enter('k', 1000)
  const second = coalescer.enter('k', 1000)
  const impatient = coalescer.enter('k', 10)
  t.ok('end' in first && 'wait' in second && 'wait' in impatient)
  if (!('end' in first) || !('wait' in second) || !('wait' in impatient)) return
  await impatient.wait
  let waited = false
  const done = second.wait.then(() => { waited = true })
  await new Promise(resolve => setImmediate(resolve))
  t.equal(waited, false)
  first.end()
  await done
  t.ok('end' in coalescer.enter('k', 10), 'and the next one works')
})
