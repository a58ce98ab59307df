import { PassThrough, Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import fc from 'fast-check'
import t from 'tap'
import { capture } from '../../plugins/cache/http/body/body-capture.js'
import { isValue } from '../../plugins/cache/data/value-codec.js'
import { type Entry, isVariants } from '../../plugins/cache/store/entry.js'
import { isResponse, type StoredResponse, timeFor } from '../../plugins/cache/http/stored-response.js'
import { decodeEntry, encodeEntry, TOKEN_RANGE } from '../../plugins/cache/store/entry-codec.js'
import { EntryDecoder } from '../../plugins/cache/store/entry-decoder.js'
import { freshenedHeaders, isHeaders, joined, requestDirectives, storedHeaders } from '../../plugins/cache/rfc/stored-headers.js'

// Encoded entries

const meta = { status: 200, headers: { etag: '"x"', link: ['a', 'b'] }, vary: { accept: 'a' }, generatedAt: -2000, staleAt: 6000, revalidateUntil: 6010, serveOnErrorUntil: 6020, mustRevalidate: false, noCache: false }
const entry: StoredResponse = { kind: 'response', label: '/a?b=1', meta, body: Buffer.from('{"a":1}'), storedAt: 1000, deleteAt: 1500, tags: { t: 'v' } }
const HEAD = 17

t.test('an entry is decoded as it was encoded, with any bytes in its body', async t => {
  for (const body of [Buffer.alloc(0), Buffer.from('text é'), Buffer.from(Array.from({ length: 256 }, (_, i) => i))]) t.strictSame(decodeEntry(encodeEntry({ ...entry, body })).entry, { ...entry, body })
  const text = fc.string({ unit: 'binary' })
  const anything = fc.record({
    kind: fc.constantFrom('response' as const, 'variants' as const, 'value' as const),
    label: text,
    meta: fc.jsonValue().filter(value => !JSON.stringify(value).includes('-0')),
    body: fc.uint8Array().map(bytes => Buffer.from(bytes)),
    storedAt: fc.nat(),
    deleteAt: fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }).map(value => value + 0),
    tags: fc.dictionary(text.filter(name => name !== '__proto__'), text, { noNullPrototype: true })
  })
  fc.assert(fc.property(anything, given => { t.same(decodeEntry(encodeEntry(given)).entry, JSON.parse(JSON.stringify(given), (key, value) => key === 'body' ? given.body : value)) }))
})

t.test('encoded copies are decoded as they were encoded, and an entry with damaged copies is a miss', async t => {
  const whole = { ...entry, encoded: { gzip: Buffer.from([0, 1, 255]), br: Buffer.alloc(0) } }
  const good = encodeEntry(whole)
  t.strictSame(decodeEntry(good).entry, whole)
  const lengths = (text: string) => tampered(meta => meta.replace(/}$/, `,"encoded":${text}}`), Buffer.from('abc'))
  t.match(decodeEntry(lengths('{"gzip":3}')).entry, { body: entry.body, encoded: { gzip: Buffer.from('abc') } })
  const bad = [good.subarray(0, -1), Buffer.concat([good, Buffer.from('x')]), encodeEntry({ ...whole, kind: 'value' }), ...['{"gzip":2}', '{"gzip":4}', '{"gzip":-1,"br":4}', '{"gzip":"3"}', '{"gzip":1e9}', '{"g z":3}', '{"__proto__":3}', '[3]', '3', 'null'].map(lengths)]
  for (const [i, bytes] of bad.entries()) t.equal(decodeEntry(bytes).entry, undefined, String(i))
})

t.test('each entry has a token of its own, where the scripts look for it', async t => {
  const frames = Array.from({ length: 100 }, (_, i) => encodeEntry(i % 2 ? entry : 'tombstone'))
  const tokens = frames.map(frame => decodeEntry(frame).token)
  t.equal(new Set(tokens).size, 100)
  for (const [i, frame] of frames.entries()) t.equal(frame.toString('latin1', TOKEN_RANGE[0], TOKEN_RANGE[1] + 1), tokens[i])
  t.match(tokens[0], /^[\w-]{12}$/)
})

