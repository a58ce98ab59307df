import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { CachePluginOptions } from '../../plugins/cache/index.js'
import { MAX_STALENESS_MS } from '../../plugins/cache/tiers/invalidation-bus.js'
import { createTestApp, type StoreName } from '../helpers/index.js'
import { upTo } from '../helpers/cache/factories.js'
import { anyOf, changed, createSeen, get, inPrefix, KINDS, plain, play, Source, tagged, used, type Actions, type Chance } from '../helpers/cache/interleavings.js'
import { scaled } from '../helpers/stress/scale.js'

const INSTANCES = 4
const wait = (ms: number) => new Promise<void>(resolve => setTimeout(resolve, ms))
const { random } = Math
// Immediately, in the next turn, or up to 3 ms later.
const chance: Chance = { random, pause: async () => { if (random() > 1 / 3) await wait(random() * 3) } }
const kinds = Object.keys(KINDS)

async function openApps (t: Test, store: StoreName, options: CachePluginOptions = { l1: false }): Promise<FastifyInstance[]> {
  return (await createTestApp(t, {
    store, instances: INSTANCES, clock: 'real', connection: { commandTimeout: '10s' }, plugins: { cache: { timeout: '10s', ttl: '1m', ...options } }
  })).apps
}

t.test('redis: no value of random interleavings on 4 instances is older than what was acknowledged before the call', async t => {
  const apps = await openApps(t, 'redis')
  const seen = createSeen()
  const copies = 40
  const rounds = scaled(Math.ceil(2500 / (copies * kinds.length)))
  await Promise.all(kinds.flatMap(kind => upTo(copies).map(i => play(apps, new Source(`${kind}/${i}`, chance), rounds, seen, chance, kind))))
  t.same(seen.obsolete, [])
  const total = used(apps)
  t.comment(`${rounds * copies * kinds.length} rounds, ${seen.answers} answers: ${JSON.stringify(total)}`)
  t.equal(total.storeErrors, 0)
  t.ok(total.stored > scaled(250) && total.hits > scaled(125) && total.coalesced > scaled(25), 'the cache was used')
})

t.test('redis: no value is obsolete while keys are removed by pattern', async t => {
  const apps = await openApps(t, 'redis')
  const seen = createSeen()
  await Promise.all(['pattern', 'delete', 'writeThrough'].flatMap(kind => upTo(3).map(i => play(apps, new Source(`${kind}/${i}`, chance), scaled(60), seen, chance, kind))))
  t.same(seen.obsolete, [])
  t.ok(used(apps).hits > scaled(20))
})

t.test('cluster: no value of random interleavings on 4 instances is older than what was acknowledged before the call', async t => {
  const apps = await openApps(t, 'cluster')
  const seen = createSeen()
  await Promise.all(kinds.flatMap(kind => upTo(3).map(i => play(apps, new Source(`${kind}/${i}`, chance), scaled(40), seen, chance, kind))))
  t.same(seen.obsolete, [])
  t.ok(used(apps).hits > scaled(50))
})

t.test('with L1 nothing is obsolete 100 ms after an invalidation', async t => {
  const apps = await openApps(t, 'redis', {})
  const seen = createSeen()
  const outdate = async (invalidation: Promise<unknown>) => { await invalidation; await wait(MAX_STALENESS_MS) }
  const actions: Record<string, Actions> = {
    tag: { reads: [tagged], writes: [changed(async (cache, { name }) => await outdate(cache.invalidateTags([name])))] },
    delete: { reads: [plain, get], writes: [changed(async (cache, { name }) => await outdate(cache.delete(name)))] },
    prefix: { reads: [inPrefix(plain)], writes: [inPrefix(changed(async cache => await outdate(cache.clear())))] }
  }
  await Promise.all(Object.entries(actions).flatMap(([kind, { reads, writes }]) => upTo(3).map(async i => {
    const source = new Source(`${kind}/${i}`, chance)
    const state = { isOver: false }
    // Continuous reads on all instances, with one write after another.
    const reading = Promise.all(apps.map(async ({ cache }) => {
      while (!state.isOver) {
        const { told } = source
        const value = await anyOf(reads, chance)(cache, source)
        if (value !== undefined && value < told) seen.obsolete.push({ kind, value, told })
        await wait(3)
      }
    }))
    for (let round = 0; round < scaled(12); round++) {
      await wait(60 + random() * 100)
      source.tell(await anyOf(writes, chance)(anyOf(apps, chance).cache, source) ?? 0)
    }
    state.isOver = true
    await reading
  })))
  t.same(seen.obsolete, [])
  t.ok(used(apps).l1Hits > scaled(100))
})
