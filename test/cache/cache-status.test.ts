import fc from 'fast-check'
import { parseList, Token, type Item } from 'structured-headers'
import t from 'tap'
import { createCacheStatus, type CacheStatus } from '../../plugins/cache/cache-status.js'

const hit: CacheStatus = { outcome: 'HIT', fwd: undefined, fwdStatus: undefined, ttl: 5, stored: false, collapsed: false }
/** The one member of the field: its name, whether that is a token, and its parameters. */
function read (field: string) {
  const [member, ...more] = parseList(field)
  t.same(more, [])
  const [name, parameters] = member as Item
  return { name: String(name), isToken: name instanceof Token, parameters: Object.fromEntries([...parameters].map(([key, value]) => [key, value instanceof Token ? `token ${value.toString()}` : value])) }
}

t.test('what became of a request is a member of the field, as RFC 9211 has it', async t => {
  const describe = createCacheStatus('suite')
  const table: Array<[Partial<CacheStatus>, string | undefined, Record<string, unknown>]> = [
    [{}, undefined, { hit: true, ttl: 5 }], [{ ttl: undefined }, undefined, { hit: true }], [{ ttl: -7 }, undefined, { hit: true, ttl: -7 }], [{ ttl: 0 }, undefined, { hit: true, ttl: 0 }],
    [{ ttl: undefined, fwd: 'uri-miss', stored: true }, undefined, { fwd: 'token uri-miss', stored: true }], [{ ttl: undefined, fwd: 'uri-miss', collapsed: true }, undefined, { fwd: 'token uri-miss', collapsed: true }],
    [{ fwd: 'stale', fwdStatus: 304 }, undefined, { fwd: 'token stale', 'fwd-status': 304, ttl: 5 }], [{ ttl: undefined, fwd: 'bypass' }, 'session', { fwd: 'token bypass', detail: 'session' }],
    [{}, 'a "b" \\ c', { hit: true, ttl: 5, detail: 'a "b" \\ c' }], [{}, 'é\n\0🫖', { hit: true, ttl: 5, detail: '?????' }], [{}, 'x'.repeat(500), { hit: true, ttl: 5, detail: 'x'.repeat(200) }]
  ]
  for (const [change, detail, expected] of table) t.strictSame(read(describe({ ...hit, ...change }, detail)).parameters, expected, JSON.stringify(change))
})

t.test('the name is a token where it can be one, else a text', async t => {
  const table: Array<[string, boolean]> = [['suite', true], ['a.example:80/x', true], ['*', true], ["a!#$%&'*+-.^_`|~", true], ['1a', false], ['a b', false], ['a"b\\', false], ['(a)', false], ['a,b', false], ['a;hit', false], ['-', false]]
  for (const [name, isToken] of table) t.match(read(createCacheStatus(name)(hit)), { name, isToken, parameters: { hit: true } }, name)
})

t.test('whatever it tells can be read, is one member, and is a hit or was forwarded', async () => {
  const status = fc.record({
    outcome: fc.constantFrom('HIT' as const, 'MISS' as const),
    fwd: fc.constantFrom('bypass' as const, 'method' as const, 'uri-miss' as const, 'vary-miss' as const, 'miss' as const, 'request' as const, 'stale' as const, undefined),
    fwdStatus: fc.option(fc.integer({ min: 200, max: 599 }), { nil: undefined }),
    ttl: fc.option(fc.integer(), { nil: undefined }),
    stored: fc.boolean(),
    collapsed: fc.boolean()
  })
  const name = fc.string({ unit: fc.constantFrom(...'a1*"\\ ,;=()/:'), minLength: 1 })
  fc.assert(fc.property(name, status, fc.option(fc.string({ unit: 'binary' }), { nil: undefined }), (cache, given, detail) => {
    const { name: told, parameters } = read(createCacheStatus(cache)(given, detail))
    return told === cache && ('hit' in parameters) !== ('fwd' in parameters) && parameters['ttl'] === given.ttl && ('stored' in parameters) === given.stored
  }))
})