t.test('a tombstone decodes to no entry, and has a token', async t => {
  const frame = encodeEntry('tombstone')
  t.equal(frame.length, HEAD)
  t.match(decodeEntry(frame), { token: /^[\w-]{12}$/, entry: undefined })
})

function tampered (change: (text: string) => string, copies = Buffer.alloc(0)): Buffer {
  const good = encodeEntry(entry)
  const rest = Buffer.from(change(good.toString('utf8', HEAD, HEAD + good.readUInt32BE(HEAD - 4))))
  const head = Buffer.from(good.subarray(0, HEAD))
  head.writeUInt32BE(rest.length, HEAD - 4)
  return Buffer.concat([head, rest, entry.body, copies])
}

t.test('bytes that are damaged, cut, of another version or tampered with decode to no entry', async t => {
  const good = encodeEntry(entry)
  t.ok(decodeEntry(tampered(text => text)).entry)
  const long = Buffer.from(good)
  long.writeUInt32BE(2 ** 32 - 1, HEAD - 4)
  const bad: Buffer[] = [
    Buffer.alloc(0), Buffer.from('x'), Buffer.from('not a frame at all'), good.subarray(0, 10), good.subarray(0, HEAD), good.subarray(0, -1), Buffer.concat([good, Buffer.from('x')]), Buffer.alloc(HEAD), Buffer.alloc(100), long,
    Buffer.concat([Buffer.from([1]), good.subarray(1)]), Buffer.concat([Buffer.from([2]), good.subarray(1)]), Buffer.concat([Buffer.from([4]), good.subarray(1)])
  ]
  const changes: Array<(text: string) => string> = [() => '[]', () => 'null', () => '1', () => '{', () => '', () => '{}', text => text.replace('"deleteAt":1500', '"deleteAt":"1500"'), text => text.replace('"deleteAt":1500', '"deleteAt":-1'),
    text => text.replace('"deleteAt":1500', '"deleteAt":1e999'), text => text.replace('"deleteAt":1500', '"deleteAt":null'), text => text.replace('"storedAt":1000', '"storedAt":-1'), text => text.replace('"t":"v"', '"t":5'),
    text => text.replace('{"t":"v"}', '["v"]'), text => text.replace('{"t":"v"}', 'null'), text => text.replace('"t":"v"', '"__proto__":"v"'), text => text.replace('{', '{"__proto__":{"x":1},'),
    text => text.replace('"kind":"response"', '"kind":"other"'), text => text.replace('"label":"/a?b=1"', '"label":1'), text => text.replace('"length":7', '"length":8'), text => text.replace(',"length":7', ''), text => text + 'x']
  for (const [i, bytes] of [...bad, ...changes.map(change => tampered(change))].entries()) t.equal(decodeEntry(bytes).entry, undefined, String(i))
  t.equal(Reflect.get({}, 'x'), undefined)
})

t.test('an entry with any byte changed is decoded without an error, and never to a response that cannot be sent', async t => {
  const good = encodeEntry(entry)
  for (let i = 0; i < good.length; i++) {
    for (const mask of [0xff, 0x01, 0x20, 0x80]) {
      const flipped = Buffer.from(good)
      flipped[i] = (flipped[i] ?? 0) ^ mask
      const found = decodeEntry(flipped).entry
      if (isResponse(found)) t.ok(Number.isFinite(2000 - found.meta.generatedAt))
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), bytes => { isResponse(decodeEntry(Buffer.from(bytes)).entry) }))
  fc.assert(fc.property(fc.jsonValue(), value => {
    const found = decodeEntry(tampered(() => JSON.stringify(value))).entry
    return found === undefined || typeof found.label === 'string'
  }))
})

const flatResponse: StoredResponse = { ...entry, meta: { ...meta, headers: { etag: '"x"', 'content-type': 'text/plain' }, absent: ['cookie'] }, tags: { t: 'v', '\0/a': '1' } }
const flatValue: Entry = { ...entry, kind: 'value', meta: { staleAt: 6000, revalidateUntil: 6010, format: 'json' } }
const isJson = (frame: Buffer) => frame[HEAD] === 0x7b

