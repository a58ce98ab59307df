import fc from 'fast-check'
import Fastify, { type FastifyPluginAsync } from 'fastify'
import type { Test } from 'tap'
import * as suite from '../../../plugins/index.js'

const PLUGINS = Object.entries(suite).filter(([name]) => name !== 'redis') as unknown as Array<[string, FastifyPluginAsync<object>]>
const NEEDED: Record<string, object> = { session: { secret: 'a secret of at least thirty-two characters' } }

const odd = fc.oneof(
  fc.constantFrom<unknown>(undefined, null, true, false, 0, -1, 1, 1.5, NaN, Infinity, 1e21, 2 ** 53, '', ' ', '1s', '30 days', '-1s', '1 fortnight', '\u0000', '__proto__', '/', '/x', '*', 'memory', 'headers', [], {}, [[]],
    [''], ['a'], [1], new Date(0), new Map(), Symbol('odd'), 10n, /x/, () => undefined, async () => 1, class {}, Buffer.alloc(32), Object.create(null), new Proxy({}, {})),
  fc.string({ unit: 'binary' }),
  fc.integer(),
  fc.double(),
  fc.jsonValue(),
  fc.dictionary(fc.constantFrom('a', 'ttl', 'max', 'host', 'query', 'names', '__proto__', 'toString'), fc.jsonValue(), { maxKeys: 3 }))

/** @returns the error, if there is one */
async function register (plugin: FastifyPluginAsync<object>, options: object): Promise<(Error & { code?: string }) | undefined> {
  const app = Fastify()
  try {
    await app.register(plugin, options)
    await app.ready()
    return undefined
  } catch (error) {
    return error as Error
  } finally {
    await app.close()
  }
}

/**
 * Registers each plugin with odd options, and asserts that it works or refuses them with a coded error.
 *
  * @param seed - the seed of the options; by default a new one, which a failure prints
 */
export function fuzzOptions (t: Test, runs: number, seed?: number): void {
  for (const [name, plugin] of PLUGINS) {
    t.test(`${name} works with any options, or throws a coded error that names the one that it cannot use`, async t => {
      const needed = { ...NEEDED[name], ...name !== 'metrics' && { redis: false } }
      const refused = await register(plugin, { ...needed, 'no-such-option': 1 })
      t.match(refused?.code, /^FST_REDIS_SUITE_\w+_INVALID_OPTION$/)
      const [, known = ''] = /allowed: one of (.*)$/.exec(refused?.message ?? '') ?? []
      const options = known.split(', ').filter(option => option !== 'redis')
      t.ok(options.length > 2, known)
      let [accepted, coded] = [0, 0]
      await fc.assert(fc.asyncProperty(fc.dictionary(fc.constantFrom(...options), odd, { minKeys: 1, maxKeys: 3 }), async given => {
        const error = await register(plugin, { ...needed, ...given })
        if (error === undefined) accepted++
        else if (/^FST_REDIS_SUITE_\w+$/.test(error.code ?? '')) coded++
        else throw new Error(`${error.code}: ${error.message}`, { cause: error })
      }), { numRuns: runs, ...seed !== undefined && { seed } })
      t.comment(`${accepted} accepted, ${coded} refused`)
      t.equal(await register(plugin, needed), undefined)
    })
  }
}
