import fc from 'fast-check'
import t from 'tap'
import { normalizeSelecting, parseVary } from '../../plugins/cache/vary.js'

t.test('Vary is a set of names in lower case, or everything', async t => {
  const table: Array<[string | undefined, string[] | '*']> = [
    [undefined, []], ['', []], [' , ', []], ['Accept', ['accept']], ['B, a ,, A,b', ['a', 'b']], ['*', '*'], ['accept, *', '*'], [' * ', '*'], ['__proto__', ['__proto__']]
  ]
  for (const [field, expected] of table) t.strictSame(parseVary(field), expected, String(field))
})

t.test('spellings that mean the same select the same', async t => {
  const table: Array<[string, string | string[], string | string[]]> = [
    ['accept', 'a, b', 'a,b'], ['accept', ' a ,\tb ', 'a,b'], ['accept', ['a', 'b'], 'a, b'], ['x-a', 'a  b', 'a b'],
    ['accept-encoding', 'gzip, br', 'br, gzip'], ['accept-encoding', 'GZIP', 'gzip'], ['accept-encoding', 'gzip;q=1', 'gzip'], ['accept-encoding', 'gzip;q=1.000', 'gzip ; q=1'], ['accept-encoding', 'gzip;q=.5'.replace('.', '0.'), 'gzip; Q=0.50'],
    ['accept-encoding', 'gzip;q=0.5, br', 'br, gzip;q=0.5'], ['accept-encoding', 'gzip,,', 'gzip'], ['accept-language', 'en;q=0.5, FR', 'fr, en;q=0.5']
  ]
  for (const [name, one, other] of table) t.equal(normalizeSelecting(name, one), normalizeSelecting(name, other), `${name}: ${String(one)} | ${String(other)}`)
})

t.test('what may mean something else selects something else', async t => {
  const table: Array<[string, string | undefined, string | undefined]> = [
    ['x-a', undefined, ''], ['accept-encoding', undefined, ''], ['accept-encoding', undefined, 'gzip;q=0'], ['accept-encoding', 'gzip', 'gzip, identity;q=0'], ['accept-encoding', '*', '*, gzip;q=0'],
    ['accept-encoding', '', 'identity;q=0'], ['accept-encoding', 'gzip;q=0', 'gzip;q=x'], ['accept-encoding', 'gzip', 'gzip;q=x'], ['accept-encoding', 'gzip;q=0.5', 'gzip;q=0.6'],
    ['accept-language', 'en, fr', 'fr, en'], ['accept-language', 'en;q=0.5, fr;q=0.5', 'fr;q=0.5, en;q=0.5'], ['accept-language', 'en', 'en-GB'], ['accept-language', 'fr', 'fr, en;q=0'],
    ['x-a', 'a', 'A'], ['x-a', 'a,b', 'b,a'], ['x-a', '"a, b"', '"a,b"'], ['x-a', '"a  b"', '"a b"'], ['x-a', 'a b', 'ab'], ['accept', 'a;q=1', 'a'], ['x-a', 'a,', 'a']
  ]
  for (const [name, one, other] of table) t.not(normalizeSelecting(name, one), normalizeSelecting(name, other), `${name}: ${one} | ${other}`)
})

t.test('a name that every object has is a header that is not there', async t => {
  const headers: Record<string, string | string[] | undefined> = {}
  for (const name of ['constructor', 'toString', '__proto__', 'hasOwnProperty']) t.equal(normalizeSelecting(name, headers[name]), normalizeSelecting(name, undefined), name)
})

t.test('what is normalised stays as it is when it is normalised again', async () => {
  const value = fc.oneof(fc.string(), fc.array(fc.constantFrom('gzip', 'br;q=0.5', 'br;q=0', '*;q=0', 'a;q=x', 'x;y=1;q=0.1', '', ' ', ';q=1', '"a, b"')).map(parts => parts.join()))
  fc.assert(fc.property(fc.constantFrom('accept-encoding', 'accept-language', 'x-a'), value, (name, given) => {
    const once = normalizeSelecting(name, given)
    return normalizeSelecting(name, once) === once
  }), { numRuns: 1000 })
})
