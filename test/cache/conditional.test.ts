import fc from 'fast-check'
import t from 'tap'
import { isNotModified, matchesEtag, parseEntityTags, validationHeaders } from '../../plugins/cache/conditional.js'

const AT = Date.UTC(1994, 10, 6, 8, 49, 37)
const date = (seconds: number) => new Date(AT + seconds * 1000).toUTCString()

t.test('a list of entity tags is read up to what is none', async t => {
  const table: Array<[string, string[]]> = [
    ['', []], ['"a"', ['"a"']], ['W/"a"', ['W/"a"']], ['"a", W/"b"', ['"a"', 'W/"b"']], ['"a",W/"b"', ['"a"', 'W/"b"']], [',, "a" ,\t,"b",', ['"a"', '"b"']], ['""', ['""']], ['"a,b", "c"', ['"a,b"', '"c"']],
    ['"a\\"', ['"a\\"']], ['"é"', ['"é"']], ['a', []], ["'a'", []], ['w/"a"', []], ['"a" "b"', []], ['"a", b, "c"', ['"a"']], ['"a', []], ['"a b"', []], ['"\u0000"', []], ['*', []], ['W/ "a"', []]
  ]
  for (const [field, expected] of table) t.same(parseEntityTags(field), expected, field)
})

t.test('If-None-Match is compared weakly, in lists and with *', async t => {
  const table: Array<[string, string | undefined, boolean]> = [
    ['"x"', '"x"', true], ['W/"x"', '"x"', true], ['"x"', 'W/"x"', true], ['W/"x"', 'W/"x"', true], ['"a", W/"x"', '"x"', true], ['*', '"x"', true], [' * ', undefined, true], ['"y"', '"x"', false], ['x', '"x"', false],
    ['x', 'x', false], ['', '"x"', false], ['"x"', undefined, false], ['"X"', '"x"', false], ['"W/x"', 'W/"x"', false], ['"*"', '"x"', false], ['*, "y"', '"x"', false], ['"x", *', '"x"', true]
  ]
  for (const [field, etag, expected] of table) t.equal(matchesEtag(field, etag), expected, `${field} ${etag}`)
})

t.test('a date counts only where there is no entity tag to compare, and is compared with when it was modified, else made', async t => {
  const stored = { etag: '"x"', lastModified: date(0), date: AT + 60_000 }
  const table: Array<[string | undefined, string | undefined, Partial<typeof stored> | { lastModified: string | undefined }, boolean]> = [
    [undefined, undefined, {}, false], ['"x"', undefined, {}, true], ['"x"', date(-9), {}, true], ['"y"', date(9), {}, false], ['', date(9), {}, false],
    [undefined, date(0), {}, true], [undefined, date(1), {}, true], [undefined, date(-1), {}, false], [undefined, 'yesterday', {}, false], [undefined, '', {}, false],
    [undefined, date(59), { lastModified: undefined }, false], [undefined, date(60), { lastModified: undefined }, true], [undefined, date(60), { lastModified: 'x' }, true]
  ]
  for (const [etag, since, rest, expected] of table) t.equal(isNotModified(etag, since, { ...stored, ...rest }), expected, `${etag} ${since}`)
})

t.test('is asked whether it is right what has a validator, with all that it has', async t => {
  t.same(validationHeaders({ etag: undefined, lastModified: undefined, date: 0 }), {})
  t.same(validationHeaders({ etag: 'W/"x"', lastModified: undefined, date: 0 }), { 'if-none-match': 'W/"x"' })
  t.same(validationHeaders({ etag: '"x"', lastModified: date(0), date: 0 }), { 'if-none-match': '"x"', 'if-modified-since': date(0) })
})

t.test('an entity tag is found wherever it is in a list', async () => {
  const tag = fc.tuple(fc.boolean(), fc.string({ unit: fc.constantFrom(...'ab,*W/\\!~') })).map(([weak, opaque]) => `${weak ? 'W/' : ''}"${opaque}"`)
  fc.assert(fc.property(fc.array(tag, { minLength: 1 }), fc.nat(), (tags, at) => {
    const field = tags.join(', ')
    return parseEntityTags(field).join(', ') === field && matchesEtag(field, tags[at % tags.length])
  }))
})

t.test('no field makes it throw, or take long', async t => {
  fc.assert(fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom(...'W/", a*') })), field => { matchesEtag(field, '"x"') }))
  const started = performance.now()
  for (const field of [','.repeat(65_536), '"a",'.repeat(16_384), '"'.repeat(65_536), 'W/'.repeat(32_768), `"${'a'.repeat(65_536)}`]) matchesEtag(field, '"x"')
  t.ok(performance.now() - started < 2000)
})
