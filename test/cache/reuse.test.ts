import fc from 'fast-check'
import t from 'tap'
import { parseCacheControl } from '../../plugins/cache/cache-control.js'
import { isUsableOnError, reuseOf, type Reuse, type Usability } from '../../plugins/cache/reuse.js'

const fresh: Usability = { age: 10_000, freshFor: 5000, staleWhileRevalidate: 0, staleIfError: 0, strict: false, validateAlways: false }
const stale: Usability = { ...fresh, age: 20_000, freshFor: -5000 }

t.test('what is fresh is used, what is stale is validated, and in its grace it is refreshed', async t => {
  const table: Array<[Usability, Reuse]> = [
    [fresh, 'use'], [{ ...fresh, freshFor: 1 }, 'use'], [{ ...fresh, freshFor: 0 }, 'validate'], [stale, 'validate'], [{ ...fresh, strict: true }, 'use'], [{ ...fresh, validateAlways: true }, 'validate'],
    [{ ...stale, staleWhileRevalidate: 5001 }, 'refresh'], [{ ...stale, staleWhileRevalidate: 5000 }, 'validate'], [{ ...fresh, freshFor: 0, staleWhileRevalidate: 1 }, 'refresh'],
    [{ ...stale, staleWhileRevalidate: 9000, strict: true }, 'validate'], [{ ...stale, staleWhileRevalidate: 9000, validateAlways: true }, 'validate'], [{ ...stale, staleIfError: 9000 }, 'validate'],
    [{ ...fresh, staleWhileRevalidate: 9000 }, 'use']
  ]
  for (const [stored, expected] of table) t.equal(reuseOf(stored, undefined), expected, JSON.stringify(stored))
})

t.test('a request may ask for what is fresher, or be content with what is stale', async t => {
  const table: Array<[Usability, string, Reuse]> = [
    [fresh, '', 'use'], [fresh, 'no-cache', 'validate'], [fresh, 'max-age=10', 'use'], [fresh, 'max-age=9', 'validate'], [fresh, 'max-age=0', 'validate'], [fresh, 'min-fresh=5', 'use'], [fresh, 'min-fresh=6', 'validate'],
    [stale, 'max-stale', 'use'], [stale, 'max-stale=6', 'use'], [stale, 'max-stale=5', 'validate'], [stale, 'max-stale=0', 'validate'], [stale, 'max-stale, no-cache', 'validate'],
    [{ ...stale, strict: true }, 'max-stale', 'validate'], [{ ...stale, validateAlways: true }, 'max-stale', 'validate'], [{ ...stale, staleWhileRevalidate: 9000 }, 'max-stale', 'refresh'],
    [stale, 'max-age=20, max-stale', 'use'], [stale, 'max-age=19, max-stale', 'validate'], [stale, 'min-fresh=1, max-stale', 'validate']
  ]
  for (const [stored, field, expected] of table) t.equal(reuseOf(stored, parseCacheControl(field)), expected, `${stored.freshFor} ${field}`)
})

t.test('a directive of a request that cannot be read asks for what is new', async t => {
  for (const field of ['max-age', 'max-age=x', 'max-age=-1', 'min-fresh', 'min-fresh=x']) t.equal(reuseOf(fresh, parseCacheControl(field)), 'validate', field)
  for (const field of ['max-stale=x', 'max-stale=-1', 'max-stale=""']) t.equal(reuseOf(stale, parseCacheControl(field)), 'validate', field)
})

t.test('in place of an error serves what is fresh, or stale for no longer than it may be', async t => {
  const table: Array<[Usability, boolean]> = [
    [fresh, true], [{ ...fresh, validateAlways: true }, false], [{ ...fresh, strict: true }, true], [stale, false], [{ ...stale, staleIfError: 5001 }, true], [{ ...stale, staleIfError: 5000 }, false],
    [{ ...stale, staleIfError: 9000, strict: true }, false], [{ ...stale, staleIfError: 9000, validateAlways: true }, false], [{ ...stale, staleWhileRevalidate: 9000 }, false]
  ]
  for (const [stored, expected] of table) t.equal(isUsableOnError(stored), expected, JSON.stringify(stored))
})

t.test('no request makes anybody use stale what must not be used stale', async () => {
  const times = fc.integer({ min: -10_000, max: 10_000 })
  const fields = fc.array(fc.constantFrom('max-stale', 'max-stale=9', 'max-age=99', 'min-fresh=0', 'only-if-cached', 'no-store', 'x')).map(all => all.join())
  fc.assert(fc.property(times, fc.nat(10_000), fc.boolean(), fields, (freshFor, grace, validateAlways, field) => {
    const stored = { age: 0, freshFor, staleWhileRevalidate: grace, staleIfError: grace, strict: true, validateAlways }
    return (freshFor > 0 && !validateAlways) || (reuseOf(stored, parseCacheControl(field)) === 'validate' && !isUsableOnError(stored))
  }))
})