t.test('the metadata of a response or a value is flat, and is decoded as it was encoded', async t => {
  const line = fc.string({ unit: fc.integer({ min: 0, max: 127 }).filter(code => code !== 10).map(code => String.fromCharCode(code)) })
  const texts = fc.dictionary(line.filter(name => name !== '__proto__'), line, { noNullPrototype: true })
  const time = fc.double({ noNaN: true })
  const since = fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }).map(value => value + 0)
  const common = { label: line, storedAt: since, deleteAt: since, tags: texts, body: fc.uint8Array().map(bytes => Buffer.from(bytes)) }
  const times = { staleAt: time, revalidateUntil: time, generatedAt: time, serveOnErrorUntil: time }
  const response = fc.record({ ...common, kind: fc.constant('response' as const), meta: fc.record({ status: fc.nat(65_535), headers: texts, vary: texts, ...times, mustRevalidate: fc.boolean(), noCache: fc.boolean(), absent: fc.array(line, { minLength: 1 }) }, { requiredKeys: ['status', 'headers', 'vary', 'staleAt', 'revalidateUntil', 'generatedAt', 'serveOnErrorUntil', 'mustRevalidate', 'noCache'], noNullPrototype: true }) }, { noNullPrototype: true })
  const value = fc.record({ ...common, kind: fc.constant('value' as const), meta: fc.record({ staleAt: time, revalidateUntil: time, format: line, isAbsent: fc.constant(true) }, { requiredKeys: ['staleAt', 'revalidateUntil', 'format'], noNullPrototype: true }) }, { noNullPrototype: true })
  const found = value.map(given => 'isAbsent' in given.meta ? { ...given, body: Buffer.alloc(0) } : given)
  fc.assert(fc.property(fc.oneof(response, found), given => {
    const frame = encodeEntry(given)
    t.notOk(isJson(frame))
    t.strictSame(decodeEntry(frame).entry, given)
  }))
})

t.test('a value with bytes that is marked as none is damaged', async t => {
  const none = { ...flatValue, meta: { staleAt: 6000, revalidateUntil: 6010, format: 'json', isAbsent: true } }
  t.strictSame(decodeEntry(encodeEntry({ ...none, body: Buffer.alloc(0) })).entry, { ...none, body: Buffer.alloc(0) })
  const frame = encodeEntry(flatValue)
  t.strictSame(decodeEntry(frame).entry, flatValue)
  frame[HEAD + 1]! |= 4
  t.equal(decodeEntry(frame).entry, undefined)
})

t.test('an entry that is read again is decoded as if it were read once, whatever its bytes are by then', async t => {
  const decoder = new EntryDecoder()
  const [one, other] = [flatResponse, flatValue].map(given => encodeEntry(given)) as [Buffer, Buffer]
  const tampered = fc.tuple(fc.constantFrom(one, other), fc.nat(one.length - 1), fc.nat(7)).map(([frame, at, bit]) => {
    const bytes = Buffer.from(frame)
    if (at < bytes.length) bytes[at]! ^= 1 << bit
    return bytes
  })
  const frame = fc.oneof(fc.constantFrom(one, other), tampered, fc.nat(one.length).map(length => one.subarray(0, length)))
  fc.assert(fc.property(fc.constantFrom('a', 'b'), frame, (key, bytes) => t.strictSame(decoder.decode(key, Buffer.from(bytes)), decodeEntry(bytes))), { numRuns: 1000 })
})

t.test('metadata without a flat form is JSON, as all metadata was, and is decoded as well', async t => {
  const odd: Entry[] = [
    { ...flatResponse, label: '/é' }, { ...flatResponse, label: '/a\nb' }, { ...flatResponse, tags: { 'a\nb': 'v' } }, { ...flatResponse, encoded: { gzip: Buffer.from('x') } },
    { ...flatResponse, tags: Object.fromEntries(Array.from({ length: 40_000 }, (_, i) => [`t${i}`, 'v'])) }, { ...flatValue, label: '\ud800' }
  ]
  const metas: Array<Record<string, unknown>> = [{ headers: { link: ['a', 'b'] } }, { headers: { 'x-a': 'é' } }, { vary: { a: 'b\nc' } }, { absent: [] }, { status: 70_000 }, { status: 1.5 }, { status: '200' }, { staleAt: '1' }, { noCache: 0 }, { more: 1 }]
  odd.push(...metas.map(change => ({ ...flatResponse, meta: { ...flatResponse.meta, ...change } })), { ...flatValue, meta: { staleAt: 1, revalidateUntil: 1, format: 5 } }, { ...flatValue, meta: { staleAt: 1, revalidateUntil: 1, format: 'json', isAbsent: false } })
  for (const [i, given] of odd.entries()) {
    const frame = encodeEntry(given)
    t.ok(isJson(frame), String(i))
    t.strictSame(decodeEntry(frame).entry, given, String(i))
  }
  const { body, ...rest } = flatResponse
  t.strictSame(decodeEntry(withMeta(Buffer.from(JSON.stringify({ ...rest, length: body.length })), body)).entry, flatResponse, 'an entry of an earlier version of the suite')
})

