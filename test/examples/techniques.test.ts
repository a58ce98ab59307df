// examples/techniques: data types, pipelines and Lua, on one server and on a Cluster.
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { IoredisClient, RedisPluginOptions } from '../../plugins/redis/index.js'
import { sharedCluster, sharedRedis } from '../helpers/index.js'

/** Whether a TTL in seconds was set to `expected`: Redis counts on while the test waits for its replies. */
function isTtl (seconds: number, expected: number): boolean {
  return seconds <= expected && seconds > expected - 60
}

process.env['LOG_LEVEL'] = 'silent'
type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
// No deadline passes on a busy machine.
const connections: Record<string, RedisPluginOptions> = {
  redis: { url: (await sharedRedis()).url, commandTimeout: '15s' },
  cluster: { cluster: { nodes: (await sharedCluster()).startupNodes }, commandTimeout: '15s' }
}

/** Starts an example, and returns functions that send a request and return its JSON, or its status where that is above 299. */
async function start (t: Test, store: string, name: string) {
  const { build } = await import(`../../examples/techniques/${name}.ts`)
  const app: FastifyInstance = await build(connections[store])
  t.teardown(() => app.close())
  const send = async (method: Method, url: string, payload?: object) => {
    const response = await app.inject({ method, url, ...payload && { payload } })
    return response.statusCode > 299 ? response.statusCode : response.body === '' ? undefined : response.json()
  }
  const as = (method: Method) => async (url: string, payload?: object) => await send(method, url, payload)
  return { app, redis: app.redis as IoredisClient, get: as('GET'), post: as('POST'), put: as('PUT'), patch: as('PATCH'), remove: as('DELETE') }
}

