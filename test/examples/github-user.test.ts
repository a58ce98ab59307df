import t, { type Test } from 'tap'
import { build } from '../../examples/techniques/github-user.js'
import { build as buildStandIn } from '../../examples/techniques/github-stand-in.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { advanceWhile, closeApp, forEachStore, sharedRedis, until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

forEachStore(['memory', 'redis'], store => {
  /** Starts the stand-in, and two instances of the example where they share Redis. */
  async function setUp (t: Test, { limit = 5000, token = 'a token' } = {}) {
    const clock = createTestClock()
    const github = buildStandIn({ clock, limits: { anonymous: limit, authorized: limit } })
    t.teardown(() => github.close())
    const url = await github.listen({ port: 0, host: '127.0.0.1' })
    const redisUrl = store === 'redis' ? (await sharedRedis()).url : ''
    const apps = await Promise.all((store === 'redis' ? [1, 2] : [1]).map(() => build({ github: url, token, redisUrl, clock })))
    for (const app of apps) t.teardown(() => closeApp(app, clock))
    if (store === 'redis') await apps[0]?.cache.clear()
    const ask = async (username: string, instance = 0) => {
      const response = await apps[instance % apps.length]?.inject(`/users/${username}`)
      return { status: response?.statusCode, headers: response?.headers ?? {}, user: response?.json() }
    }
    /** A request that waits for a deadline of the clock. */
    const askSlowly = async (username: string) => (await advanceWhile(clock, ask(username), { step: 100 })).value
    const { state } = github
    const rename = (name: string) => state.users.set('octocat', { ...state.users.get('octocat'), name })
    const used = () => state.requests
    return { apps, clock, state, ask, askSlowly, rename, used }
  }

  const promise = (text: string, test: (t: Test) => Promise<unknown>) => t.test(`${store}: ${text}`, test)

  promise('concurrent requests cost one call of GitHub, and further ones none for its max-age', async t => {
    const { clock, ask, used } = await setUp(t)
    const users = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(i % 2 === 0 ? 'octocat' : 'OctoCat')))
    t.same([...new Set(users.map(({ status, user }) => `${status} ${user.login}`))], ['200 octocat'])
    await clock.advance('59s')
    t.match(await ask('octocat', 1), { status: 200, headers: { age: 59 } })
    t.equal(used(), 1)
  })

  promise('after max-age GitHub is asked with the ETag: a 304 does not count against the quota, and a change is seen', async t => {
    const { clock, ask, rename, used } = await setUp(t, { limit: 2 })
    t.equal((await ask('octocat')).status, 200)
    for (const calls of [2, 3, 4]) {
      await clock.advance('61s')
      t.match(await ask('octocat', calls), { status: 200, headers: { age: 0 }, user: { name: 'The Octocat' } })
      t.equal(used(), calls)
    }
    rename('Mona')
    await clock.advance('61s')
    t.match(await ask('octocat'), { status: 200, user: { name: 'Mona' } })
  })

  promise('"not found" is cached for a minute', async t => {
    const { clock, state, ask, used } = await setUp(t)
    for (const instance of [0, 1, 0]) t.equal((await ask('nobody', instance)).status, 404)
    t.equal(used(), 1)
    state.users.set('nobody', { login: 'nobody' })
    await clock.advance('61s')
    t.match(await ask('nobody'), { status: 200, user: { login: 'nobody' } })
    t.equal((await ask('-')).status, 400)
    t.equal(used(), 2)
  })

  promise('once the quota is used up, stale users are served and GitHub is not called until it is reset, on each instance', async t => {
    const { clock, ask, rename, used, state } = await setUp(t, { limit: 1, token: '' })
    t.equal((await ask('octocat')).status, 200)
    t.match(await ask('other', 1), { status: 503, headers: { 'retry-after': '3601' } }, 'the successful response has said that nothing remains')
    rename('Mona')
    await clock.advance('30m')
    t.match(await ask('octocat', 1), { status: 200, headers: { age: 1800 }, user: { name: 'The Octocat' } })
    t.equal((await ask('other')).headers['retry-after'], '1801')
    t.equal(used(), 1)
    await clock.advance('31m')
    await until('it is refreshed', async () => (await ask('octocat')).user.name === 'Mona' || (await clock.advance(1100), false))
    t.equal(used(), 2)
    state.users.clear()
  })

  promise('Retry-After of the secondary limit and a refusal by the quota of another program are obeyed', async t => {
    const { clock, state, ask, used } = await setUp(t)
    state.busyFor = 30
    t.match(await ask('octocat'), { status: 503, headers: { 'retry-after': '30' } })
    state.busyFor = 0
    t.equal((await ask('octocat', 1)).status, 503)
    await clock.advance('29s')
    t.equal((await ask('octocat', 1)).status, 503)
    t.equal(used(), 1)
    await clock.advance('2s')
    t.equal((await ask('octocat', 1)).status, 200)
  })

  promise('while GitHub hangs, a stale user is served after 500 ms, and without one the request fails after 5 s', async t => {
    const { clock, state, askSlowly, ask } = await setUp(t)
    await ask('octocat')
    await clock.advance('2m')
    state.isHanging = true
    const before = clock.now()
    t.match(await askSlowly('octocat'), { status: 200, user: { login: 'octocat' } })
    t.ok(clock.now() - before < 1000, `${clock.now() - before} ms`)
    t.match(await askSlowly('other'), { status: 503, user: { code: 'FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT' } })
  })
})