/** An entry with other metadata. */
function withMeta (metadata: Buffer, body: Buffer): Buffer {
  const head = Buffer.from(encodeEntry('tombstone'))
  head.writeUInt32BE(metadata.length, HEAD - 4)
  return Buffer.concat([head, metadata, body])
}

t.test('an earlier version of the suite reads flat metadata as damaged', async t => {
  for (const given of [flatResponse, flatValue]) {
    const frame = encodeEntry(given)
    t.throws(() => JSON.parse(frame.toString('utf8', HEAD, HEAD + frame.readUInt32BE(HEAD - 4))), SyntaxError)
  }
})

t.test('flat metadata that is damaged or cut decodes to no entry, and never to a response that cannot be sent', async t => {
  const [times, counts, texts] = [8, 56, 62]
  for (const given of [flatResponse, flatValue]) {
    const good = encodeEntry(given)
    const end = HEAD + good.readUInt32BE(HEAD - 4)
    const changed = (change: (metadata: Buffer) => Buffer | undefined) => {
      const copy = Buffer.from(good.subarray(HEAD, end))
      return withMeta(change(copy) ?? copy, given.body)
    }
    t.strictSame(decodeEntry(changed(() => undefined)).entry, given)
    const bad = [
      good.subarray(0, -1), Buffer.concat([good, Buffer.from('x')]), good.subarray(0, end - 1), changed(bytes => bytes.subarray(0, texts)), changed(bytes => bytes.subarray(0, texts - 1)), changed(bytes => bytes.subarray(0, 1)),
      changed(bytes => { bytes[0] = 0x7a }), ...[NaN, Infinity, -1].map(time => changed(bytes => { bytes.writeDoubleBE(time, times) })), changed(bytes => { bytes.writeUInt16BE(0xffff, counts) }), changed(bytes => Buffer.from(bytes.toString('latin1').replace('t\nv', '__proto__\nv'), 'latin1'))
    ]
    for (const [i, frame] of bad.entries()) t.equal(decodeEntry(frame).entry, undefined, `${given.kind} ${i}`)
    for (let i = 0; i < good.length; i++) {
      for (const mask of [0xff, 0x01, 0x20, 0x80]) {
        const flipped = Buffer.from(good)
        flipped[i] = (flipped[i] ?? 0) ^ mask
        const found = decodeEntry(flipped).entry
        if (isResponse(found)) t.ok(isHeaders(found.meta.headers) && Number.isFinite(2000 - found.meta.generatedAt))
        if (isValue(found)) t.type(found.meta.format, 'string')
      }
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), bytes => { isResponse(decodeEntry(changed(copy => Buffer.concat([copy.subarray(0, 1), bytes]))).entry) }))
  }
  t.equal(Reflect.get({}, 't'), undefined)
})

t.test('only an entry that can be sent is a response', async t => {
  t.equal(isResponse(entry), true)
  const bad: Array<Record<string, unknown>> = [{ status: 199 }, { status: 600 }, { status: 200.5 }, { status: '200' }, { headers: null }, { headers: { a: 'x\r\n' } }, { headers: [] }, { vary: null }, { vary: [] }, { generatedAt: null }, { generatedAt: Infinity },
    { staleAt: '1' }, { staleAt: NaN }, { revalidateUntil: undefined }, { serveOnErrorUntil: undefined }, { mustRevalidate: 0 }, { noCache: 'no' }, { vary: JSON.parse('{"__proto__":"x"}') }]
  for (const change of bad) t.equal(isResponse({ ...entry, meta: { ...meta, ...change } } as Entry), false, JSON.stringify(change))
  for (const other of [undefined, { ...entry, kind: 'value' as const }, { ...entry, meta: null }, { ...entry, meta: [] }]) t.equal(isResponse(other), false)
})

