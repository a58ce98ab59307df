import type { Test } from 'tap'
import { until } from '../app/until.js'
import { createTestApp } from '../app/test-app.js'
import { sharedCluster, sharedRedis } from '../servers/shared.js'

const PATTERNS = ['a:x', 'a:*', 'b:x', '*', 'b:y']

export interface ChurnOptions {
  store: 'redis' | 'cluster'
  rounds: number
  /** The number of rounds after which all subscriber connections are broken. */
  breakEvery: number
  random: () => number
}

/** Subscribes and unsubscribes in any order while connections break, then asserts that no subscription is missing or left over. */
export async function churn (t: Test, { store, rounds, breakEvery, random }: ChurnOptions): Promise<void> {
  const { app, prefix } = await createTestApp(t, { store, clock: 'real', plugins: { events: { timeout: '10s', subscribeTimeout: '30s' } } })
  const shared = store === 'redis' ? [(await sharedRedis()).client()] : (await connected((await sharedCluster()).client())).nodes('all')
  const left: Array<() => Promise<void>> = []
  const pending: Array<Promise<unknown>> = []
  for (let round = 0; round < rounds; round++) {
    const pattern = PATTERNS[Math.floor(random() * PATTERNS.length)] ?? '*'
    pending.push(app.events.subscribe(pattern, () => {}, { confirm: random() < 0.5 }).then(end => { left.push(end) }))
    if (random() < 0.8) pending.push(...left.splice(0, Math.ceil(random() * 3)).map(async end => await end()))
    if (round % breakEvery === Math.floor(breakEvery / 2)) await Promise.all(shared.map(async node => await node.call('CLIENT', 'KILL', 'TYPE', 'pubsub')))
    if (random() < 0.2) await new Promise(resolve => setImmediate(resolve))
  }
  await Promise.all(pending)
  const heard: string[] = []
  await app.events.subscribe('a:x', () => { heard.push('a:x') })
  await app.events.subscribe('*', () => { heard.push('*') })
  await Promise.all(left.map(async end => await end()))
  await app.events.publish('a:x', 1)
  await until('both subscribers hear', () => heard.length >= 2)
  t.same(heard.sort(), ['*', 'a:x'])
  const channels = async () => {
    const kinds = store === 'redis' ? ['CHANNELS'] : ['CHANNELS', 'SHARDCHANNELS']
    const replies = await Promise.all(shared.map(async node =>
      await Promise.all(kinds.map(async kind => await node.call('PUBSUB', kind, `${prefix}:*`) as string[]))))
    return new Set(replies.flat(2)).size
  }
  t.equal(await channels(), store === 'redis' ? 1 : 17, 'the channel, and on a Cluster the 16 lanes')
  if (store === 'redis') t.equal(await shared[0]?.call('PUBSUB', 'NUMPAT'), 1)
}

async function connected<C extends { status: string, once: (event: 'ready', listener: () => void) => unknown }> (client: C): Promise<C> {
  if (client.status !== 'ready') await new Promise<void>(resolve => { client.once('ready', resolve) })
  return client
}

/** Pseudo-random numbers from 0 to 1, the same in each run (the generator of Numerical Recipes). */
export function seededRandom (seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
