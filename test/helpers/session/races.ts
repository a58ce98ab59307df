// Races between requests of one session on three instances: small counts in the functional lane, large ones in the stress lane.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import type { RedisPluginOptions } from '../../../plugins/redis/index.js'
import type { SessionPluginOptions } from '../../../plugins/session/index.js'
import { createTestClock } from '../../../plugins/testing/index.js'
import { newPrefix } from '../app/store.js'
import { sharedCluster, sharedRedis } from '../servers/shared.js'
import { Gate } from './gate.js'
import { anySession, Browser, buildApp } from './session-app.js'

const AT_ONCE = 50

const gate = new Gate()

/** The actions of a slow request on its session when it continues. */
const late: Record<string, (request: FastifyRequest) => unknown> = {
  change: request => { anySession(request).late = 1 },
  save: async request => { anySession(request).late = 1; await request.session.save() },
  reload: async request => { await request.session.reload(); anySession(request).late = 1; await request.session.save() },
  regenerate: async request => { await request.session.regenerate(); anySession(request).late = 1 },
  user: request => { anySession(request).userId = 'eve' }
}

function routes (app: FastifyInstance) {
  app.post<{ Params: { id: string, how: string } }>('/slow/:id/:how', async request => {
    await gate.wait(request.params.id)
    await late[request.params.how]?.(request)
  })
  app.post<{ Body: { remove: string, set: string, value: unknown, reload?: boolean } }>('/swap', async request => {
    if (request.body.reload) await request.session.reload()
    await new Promise(resolve => setImmediate(resolve))
    anySession(request)[request.body.set] = request.body.value

    delete anySession(request)[request.body.remove]
  })
  app.post('/regenerate', async request => { await request.session.regenerate(['userId'] as never) })
  app.post('/user/:user', async request => { anySession(request).userId = (request.params as { user: string }).user })
}

/** Runs `work` `count` times, some at once. */
async function times (count: number, work: (i: number) => Promise<unknown>) {
  let next = 0
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, async () => { while (next < count) await work(next++) }))
}

export interface RaceOptions {
  /** How many races of each kind there are on one server, and on a Cluster. */
  counts: { redis: number, cluster: number }
  /** `'real'`: real concurrency, with deadlines in real time. @default one clock that only the test advances */
  clock?: 'real'
}

