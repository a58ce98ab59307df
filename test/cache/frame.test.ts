import fc from 'fast-check'
import t from 'tap'
import { isResponse, isValue, isVariants, usabilityOf, type Entry, type StoredResponse } from '../../plugins/cache/entry.js'
import { decodeFrame, encodeFrame, GENERATION_RANGE } from '../../plugins/cache/frame.js'

const meta = { status: 200, headers: { etag: '"x"', link: ['a', 'b'] }, vary: { accept: 'a' }, age: 3000, fresh: 5000, staleWhileRevalidate: 10, staleIfError: 20, strict: false, validateAlways: false }
const entry: StoredResponse = { kind: 'response', label: '/a?b=1', meta, body: Buffer.from('{"a":1}'), storedAt: 1000, life: 500, tags: { t: 'v' } }
const HEAD = 17

t.test('an entry survives being stored, whatever bytes its body has', async t => {
  for (const body of [Buffer.alloc(0), Buffer.from('text é'), Buffer.from(Array.from({ length: 256 }, (_, i) => i))]) t.strictSame(decodeFrame(encodeFrame({ ...entry, body })).entry, { ...entry, body })
  const text = fc.string({ unit: 'binary' })
  const anything = fc.record({
    kind: fc.constantFrom('response' as const, 'variants' as const, 'value' as const),
    label: text,
    meta: fc.jsonValue().filter(value => !JSON.stringify(value).includes('-0')),
    body: fc.uint8Array().map(bytes => Buffer.from(bytes)),
    storedAt: fc.nat(),
    life: fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }).map(value => value + 0),
    tags: fc.dictionary(text.filter(name => name !== '__proto__'), text, { noNullPrototype: true })
  })
  fc.assert(fc.property(anything, given => { t.same(decodeFrame(encodeFrame(given)).entry, JSON.parse(JSON.stringify(given), (key, value) => key === 'body' ? given.body : value)) }))
})

t.test('every frame has a generation of its own, where the scripts look for it', async t => {
  const frames = Array.from({ length: 100 }, (_, i) => encodeFrame(i % 2 ? entry : 'tombstone'))
  const generations = frames.map(frame => decodeFrame(frame).generation)
  t.equal(new Set(generations).size, 100)
  for (const [i, frame] of frames.entries()) t.equal(frame.toString('latin1', GENERATION_RANGE[0], GENERATION_RANGE[1] + 1), generations[i])
  t.match(generations[0], /^[\w-]{12}$/)
})

t.test('a tombstone is no entry, and has a generation', async t => {
  const frame = encodeFrame('tombstone')
  t.equal(frame.length, HEAD)
  t.match(decodeFrame(frame), { generation: /^[\w-]{12}$/, entry: undefined })
})

function tampered (change: (text: string) => string): Buffer {
  const good = encodeFrame(entry)
  const rest = Buffer.from(change(good.toString('utf8', HEAD, HEAD + good.readUInt32BE(HEAD - 4))))
  const head = Buffer.from(good.subarray(0, HEAD))
  head.writeUInt32BE(rest.length, HEAD - 4)
  return Buffer.concat([head, rest, entry.body])
}

t.test('bytes that are damaged, cut, of another version or tampered with are no entry', async t => {
  const good = encodeFrame(entry)
  t.ok(decodeFrame(tampered(text => text)).entry)
  const long = Buffer.from(good)
  long.writeUInt32BE(2 ** 32 - 1, HEAD - 4)
  const bad: Buffer[] = [
    Buffer.alloc(0), Buffer.from('x'), Buffer.from('not a frame at all'), good.subarray(0, 10), good.subarray(0, HEAD), good.subarray(0, -1), Buffer.concat([good, Buffer.from('x')]), Buffer.alloc(HEAD), Buffer.alloc(100), long,
    Buffer.concat([Buffer.from([1]), good.subarray(1)]), Buffer.concat([Buffer.from([3]), good.subarray(1)])
  ]
  const changes: Array<(text: string) => string> = [() => '[]', () => 'null', () => '1', () => '{', () => '', () => '{}', text => text.replace('"life":500', '"life":"500"'), text => text.replace('"life":500', '"life":-1'),
    text => text.replace('"life":500', '"life":1e999'), text => text.replace('"life":500', '"life":null'), text => text.replace('"storedAt":1000', '"storedAt":-1'), text => text.replace('"t":"v"', '"t":5'),
    text => text.replace('{"t":"v"}', '["v"]'), text => text.replace('{"t":"v"}', 'null'), text => text.replace('"t":"v"', '"__proto__":"v"'), text => text.replace('{', '{"__proto__":{"x":1},'),
    text => text.replace('"kind":"response"', '"kind":"other"'), text => text.replace('"label":"/a?b=1"', '"label":1'), text => text.replace('"length":7', '"length":8'), text => text.replace(',"length":7', ''), text => text + 'x']
  for (const [i, bytes] of [...bad, ...changes.map(tampered)].entries()) t.equal(decodeFrame(bytes).entry, undefined, String(i))
  t.equal(Reflect.get({}, 'x'), undefined)
})