t.test('only a valid list of variants and a valid value are accepted', async t => {
  const variants = { names: ['a'], nonce: 'n', origin: '', ids: ['i'] }
  t.equal(isVariants({ ...entry, kind: 'variants', meta: variants }), true)
  for (const change of [{ names: 'a' }, { names: [1] }, { nonce: 1 }, { origin: undefined }, { ids: null }, { ids: [null] }]) t.equal(isVariants({ ...entry, kind: 'variants', meta: { ...variants, ...change } }), false, JSON.stringify(change))
  t.equal(isVariants({ ...entry, meta: variants }), false)
  t.equal(isVariants(undefined), false)
  const value = { staleAt: 1, revalidateUntil: 1, format: 'json' }
  t.equal(isValue({ ...entry, kind: 'value', meta: value }), true)
  for (const change of [{ staleAt: '1' }, { staleAt: NaN }, { revalidateUntil: null }, { format: undefined }]) t.equal(isValue({ ...entry, kind: 'value', meta: { ...value, ...change } }), false, JSON.stringify(change))
  t.equal(isValue({ ...entry, meta: value }), false)
  t.equal(isValue(undefined), false)
})

t.test('a response ages from when it was stored, and its age never decreases', async t => {
  const table: Array<[now: number, age: number, freshFor: number]> = [[1000, 3000, 5000], [1001, 3001, 4999], [6000, 8000, 0], [6001, 8001, -1], [0, 3000, 5000]]
  for (const [now, age, freshFor] of table) {
    const time = timeFor(entry, now)
    t.same([time - entry.meta.generatedAt, entry.meta.staleAt - time], [age, freshFor], String(now))
  }
})

// Bodies

const chunks = (...parts: Array<string | Buffer>) => Readable.from(parts, { objectMode: false })
/** The bytes that are sent, and those that are captured. */
async function run (payload: unknown, maxSize = 100, declared?: number) {
  const captured = capture(payload, maxSize, declared)
  const sent = captured.payload instanceof Readable ? await text(captured.payload).catch(() => 'broken') : captured.payload
  return { sent, kept: (await captured.body).toString() }
}

t.test('a body in memory is captured whole, unless it is too long', async t => {
  const bytes = new Uint8Array([120, 97, 98, 120]).subarray(1, 3)
  const table: Array<[unknown, string]> = [['ab', 'ab'], ['', ''], [null, ''], [undefined, ''], [Buffer.from('ab'), 'ab'], [bytes, 'ab'], ['é', 'é'], ['abc', 'unstorable'], ['éé', 'unstorable'], [Buffer.alloc(3), 'unstorable'], [{}, 'unstorable'], [5, 'unstorable']]
  for (const [payload, expected] of table) {
    const { sent, kept } = await run(payload, 2)
    t.equal(kept, expected)
    t.equal(sent, payload, 'it is sent as it is')
  }
})

t.test('a stream is captured while it is sent, and sent unchanged', async t => {
  t.same(await run(chunks('a', Buffer.from('b'), 'é')), { sent: 'abé', kept: 'abé' })
  t.same(await run(chunks()), { sent: '', kept: '' }, 'an empty one')
  const encoded = chunks(Buffer.from('é').subarray(0, 1), Buffer.from('é').subarray(1))
  t.same(await run(encoded.setEncoding('utf8')), { sent: 'é', kept: 'é' }, 'one of texts')
  t.same(await run(new Blob(['a', 'b']).stream()), { sent: 'ab', kept: 'ab' }, 'one of the web')
  const big = Buffer.alloc(1_000_000, 'a').toString()
  t.same(await run(chunks(...Array.from({ length: 16 }, (_, i) => big.slice(i * 62_500, (i + 1) * 62_500))), 1_000_000), { sent: big, kept: big }, 'a long one')
})

