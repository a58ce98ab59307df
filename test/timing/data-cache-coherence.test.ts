import t from 'tap'
import { createTestApp } from '../helpers/index.js'
import { upTo } from '../helpers/cache/factories.js'
import { anyOf, KINDS, Source, used, type Chance } from '../helpers/cache/interleavings.js'
import { startHeartbeat, type Span } from '../helpers/timing/heartbeat.js'

/** How long L1 may serve a value after it was invalidated on another instance. */
const LEASE_MS = 100
const ROUNDS = 12
const wait = (ms: number) => new Promise<void>(resolve => setTimeout(resolve, ms))
const { random } = Math
const chance: Chance = { random, pause: async () => { if (random() > 1 / 3) await wait(random() * 3) } }

t.test('with L1 no value is served for longer than 100 ms after it was acknowledged to be obsolete, on any of 4 instances', async t => {
  const { span } = await startHeartbeat(t)
  const { apps } = await createTestApp(t, { store: 'redis', instances: 4, clock: 'real', connection: { commandTimeout: '10s' }, plugins: { cache: { timeout: '10s', ttl: '1m' } } })
  const late: Array<{ kind: string, age: number, stalled: number }> = []
  let [answers, obsolete, oldest] = [0, 0, 0]
  await Promise.all(Object.entries(KINDS).flatMap(([kind, { reads, writes }]) => upTo(2).map(async i => {
    let since: Span = span()
    let toldAt = performance.now()
    const source = new Source(`${kind}/${i}`, chance, () => { since = span(); toldAt = performance.now() })
    const state = { isOver: false }
    const reading = Promise.all(apps.map(async ({ cache }) => {
      while (!state.isOver) {
        const [{ told }, before, age] = [source, since, performance.now() - toldAt]
        const value = await anyOf(reads, chance)(cache, source)
        answers++
        if (value !== undefined && value < told) {
          obsolete++
          oldest = Math.max(oldest, age)
          // Time that the machine withheld between the invalidation and the call does not count.
          const { stalled } = age > LEASE_MS ? await before.judge() : { stalled: 0 }
          if (age > LEASE_MS + stalled) late.push({ kind, age, stalled })
        }
        await wait(3)
      }
    }))
    for (let round = 0; round < ROUNDS; round++) {
      await wait(60 + random() * 100)
      source.tell(await anyOf(writes, chance)(anyOf(apps, chance).cache, source) ?? 0)
    }
    state.isOver = true
    await reading
  })))
  const { l1Hits } = used(apps)
  t.comment(`${answers} answers, ${l1Hits} from L1, ${obsolete} obsolete, for ${oldest.toFixed(1)} ms at most`)
  t.same(late, [])
  t.ok(l1Hits > 100)
})