t.test('whatever byte of a frame changes, it is read without an error, and as nothing that cannot be used', async t => {
  const good = encodeFrame(entry)
  for (let i = 0; i < good.length; i++) {
    for (const mask of [0xff, 0x01, 0x20, 0x80]) {
      const flipped = Buffer.from(good)
      flipped[i] = (flipped[i] ?? 0) ^ mask
      const found = decodeFrame(flipped).entry
      if (isResponse(found)) t.ok(Number.isFinite(usabilityOf(found, 2000).age))
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), bytes => { isResponse(decodeFrame(Buffer.from(bytes)).entry) }))
  fc.assert(fc.property(fc.jsonValue(), value => {
    const found = decodeFrame(tampered(() => JSON.stringify(value))).entry
    return found === undefined || typeof found.label === 'string'
  }))
})

t.test('only a response that can be sent is one', async t => {
  t.equal(isResponse(entry), true)
  const bad: Array<Record<string, unknown>> = [{ status: 199 }, { status: 600 }, { status: 200.5 }, { status: '200' }, { headers: null }, { headers: { a: 'x\r\n' } }, { headers: [] }, { vary: null }, { vary: [] }, { age: null }, { age: Infinity },
    { fresh: '1' }, { fresh: NaN }, { staleWhileRevalidate: undefined }, { staleIfError: undefined }, { strict: 0 }, { validateAlways: 'no' }, { vary: JSON.parse('{"__proto__":"x"}') }]
  for (const change of bad) t.equal(isResponse({ ...entry, meta: { ...meta, ...change } } as Entry), false, JSON.stringify(change))
  for (const other of [undefined, { ...entry, kind: 'value' as const }, { ...entry, meta: null }, { ...entry, meta: [] }]) t.equal(isResponse(other), false)
})

t.test('only a list of variants and a value that can be used are such', async t => {
  const variants = { names: ['a'], nonce: 'n', origin: '', ids: ['i'] }
  t.equal(isVariants({ ...entry, kind: 'variants', meta: variants }), true)
  for (const change of [{ names: 'a' }, { names: [1] }, { nonce: 1 }, { origin: undefined }, { ids: null }, { ids: [null] }]) t.equal(isVariants({ ...entry, kind: 'variants', meta: { ...variants, ...change } }), false, JSON.stringify(change))
  t.equal(isVariants({ ...entry, meta: variants }), false)
  t.equal(isVariants(undefined), false)
  const value = { fresh: 1, staleWhileRevalidate: 0, staleIfError: 0, format: 'json' }
  t.equal(isValue({ ...entry, kind: 'value', meta: value }), true)
  for (const change of [{ fresh: '1' }, { fresh: NaN }, { staleWhileRevalidate: null }, { staleIfError: '0' }, { format: undefined }]) t.equal(isValue({ ...entry, kind: 'value', meta: { ...value, ...change } }), false, JSON.stringify(change))
  t.equal(isValue({ ...entry, meta: value }), false)
  t.equal(isValue(undefined), false)
})

t.test('an answer ages from when it was stored, and never grows younger', async t => {
  const table: Array<[now: number, age: number, freshFor: number]> = [[1000, 3000, 5000], [1001, 3001, 4999], [6000, 8000, 0], [6001, 8001, -1], [0, 3000, 5000]]
  for (const [now, age, freshFor] of table) t.match(usabilityOf(entry, now), { age, freshFor, staleWhileRevalidate: 10, staleIfError: 20, strict: false, validateAlways: false }, String(now))
})