t.test('a stream that is too long is sent, and not captured', async t => {
  t.same(await run(chunks('ab', 'c'), 3), { sent: 'abc', kept: 'abc' })
  t.same(await run(chunks('ab', 'cd'), 3), { sent: 'abcd', kept: 'unstorable' })
  const source = chunks('abcd')
  t.equal(capture(source, 3, 4).payload, source, 'nothing stands in the way where it says so before')
  t.same(await run(source, 3, 4), { sent: 'abcd', kept: 'unstorable' })
})

t.test('a stream that differs from its content-length is not captured', async t => {
  t.same(await run(chunks('ab'), 9, 2), { sent: 'ab', kept: 'ab' })
  t.same(await run(chunks('ab'), 9, 3), { sent: 'ab', kept: 'broken' })
  t.same(await run(chunks('ab'), 9, 1), { sent: 'ab', kept: 'broken' })
  t.same(await run(chunks(), 9, 0), { sent: '', kept: '' })
})

t.test('a stream that breaks off or fails is not stored, and its reader gets the error', async t => {
  const failing = Readable.from((async function * () { yield 'a'; throw new Error('lost') })())
  t.same(await run(failing), { sent: 'broken', kept: 'broken' })
  const broken = new PassThrough()
  const result = run(broken)
  broken.write('a')
  setImmediate(() => broken.destroy())
  t.same(await result, { sent: 'broken', kept: 'broken' })
  const web = new ReadableStream({ start (controller) { controller.enqueue(Buffer.from('a')) }, pull (controller) { controller.error(new Error('lost')) } })
  t.same(await run(web), { sent: 'broken', kept: 'broken' })
})

t.test('a stream that ended before it was sent is passed on unchanged', async t => {
  const over = new PassThrough()
  over.destroy()
  await new Promise(resolve => over.once('close', resolve))
  const { payload, body } = capture(over, 9, undefined)
  t.equal(payload, over)
  t.equal(body, 'broken')
})

t.test('when its reader stops, the source is destroyed and nothing is stored', async t => {
  const source = new PassThrough()
  const { payload, body } = capture(source, 9, undefined)
  source.write('a')
  if (payload instanceof Readable) payload.destroy()
  t.equal(await body, 'broken')
  t.equal(source.destroyed, true)
})

t.test('the captured bytes are those that were sent, with any boundaries of chunks', async () => {
  await fc.assert(fc.asyncProperty(fc.array(fc.uint8Array({ minLength: 1, maxLength: 9 }), { maxLength: 9 }), fc.nat(40), async (parts, maxSize) => {
    const whole = Buffer.concat(parts)
    const { payload, body } = capture(chunks(...parts.map(part => Buffer.from(part))), maxSize, undefined)
    const sent = Buffer.concat(await (payload as Readable).toArray())
    const kept = await body
    return sent.equals(whole) && (whole.length <= maxSize ? Buffer.isBuffer(kept) && kept.equals(whole) : kept === 'unstorable')
  }))
})

// Headers

t.test('hop-by-hop headers, headers of one response, and those that Connection names are not stored', async t => {
  const own = { 'content-type': 'text/plain', etag: '"x"', vary: 'accept', date: 'x', expires: '0', 'x-rate': '1', 'access-control-allow-origin': '*' }
  const others = ['keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-authentication-info', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'age', 'x-cache', 'cache-status',
    'content-length', 'ratelimit', 'ratelimit-policy', 'x-ratelimit-limit', 'x-a', 'x-b']
  const all = { ...own, ...Object.fromEntries(others.map(name => [name, 'v'])), connection: 'close, X-A ,x-b,' }
  t.strictSame(storedHeaders(all, {}), own)
  t.strictSame(storedHeaders({ 'x-a': '1', 'x-b': '2', connection: ['X-A', 'x-c'] }, {}), { 'x-b': '2' })
})

t.test('headers from before the handler are not stored, unless the handler changed them', async t => {
  const list = ['a']
  const before = { 'x-request-id': '1', vary: 'origin', n: 5, link: list }
  t.strictSame(storedHeaders({ 'x-request-id': '1', vary: 'origin, accept', n: 6, link: list, own: 'y' }, before), { vary: 'origin, accept', n: '6', own: 'y' })
})