for (const store of Object.keys(connections)) {
  t.test(`${store}: strings have a TTL, and MGET returns what MSET has written, in the order of the ids`, async t => {
    const { redis, get, put } = await start(t, store, 'strings')
    t.same(await get('/notice'), { text: null })
    await put('/notice', { text: 'closed on Sunday' })
    t.same(await get('/notice'), { text: 'closed on Sunday' })
    t.ok(isTtl(await redis.ttl('shop:notice'), 600))
    await put('/shops/berlin/prices', { 7: 499, 8: 1999 })
    t.same(await get('/shops/berlin/prices?ids=8,9,7'), { 7: 499, 8: 1999, 9: null })
    t.same(await get('/shops/paris/prices?ids=7'), { 7: null })
    t.ok(isTtl(await redis.ttl('shop:price:{berlin}:8'), 3600))
  })

  t.test(`${store}: a profile is a hash whose fields change one by one, also concurrently`, async t => {
    const { get, post, patch, remove } = await start(t, store, 'hashes')
    t.equal(await get('/users/ann'), 404)
    await Promise.all([patch('/users/ann', { name: 'Ann' }), patch('/users/ann', { city: 'Berlin' }), patch('/users/ann', { phone: '1' })])
    await Promise.all(Array.from({ length: 20 }, () => post('/users/ann/logins')))
    t.same(await get('/users/ann'), { name: 'Ann', city: 'Berlin', phone: '1', logins: '20' })
    t.same(await remove('/users/ann/phone'), { deleted: true })
    t.same(await remove('/users/ann/phone'), { deleted: false })
    t.equal(await remove('/users/ann/logins'), 400, 'not a field of clients')
    t.equal(await patch('/users/ann', {}), 400)
    t.same(await get('/users/ann'), { name: 'Ann', city: 'Berlin', logins: '20' })
  })

  t.test(`${store}: a queue gives each job to one worker, oldest first, and a list holds the ten products seen last`, async t => {
    const { redis, get, post, put } = await start(t, store, 'lists')
    t.equal(await post('/jobs/next'), undefined)
    for (let i = 0; i < 12; i++) t.same(await post(`/jobs/j${i}`), { waiting: i + 1 })
    t.same(await get('/jobs'), { waiting: 12, newest: Array.from({ length: 10 }, (_, i) => `j${11 - i}`) })
    t.same(await post('/jobs/next'), { name: 'j0' })
    const taken: Array<{ name: string } | undefined> = await Promise.all(Array.from({ length: 15 }, () => post('/jobs/next')))
    t.same(taken.map(job => job?.name).filter(name => name !== undefined).sort(), Array.from({ length: 11 }, (_, i) => `j${i + 1}`).sort())
    for (let i = 0; i < 15; i++) await put(`/users/ann/seen/p${i}`)
    await put('/users/ann/seen/p8')
    t.same(await get('/users/ann/seen'), ['p8', 'p14', 'p13', 'p12', 'p11', 'p10', 'p9', 'p7', 'p6', 'p5'])
    t.ok(isTtl(await redis.ttl('shop:seen:ann'), 30 * 86_400))
  })

  t.test(`${store}: sets answer whether a user has a role, and which interests two users share`, async t => {
    const { get, put, remove } = await start(t, store, 'sets')
    t.equal(await get('/users/ann/roles/editor'), 403)
    t.same([await put('/users/ann/roles/editor'), await put('/users/ann/roles/editor')], [{ added: true }, { added: false }])
    t.same(await get('/users/ann/roles/editor'), { user: 'ann', role: 'editor' })
    t.same(await remove('/users/ann/roles/editor'), { removed: true })
    t.equal(await get('/users/ann/roles/editor'), 403)
    for (const interest of ['tea', 'jazz', 'chess']) await put(`/users/ann/interests/${interest}`)
    for (const interest of ['go', 'tea', 'chess']) await put(`/users/bob/interests/${interest}`)
    t.same(await get('/users/ann/common/bob'), ['chess', 'tea'])
    t.same(await get('/users/ann/common/eve'), [])
  })

  t.test(`${store}: a leaderboard has the top, ranks, increments and absolute scores`, async t => {
    const { get, post, put } = await start(t, store, 'leaderboard')
    t.equal(await get('/scores/ann'), 404)
    await Promise.all(Array.from({ length: 10 }, () => post('/scores/ann/5')))
    t.same(await put('/scores/bob/70'), { score: 70 })
    t.same(await put('/scores/eve/10'), { score: 10 })
    t.same(await get('/scores/ann'), { rank: 2, score: 50 })
    t.same(await post('/scores/eve/90'), { score: 100 })
    t.same(await get('/top'), [{ rank: 1, player: 'eve', score: 100 }, { rank: 2, player: 'bob', score: 70 }, { rank: 3, player: 'ann', score: 50 }])
    for (let i = 0; i < 20; i++) await put(`/scores/p${i}/${i}`)
    t.equal((await get('/top')).length, 10)
    t.equal(await post('/scores/ann/-1'), 400)
  })

  t.test(`${store}: bitmaps count the users active on a day and on all of several days; a HyperLogLog counts visitors to about 1 %`, async t => {
    const { redis, get, put } = await start(t, store, 'visitors')
    for (const user of [1, 2, 3, 9_999_999]) await put(`/active/2026-11-01/${user}`)
    for (const user of [2, 3, 4]) await put(`/active/2026-11-02/${user}`)
    await put('/active/2026-11-01/1')
    t.same(await get('/active/2026-11-01'), { active: 4 })
    t.same(await get('/active?days=2026-11-01&days=2026-11-02'), { active: 2 })
    t.same(await redis.exists('shop:{active}:all:2026-11-01,2026-11-02'), 0, 'the result is removed')
    t.equal(await put('/active/2026-11-01/10000001'), 400, 'an offset that a client chooses is bounded')
    await Promise.all(Array.from({ length: 400 }, (_, i) => put(`/visitors/2026-11-0${1 + i % 2}/v${i % 300}`)))
    const { about } = await get('/visitors/2026-11-01/and/2026-11-02')
    t.ok(Math.abs(about - 300) <= 9, `${about} of 300`)
    t.ok(isTtl(await redis.ttl('shop:{visitors}:2026-11-01'), 90 * 86_400))
  })

  t.test(`${store}: MULTI changes two keys as one step, and one turn of the event loop reads many keys`, async t => {
    const { get, post } = await start(t, store, 'pipelines')
    const results = await Promise.all(Array.from({ length: 20 }, () => post('/orders/ann/300')))
    for (const { count, sum } of results) t.equal(sum, count * 300)
    await post('/orders/bob/1')
    t.same(await get('/orders?customers=ann,eve,bob'), { ann: 20, eve: 0, bob: 1 })
  })

  t.test(`${store}: concurrent buyers never take more pieces than there are`, async t => {
    const { redis, post, put } = await start(t, store, 'stock')
    t.equal(await post('/stock/7/take/1'), 409, 'nothing is in stock')
    await put('/stock/7/100')
    const taken = await Promise.all(Array.from({ length: 60 }, (_, i) => post(`/stock/7/take/${1 + i % 4}`)))
    const pieces = taken.map((result, i) => result === 409 ? 0 : 1 + i % 4).reduce((sum, amount) => sum + amount, 0)
    const left = Number(await redis.get('shop:stock:7'))
    t.equal(pieces + left, 100)
    t.ok(left < 4, `${left} left, fewer than the largest request`)
    const stocks = taken.filter(result => result !== 409).map(({ left }) => left)
    t.equal(new Set(stocks).size, stocks.length, 'no two saw the same stock')
    for (let i = left; i > 0; i--) t.same(await post('/stock/7/take/1'), { left: i - 1 })
    t.equal(await post('/stock/7/take/1'), 409)
    t.equal(await redis.get('shop:stock:7'), '0')
  })
}
