// One fault under load, from the start of the servers to their end.
import { setTimeout as sleep } from 'node:timers/promises'
import type { RedisServer } from '../helpers/servers/redis-server.js'
import { stopAll } from '../../tools/servers/registry.js'
import type { Fault } from './faults.js'
import { ask, logIn, startLoad, USERS, type Sample } from './load.js'
import { startShop, type Shop } from './shop.js'

const BEFORE_MS = 1500
const AFTER_MS = 4000
const POLL_MS = 25
const RECOVERY_TIMEOUT_MS = 15_000

/** The observations; times by performance.now(). */
export interface Course {
  samples: readonly Sample[]
  beganAt: number
  endedAt: number
  /** When the health of an instance first reported the fault; undefined: never. */
  noticedAt: number | undefined
  /** When each instance served sessions and hits again; undefined: not in time. */
  recoveredAt: number | undefined
  /** Users that are not logged in any more. */
  loggedOut: number
  keysWithoutTtl: string[]
  problems: readonly string[]
  crowded: number
}

export async function drive (fault: Fault, holdMs: number): Promise<Course> {
  const place = await fault.open()
  const shop = await startShop(place.connection)
  try {
    const cookies = await logIn(shop)
    const load = startLoad(shop, cookies)
    await sleep(BEFORE_MS)
    const beganAt = performance.now()
    const watch = watchHealth(shop)
    await place.begin(shop)
    if (!fault.endsItself) await sleep(Math.max(0, beganAt + holdMs - performance.now()))
    await place.end(shop)
    const endedAt = performance.now()
    watch.stop()
    const recoveredAt = await recovered(shop, cookies, fault)
    await sleep(Math.max(0, endedAt + AFTER_MS - performance.now()))
    await load.stop()
    return {
      samples: load.samples,
      beganAt,
      endedAt,
      noticedAt: watch.noticedAt(),
      recoveredAt,
      loggedOut: await countLoggedOut(shop, cookies),
      keysWithoutTtl: await keysWithoutTtl(place.servers),
      problems: shop.problems,
      crowded: shop.crowded
    }
  } finally {
    shop.close()
    await stopAll()
  }
}

/** Requests the health of Redis from each instance in turn. */
function watchHealth (shop: Shop): { noticedAt: () => number | undefined, stop (): void } {
  let noticedAt: number | undefined
  let turn = 0
  const look = async () => {
    const { url } = shop.instances[++turn % shop.instances.length]!
    const isWell = await fetch(`${url}/health/ready`).then(async response => {
      const { checks } = await response.json() as { checks: Record<string, Array<{ status: string }>> }
      return Object.entries(checks).every(([name, [check]]) => !name.startsWith('redis') || check?.status === 'pass')
    }).catch(() => false)
    if (!isWell) noticedAt ??= performance.now()
  }
  const timer = setInterval(() => { look().catch(() => {}) }, POLL_MS)
  return { noticedAt: () => noticedAt, stop: () => clearInterval(timer) }
}

async function recovered (shop: Shop, cookies: readonly string[], { losesData }: Fault): Promise<number | undefined> {
  const deadline = performance.now() + RECOVERY_TIMEOUT_MS
  const isBack = async (instance: number) => {
    const me = await ask(shop, instance, '/me', { headers: { cookie: cookies[0]! } })
    // The second request finds what the first one stored, or an older value.
    await ask(shop, instance, '/products/recovery')
    const { cache } = await ask(shop, instance, '/products/recovery')
    return cache === 'HIT' && (me.status === 200 || (losesData === true && me.status === 401))
  }
  while (performance.now() < deadline) {
    const at = performance.now()
    if ((await Promise.all(shop.instances.map((_, i) => isBack(i)))).every(Boolean)) return at
    await sleep(POLL_MS)
  }
  return undefined
}

async function countLoggedOut (shop: Shop, cookies: readonly string[]): Promise<number> {
  const isLoggedIn = async (cookie: string, user: number) => {
    const { status, body } = await ask(shop, user, '/me', { headers: { cookie } })
    return status === 200 && body.user === `u${user}`
  }
  const answers = await Promise.all(cookies.slice(0, USERS).map(isLoggedIn))
  return answers.filter(isStill => !isStill).length
}

export async function keysWithoutTtl (servers: readonly RedisServer[]): Promise<string[]> {
  const found: string[] = []
  for (const server of servers.filter(({ answers }) => answers)) {
    const client = server.client()
    if (!(await client.info('replication')).includes('role:master')) continue
    for await (const keys of client.scanStream({ count: 500 })) {
      for (const key of keys as string[]) if (await client.pttl(key) === -1) found.push(key)
    }
  }
  return found
}