t.test('header values are stored as text, and excluded headers are not stored', async t => {
  t.strictSame(storedHeaders({ a: 1, b: ['x', 2], c: undefined, d: true, 'set-cookie': ['a=1', 'b=2'] }, {}, ['d']), { a: '1', b: ['x', '2'], 'set-cookie': ['a=1', 'b=2'] })
  t.strictSame(storedHeaders({ 'set-cookie': 'a', 'x-a': '1' }, {}, ['set-cookie']), { 'x-a': '1' })
})

t.test('a 304 updates the stored headers, but not those of the body', async t => {
  const stored = { etag: '"old"', 'content-encoding': 'gzip', 'cache-control': 'max-age=1', 'x-kept': 'k' }
  const confirmed = { etag: '"new"', 'content-encoding': 'br', 'content-length': '0', 'content-range': 'bytes */1', 'content-md5': 'x', 'cache-control': 'max-age=9', 'x-new': ['n'] }
  t.strictSame(freshenedHeaders(stored, confirmed), { ...stored, 'cache-control': 'max-age=9', 'x-new': ['n'] })
  t.equal(stored['cache-control'], 'max-age=1')
})

t.test('only headers that can be sent are accepted', async t => {
  for (const good of [{}, { a: '' }, { 'x-a': 'b' }, { a: ['b', 'c'] }, { a: [] }, { a: '\t é~' }, { constructor: 'x' }]) t.equal(isHeaders(good), true, JSON.stringify(good))
  const bad: unknown[] = [undefined, null, 'a', 1, [], ['a'], { '': 'x' }, { 'a b': 'x' }, { 'a:': 'x' }, { é: 'x' }, { 'a\r\n': 'x' }, { a: 1 }, { a: null }, { a: undefined }, { a: {} }, { a: ['b', 1] }, { a: [['b']] },
    { a: 'x\r\ny' }, { a: 'x\n' }, { a: '\0' }, { a: '\u007f' }, { a: '\u0100' }, { a: ['x', 'y\r'] }, JSON.parse('{"__proto__":"x"}')]
  for (const value of bad) t.equal(isHeaders(value), false, JSON.stringify(value))
})

t.test('accepted headers can be set on a message', async t => {
  const { ServerResponse, IncomingMessage } = await import('node:http')
  const { Socket } = await import('node:net')
  const message = new ServerResponse(new IncomingMessage(new Socket()))
  const text = fc.oneof(fc.string(), fc.string({ unit: 'binary' }))
  fc.assert(fc.property(fc.dictionary(text, fc.oneof(text, fc.array(text, { maxLength: 2 }))), headers => {
    if (isHeaders(headers)) for (const [name, value] of Object.entries(headers)) message.setHeader(name, value)
  }), { numRuns: 500 })
  t.pass('none of them threw')
})

t.test('a field with several values is joined to one text', async t => {
  const table: Array<[unknown, string | undefined]> = [[undefined, undefined], ['a', 'a'], [['a', 'b'], 'a, b'], [5, '5'], [[], '']]
  for (const [value, expected] of table) t.equal(joined(value), expected)
})

t.test('the directives of a request are those of Cache-Control, else of Pragma; a malformed field has none', async t => {
  const table: Array<[Record<string, string | string[]>, string[] | undefined]> = [
    [{}, undefined], [{ 'cache-control': '' }, []], [{ 'cache-control': 'no-cache, max-age=5' }, ['no-cache', 'max-age']], [{ 'cache-control': ['no-cache', 'no-store'] }, ['no-cache', 'no-store']],
    [{ pragma: 'no-cache' }, ['no-cache']], [{ pragma: 'No-Cache, x' }, ['no-cache']], [{ pragma: 'x' }, undefined], [{ pragma: 'no-cache', 'cache-control': 'max-age=5' }, ['max-age']],
    [{ pragma: 'no-cache', 'cache-control': '' }, []], [{ 'cache-control': 'no-store=' }, undefined], [{ 'cache-control': 'a b' }, undefined]
  ]
  for (const [headers, expected] of table) {
    const found = requestDirectives(headers)
    t.same(found && [...found.keys()], expected, JSON.stringify(headers))
  }
})