/** Defines the races as tests. */
export async function testRaces (t: Test, { counts, clock: kind }: RaceOptions): Promise<void> {
  const server = await sharedRedis()
  const cluster = await sharedCluster()

  async function fleet (t: Test, connection: RedisPluginOptions, session: Partial<SessionPluginOptions> = {}) {
    const redis = { ...connection, prefix: newPrefix() }
    // One clock for all, like that of Redis.
    const clock = kind ?? createTestClock()
    const given = kind === 'real' ? { timeout: 30_000, ...session } : session
    const [a, b, c] = await Promise.all([1, 2, 3].map(() => buildApp(t, { redis, clock, session: given, routes })))
    return [a!, b!, c!] as const
  }

  const places: Array<[string, RedisPluginOptions, number]> = [
    ['Redis', { url: server.url }, counts.redis],
    ['Cluster', { cluster: { nodes: cluster.startupNodes } }, counts.cluster]
  ]

  for (const [place, connection, count] of places) {
    t.test(`${place}: ${count} pairs of requests at once on two instances each set and delete a property of their own: 0 lost`, async t => {
      const [a, b, c] = await fleet(t, connection)
      let lost = 0
      await times(count, async i => {
        const user = new Browser(a)
        await user.send('POST', '/set', { goneA: 1, goneB: 1, kept: 1 })
        await Promise.all([
          user.send('POST', '/swap', { remove: 'goneA', set: 'a', value: i }, b),
          user.send('POST', '/swap', { remove: 'goneB', set: 'b', value: i }, c)
        ])
        const state = await user.state()
        if (JSON.stringify(Object.entries(state).sort()) !== JSON.stringify([['a', i], ['b', i], ['kept', 1]])) lost++
      })
      t.equal(lost, 0)
    })

    t.test(`${place}: a reloaded session writes only its changes: 0 of ${count / 5} pairs lost`, async t => {
      const [a, b, c] = await fleet(t, connection)
      let lost = 0
      await times(count / 5, async i => {
        const user = new Browser(a)
        await user.send('POST', '/set', { a: -1, b: -1, goneA: 1, goneB: 1 })
        await Promise.all([
          user.send('POST', '/swap', { remove: 'goneA', set: 'a', value: i, reload: true }, b),
          user.send('POST', '/swap', { remove: 'goneB', set: 'b', value: i, reload: true }, c)
        ])
        const state = await user.state()
        if (JSON.stringify(Object.entries(state).sort()) !== JSON.stringify([['a', i], ['b', i]])) lost++
      })
      t.equal(lost, 0)
    })

    t.test(`${place}: a slow request saves a session that another request has ended, in every combination: 0 of ${count} alive under the old cookie`, async t => {
      const [a, b, c] = await fleet(t, connection)
      const ends = ['logout', 'regenerate', 'destroyAll', 'login'] as const
      const hows = Object.keys(late)
      let alive = 0
      await times(count, async i => {
        const [user, other] = [new Browser(a), new Browser(c)]
        await user.send('POST', `/login/u${i}`)
        const cookie = other.cookie = user.cookie
        const arrived = gate.arrival(`${place}${i}`)
        const slow = user.send('POST', `/slow/${place}${i}/${hows[i % hows.length]!}`, undefined, b)
        await arrived
        const end = ends[Math.floor(i / hows.length) % ends.length]!
        if (end === 'destroyAll') await c.sessions.destroyAll(`u${i}`)
        else await other.send('POST', end === 'login' ? `/login/u${i}` : `/${end}`)
        gate.open(`${place}${i}`)
        await slow
        const thief = new Browser(a)
        thief.cookie = cookie
        if (JSON.stringify(await thief.state()) !== '{}') alive++
      })
      t.equal(alive, 0)
    })

    t.test(`${place}: concurrent logins on three instances never leave more sessions than allowed`, async t => {
      const apps = await fleet(t, connection, { maxPerUser: 2 })
      await times(count / 20, async i => {
        const browsers = apps.map(app => new Browser(app))
        const replies = await Promise.all(browsers.flatMap(browser => [browser.send('POST', `/login/u${i}`)]))
        if (replies.some(reply => reply.statusCode !== 200)) t.fail(replies.map(reply => reply.body).join())
        const states = await Promise.all(browsers.map(browser => browser.state()))
        if (states.filter(state => state.userId).length !== 2) t.fail(`${JSON.stringify(states)}`)
        if (await apps[0].sessions.count(`u${i}`) !== 2) t.fail(`${await apps[0].sessions.count(`u${i}`)} in the list`)
      })
    })

    t.test(`${place}: a session that becomes a user's while the user's sessions are listed is in the list afterwards`, async t => {
      const [a, b] = await fleet(t, connection)
      let missing = 0
      await times(count / 5, async i => {
        const user = new Browser(a)
        const lists = (async () => { for (let k = 0; k < 8; k++) await b.sessions.list(`u${i}`) })()
        await user.send('POST', `/user/u${i}`)
        await lists
        if (await b.sessions.count(`u${i}`) !== 1) missing++
      })
      t.equal(missing, 0)
    })

    t.test(`${place}: a session that changes its user during destroyAll of the first is never the first user's afterwards`, async t => {
      const [a, b, c] = await fleet(t, connection)
      let wrong = 0
      let made = 0
      await times(count / 5, async i => {
        const user = new Browser(a)
        await user.send('POST', `/login/u${i}`)
        const cookie = user.cookie
        await Promise.all([user.send('POST', `/user/v${i}`, undefined, b), c.sessions.destroyAll(`u${i}`)])
        // A request after the logout has no session any more, and creates one.
        const isNew = user.cookie !== undefined && user.cookie !== cookie
        if (isNew) made++
        user.cookie = cookie
        const { userId } = await user.state()
        if (userId === `u${i}` || await a.sessions.count(`u${i}`) !== 0) wrong++
        if (await a.sessions.count(`v${i}`) !== (userId === undefined && !isNew ? 0 : 1)) wrong++
      })
      t.comment(`${made} came after it`)
      t.equal(wrong, 0)
    })

    t.test(`${place}: a session that two requests log in for two users at once is in the list of its user only`, async t => {
      const [a, b, c] = await fleet(t, connection)
      let wrong = 0
      await times(count / 10, async i => {
        const user = new Browser(a)
        await user.send('POST', `/login/u${i}`)
        await Promise.all([user.send('POST', `/user/v${i}`, undefined, b), user.send('POST', `/user/w${i}`, undefined, c)])
        const { userId } = await user.state()
        for (const one of ['u', 'v', 'w'].map(letter => letter + i)) {
          if (await a.sessions.count(one) !== (one === userId ? 1 : 0)) wrong++
        }
      })
      t.equal(wrong, 0)
    })
  }

  t.test('a slow request does not send the cookie that a login has replaced', async t => {
    const [a, b] = await fleet(t, { url: server.url })
    const user = new Browser(a)
    await user.send('POST', '/set', { a: 1 })
    const slow = new Browser(b)
    slow.cookie = user.cookie
    const arrived = gate.arrival('dead')
    const reply = slow.send('POST', '/slow/dead/change')
    await arrived
    await user.send('POST', '/login/ann')
    gate.open('dead')
    t.equal((await reply).headers['set-cookie'], undefined)
  })

  t.test('of 20 logins at once with maxPerUser 1 all succeed and one session remains', async t => {
    const apps = await fleet(t, { url: server.url }, { maxPerUser: 1 })
    const replies = await Promise.all(Array.from({ length: 20 }, (_, i) => new Browser(apps[i % 3]!).send('POST', '/login/ann')))
    t.same(replies.filter(reply => reply.statusCode !== 200).map(reply => reply.body), [])
    t.equal(await apps[0].sessions.count('ann'), 1)
  })
}
