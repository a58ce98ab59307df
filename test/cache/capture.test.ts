import { PassThrough, Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import fc from 'fast-check'
import t from 'tap'
import { capture } from '../../plugins/cache/capture.js'

const chunks = (...parts: Array<string | Buffer>) => Readable.from(parts, { objectMode: false })
/** What is sent, and what is kept of it. */
async function run (payload: unknown, maxSize = 100, declared?: number) {
  const captured = capture(payload, maxSize, declared)
  const sent = captured.payload instanceof Readable ? await text(captured.payload).catch(() => 'broken') : captured.payload
  return { sent, kept: (await captured.body)?.toString() }
}

t.test('a body that is there is kept whole, where it is not too long', async t => {
  const bytes = new Uint8Array([120, 97, 98, 120]).subarray(1, 3)
  const table: Array<[unknown, string | undefined]> = [['ab', 'ab'], ['', ''], [null, ''], [undefined, ''], [Buffer.from('ab'), 'ab'], [bytes, 'ab'], ['é', 'é'], ['abc', undefined], ['éé', undefined], [Buffer.alloc(3), undefined], [{}, undefined], [5, undefined]]
  for (const [payload, expected] of table) {
    const { sent, kept } = await run(payload, 2)
    t.equal(kept, expected)
    t.equal(sent, payload, 'it is sent as it is')
  }
})

t.test('a stream is kept while it is sent, and is sent as it is', async t => {
  t.same(await run(chunks('a', Buffer.from('b'), 'é')), { sent: 'abé', kept: 'abé' })
  t.same(await run(chunks()), { sent: '', kept: '' }, 'an empty one')
  const encoded = chunks(Buffer.from('é').subarray(0, 1), Buffer.from('é').subarray(1))
  t.same(await run(encoded.setEncoding('utf8')), { sent: 'é', kept: 'é' }, 'one of texts')
  t.same(await run(new Blob(['a', 'b']).stream()), { sent: 'ab', kept: 'ab' }, 'one of the web')
  const big = Buffer.alloc(1_000_000, 'a').toString()
  t.same(await run(chunks(...Array.from({ length: 16 }, (_, i) => big.slice(i * 62_500, (i + 1) * 62_500))), 1_000_000), { sent: big, kept: big }, 'a long one')
})

t.test('a stream that is too long is sent, and not kept', async t => {
  t.same(await run(chunks('ab', 'c'), 3), { sent: 'abc', kept: 'abc' })
  t.same(await run(chunks('ab', 'cd'), 3), { sent: 'abcd', kept: undefined })
  const source = chunks('abcd')
  t.equal(capture(source, 3, 4).payload, source, 'nothing stands in the way where it says so before')
  t.same(await run(source, 3, 4), { sent: 'abcd', kept: undefined })
})

t.test('a stream that is not as long as it said is not kept', async t => {
  t.same(await run(chunks('ab'), 9, 2), { sent: 'ab', kept: 'ab' })
  t.same(await run(chunks('ab'), 9, 3), { sent: 'ab', kept: undefined })
  t.same(await run(chunks('ab'), 9, 1), { sent: 'ab', kept: undefined })
  t.same(await run(chunks(), 9, 0), { sent: '', kept: '' })
})

t.test('a stream that breaks off or fails is not kept, and whoever reads it hears of it', async t => {
  const failing = Readable.from((async function * () { yield 'a'; throw new Error('lost') })())
  t.same(await run(failing), { sent: 'broken', kept: undefined })
  const broken = new PassThrough()
  const result = run(broken)
  broken.write('a')
  setImmediate(() => broken.destroy())
  t.same(await result, { sent: 'broken', kept: undefined })
  const web = new ReadableStream({ start (controller) { controller.enqueue(Buffer.from('a')) }, pull (controller) { controller.error(new Error('lost')) } })
  t.same(await run(web), { sent: 'broken', kept: undefined })
})

t.test('a stream that was over before it was sent is left to whoever sends it', async t => {
  const over = new PassThrough()
  over.destroy()
  await new Promise(resolve => over.once('close', resolve))
  const { payload, body } = capture(over, 9, undefined)
  t.equal(payload, over)
  t.equal(body, undefined)
})

t.test('when nobody reads on, the source is ended and nothing is kept', async t => {
  const source = new PassThrough()
  const { payload, body } = capture(source, 9, undefined)
  source.write('a')
  if (payload instanceof Readable) payload.destroy()
  t.equal(await body, undefined)
  t.equal(source.destroyed, true)
})

t.test('what is kept is what was sent, wherever the chunks begin', async () => {
  await fc.assert(fc.asyncProperty(fc.array(fc.uint8Array({ minLength: 1, maxLength: 9 }), { maxLength: 9 }), fc.nat(40), async (parts, maxSize) => {
    const whole = Buffer.concat(parts)
    const { payload, body } = capture(chunks(...parts.map(part => Buffer.from(part))), maxSize, undefined)
    const sent = Buffer.concat(await (payload as Readable).toArray())
    const kept = await body
    return sent.equals(whole) && (whole.length <= maxSize ? kept?.equals(whole) === true : kept === undefined)
  }))
})
