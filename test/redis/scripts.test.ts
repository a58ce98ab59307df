import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { callRedis, circuitOf, clusterOf, defineScript, runScript, type IoredisClient, type RedisScript } from '../../plugins/redis/index.js'
import { advanceUntil, createTestApp, sharedRedis, startCluster, startRedis, until } from '../helpers/index.js'
import { lacking } from '../helpers/servers/commands.js'

const UNAVAILABLE = { code: 'FST_REDIS_SUITE_REDIS_STORE_UNAVAILABLE', statusCode: 503 }
const INVALID = { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION' }
/** The clock stands still, so no deadline passes on a busy machine. */
const PATIENT = { timeout: '1h' } as const

const takeStock = defineScript({
  keys: ['stock', 'buyers'],
  args: { buyer: 'string', amount: 'number' },
  lua: `
    local left = tonumber(redis.call('GET', stock)) or 0
    if left < amount then return nil end
    redis.call('HINCRBY', buyers, buyer, amount)
    return redis.call('DECRBY', stock, amount)`,
  reply: left => left === null ? undefined : Number(left)
})

const noFlags = await lacking('function')

for (const store of ['redis', 'cluster'] as const) {
  t.test(`${store}: two instances run a script with named keys and arguments, and no concurrent call takes more than there is`, async t => {
    const { apps, clock, prefix } = await createTestApp(t, { store, instances: 2 })
    const options = { ...PATIENT, clock }
    const keys = { stock: `${prefix}:stock:{7}`, buyers: `${prefix}:buyers:{7}` }
    await callRedis(apps[0]!, redis => redis.set(keys.stock, 21), options)
    const taken = await Promise.all(Array.from({ length: 40 }, async (_, i) =>
      await runScript(apps[i % 2]!, takeStock, keys, { buyer: i % 4 === 0 ? 'ann' : 'bob', amount: 2 }, options)))
    t.same(taken.filter(left => left !== undefined).sort((a, b) => b - a), [19, 17, 15, 13, 11, 9, 7, 5, 3, 1])
    const hash = await callRedis(apps[1]!, redis => redis.hgetall(keys.buyers), options)
    t.equal(Number(hash['ann'] ?? 0) + Number(hash['bob'] ?? 0), 20)
  })
}

async function oneApp (t: Test) {
  const { app, clock, prefix, lines } = await createTestApp(t, { store: 'redis' })
  const options = { ...PATIENT, clock }
  const run = async (script: RedisScript<'key', {}>, key = `${prefix}:key`) => await runScript(app, script, { key }, {}, options)
  return { app, clock, prefix, lines, options, run }
}

const keyOnly = (lua: string, more: { time?: boolean } = {}) => defineScript({ keys: ['key'], lua, ...more })

t.test('a server that has lost its scripts gets the text of the script', async t => {
  const { run } = await oneApp(t)
  const script = keyOnly("return redis.call('INCR', key)")
  t.equal(await run(script), 1)
  await (await sharedRedis()).client().script('FLUSH')
  t.same([await run(script), await run(script)], [2, 3])
})

t.test('`now` is the time of the clock, or else of Redis, and takes no place among the arguments', async t => {
  const { app, clock, prefix, options } = await oneApp(t)
  const script = defineScript({ keys: ['key'], args: { last: 'string' }, time: true, lua: "return { string.format('%.0f', now), last, #ARGV }" })
  const read = async (more: object) => await runScript(app, script, { key: prefix }, { last: 'x' }, { ...options, ...more })
  t.same(await read({}), [String(clock.now()), 'x', 1])
  const [seconds] = await app.redis.time()
  const [now, ...rest] = await read({ clock: undefined }) as [string, string, number]
  t.same(rest, ['x', 1])
  t.match(Math.abs(Number(now) - Number(seconds) * 1000) < 60_000, true, `${now} beside ${seconds}`)
})

t.test('arguments keep their types: text, bytes, numbers with fractions', async t => {
  const { app, prefix, options } = await oneApp(t)
  const script = defineScript({
    keys: ['key'],
    args: { text: 'string', bytes: 'string', number: 'number' },
    lua: "redis.call('SET', key, bytes) return { type(text), type(number), tostring(number * 2), #bytes, text }"
  })
  const args = { text: 'ä\n]]', bytes: Buffer.of(0, 255, 10), number: -0.25 }
  t.same(await runScript(app, script, { key: `${prefix}:b` }, args, options), ['string', 'number', '-0.5', 3, 'ä\n]]'])
  t.same(await app.redis.getBuffer(`${prefix}:b`), args.bytes)
})

t.test('an error of a script names a line of its own text', async t => {
  const { run } = await oneApp(t)
  await t.rejects(run(keyOnly("local a = 1\nlocal b = 2\nreturn redis.call('LPUSH')")), { message: /user_script:3|script: \w+, on @user_script:3/ })
})

t.test('a flag of the first line of a script holds', { skip: noFlags }, async t => {
  const { run } = await oneApp(t)
  await t.rejects(run(keyOnly("#!lua flags=no-writes\nreturn redis.call('SET', key, 1)")), { message: /Write commands are not allowed/ })
})

t.test('a script may begin with a parenthesis or a comment', async t => {
  const { app, prefix, options } = await oneApp(t)
  for (const lua of ['(function () return 1 end)() return a .. b', '\n(function () return 1 end)()\nreturn a .. b', '-- a comment\nreturn a .. b', '--[[ a comment ]] return a .. b']) {
    const script = defineScript({ keys: ['a'], args: { b: 'string' }, lua })
    t.equal(await runScript(app, script, { a: `${prefix}:a` }, { b: 'b' }, options), `${prefix}:ab`, lua)
  }
})

t.test('a definition that cannot work is refused with the name of its part', async t => {
  const define = (definition: object) => () => defineScript(definition as never)
  const lua = 'return 1'
  t.throws(define({ keys: ['a'], lua: '' }), { ...INVALID, message: /option "lua" must be the text of a script/ })
  t.throws(define({ keys: [], lua }), { ...INVALID, message: /option "keys" must be a list of at least one name/ })
  for (const keys of [['a', 'a'], ['end'], ['now'], ['a-b'], ['redis'], [7]]) t.throws(define({ keys, lua }), { ...INVALID, message: /option "keys" must be names of Lua variables/ }, String(keys))
  t.throws(define({ keys: ['a'], args: { a: 'string' }, lua }), { ...INVALID, message: /option "args"/ })
  t.throws(define({ keys: ['a'], args: { b: 'integer' }, lua }), { ...INVALID, message: /option "args.b" must be 'string' or 'number', but was the string "integer"/ })
  t.throws(define({ keys: ['a'], args: ['b'], lua }), INVALID)
  t.throws(define({ keys: ['a'], lua, reply: 'number' }), INVALID)
  t.throws(define({ keys: ['a'], lua, time: 1 }), INVALID)
  t.throws(define({ key: ['a'], lua }), { ...INVALID, message: /unknown option "key"; did you mean "keys"/ })
})

t.test('a call with a wrong key, argument, option or app is refused before a command is sent', async t => {
  const { app, prefix } = await oneApp(t)
  const keys = { stock: `${prefix}:s`, buyers: `${prefix}:b` }
  const args = { buyer: 'ann', amount: 1 }
  const call = async (given: object, values: object = args, options = {}) => await runScript(app, takeStock, given as typeof keys, values as typeof args, options)
  await t.rejects(call({ stock: 's' }), { ...INVALID, message: /argument "keys.buyers" must be a string that is not empty, but was undefined/ })
  await t.rejects(call({ ...keys, stok: 's' }), { ...INVALID, message: /unknown key "stok"; did you mean "stock"/ })
  await t.rejects(call(keys, { buyer: 'ann' }), { ...INVALID, message: /argument "args.amount" must be a number that is finite/ })
  await t.rejects(call(keys, { ...args, amount: NaN }), INVALID)
  await t.rejects(call(keys, { ...args, amount: '1' }), INVALID)
  await t.rejects(call(keys, { ...args, buyer: 7 }), { ...INVALID, message: /argument "args.buyer" must be a string or a Buffer, but was 7/ })
  await t.rejects(call(keys, { ...args, count: 7 }), { ...INVALID, message: /unknown argument "count"/ })
  await t.rejects(call(keys, args, { timeOut: 7 }), { ...INVALID, message: /did you mean "timeout"/ })
  const { app: other } = await createTestApp(t, {})
  await t.rejects(callRedis(other, redis => redis.ping()), { ...INVALID, message: /argument "app" must be an app with the plugin redis/ })
  t.equal(await callRedis(other, redis => redis.ping(), { client: app.redis, ...PATIENT }), 'PONG')
})

t.test('on a Cluster, keys of several slots are refused with the name of the key', async t => {
  const { app, prefix } = await createTestApp(t, { store: 'cluster' })
  const call = runScript(app, takeStock, { stock: `${prefix}:{a}`, buyers: `${prefix}:{b}` }, { buyer: 'ann', amount: 1 }, PATIENT)
  await t.rejects(call, { ...INVALID, message: /argument "keys.buyers" must be in the slot of keys.stock: give the keys of a call the same hash tag/ })
})

t.test('while Redis hangs, calls reject with 503 at their deadline and then at once, and Redis is used again when it is back', async t => {
  const server = await startRedis()
  const store = { url: server.url, answers: false }
  const { app, clock, prefix } = await createTestApp(t, { store, routes: app => app.get('/', async () => await callRedis(app, redis => redis.get('x'), { clock })) })
  const get = async () => await callRedis(app, redis => redis.get(prefix), { clock })
  t.equal(await get(), null)
  server.pause()
  t.teardown(() => server.resume())
  const calls = Promise.allSettled(Array.from({ length: 5 }, get))
  await clock.advance(150)
  for (const result of await calls) t.match(result, { reason: { ...UNAVAILABLE, cause: { code: 'FST_REDIS_SUITE_REDIS_TIMEOUT' } } })
  await t.rejects(get(), { ...UNAVAILABLE, cause: { code: 'FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN' } }, 'the clock has not advanced')
  await t.rejects(runScript(app, takeStock, { stock: 'a', buyers: 'b' }, { buyer: 'ann', amount: 1 }, { clock }), UNAVAILABLE)
  t.match(await app.inject('/'), { statusCode: 503, headers: { 'retry-after': '1' } })
  server.resume()
  await advanceUntil(clock, 'the circuit closes', () => circuitOf(app.redis)?.state === 'closed')
  t.equal(await get(), null)
})

t.test('while Redis is late, a patient call is sent and waits, and others are refused at once', async t => {
  const server = await startRedis()
  const { app, clock, prefix } = await createTestApp(t, { store: { url: server.url, answers: false } })
  const get = async (patient: boolean) => await callRedis(app, redis => redis.get(prefix), { clock, patient })
  t.equal(await get(true), null)
  server.pause()
  t.teardown(() => server.resume())
  const calls = Promise.allSettled(Array.from({ length: 5 }, async () => await get(false)))
  await clock.advance(150)
  await calls
  t.match(circuitOf(app.redis), { state: 'late' })
  const patient = get(true)
  await t.rejects(get(false), { ...UNAVAILABLE, cause: { code: 'FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN' } })
  server.resume()
  t.equal(await patient, null)
})

t.test('a pipeline whose commands got no reply rejects, as a single command does', async t => {
  const server = await startRedis()
  const { app } = await createTestApp(t, { store: { url: server.url, answers: false } })
  const both = async (redis: IoredisClient) => await redis.pipeline().set('a', '1').get('a').exec()
  t.same(await callRedis(app, both, PATIENT), [[null, 'OK'], [null, '1']])
  await server.kill()
  await t.rejects(callRedis(app, both, PATIENT), UNAVAILABLE)
})

t.test('an error of the operation itself is thrown as it is, and does not open the circuit', async t => {
  const { app, prefix, options } = await oneApp(t)
  for (const error of [new Error('sold out'), new TypeError('x is not a function'), Object.assign(new Error('gone'), { statusCode: 410 }), 'a string']) {
    const results = await Promise.allSettled(Array.from({ length: 10 }, async () => await callRedis(app, () => { throw error }, options)))
    t.ok(results.every(result => result.status === 'rejected' && result.reason === error), String(error))
  }
  const refused = () => new Promise<void>((_resolve, reject) => { connect(1, '127.0.0.1').on('error', reject) })
  for (const [own, code] of [[() => readFile('/no/such/file'), 'ENOENT'], [refused, 'ECONNREFUSED']] as const) {
    const results = await Promise.allSettled(Array.from({ length: 10 }, async () => await callRedis<unknown>(app, own, options)))
    t.ok(results.every(result => result.status === 'rejected' && result.reason.code === code), `system errors of the operation: ${code}`)
  }
  await app.redis.set(`${prefix}:text`, 'x')
  await t.rejects(callRedis(app, redis => redis.lpush(`${prefix}:text`, 'y'), options), { name: 'ReplyError', message: /^WRONGTYPE/ })
  t.match(circuitOf(app.redis), { state: 'closed', failures: 0 })
})

t.test('a Redis that is full refuses writes with 503, and the cause does not repeat the arguments', async t => {
  const server = await startRedis()
  const { app, clock } = await createTestApp(t, { store: { url: server.url } })
  await server.client().config('SET', 'maxmemory', '1')
  const options = { ...PATIENT, clock }
  const script = defineScript({ keys: ['key'], args: { value: 'string' }, lua: "return redis.call('SET', key, value)" })
  for (const call of [callRedis(app, redis => redis.set('key', 'secret'), options), runScript(app, script, { key: 'key' }, { value: 'secret' }, options)]) {
    const error = await call.then(() => undefined, (error: Error) => error)
    t.match(error, { ...UNAVAILABLE, cause: { message: /OOM/ } })
    t.notMatch(JSON.stringify([error?.cause, Object.entries(error?.cause ?? {})]), /secret/)
  }
  t.match(circuitOf(app.redis), { state: 'closed' })
})

t.test('on a Cluster, a call with the key of a hanging node is refused at once, and others pass', async t => {
  const servers = await startCluster({ nodeTimeout: 60_000 })
  const { app, clock } = await createTestApp(t, { store: { startupNodes: servers.startupNodes, answers: false } })
  const keys = ['{a}', '{b}', '{c}', '{d}', '{e}', '{f}']
  const hung = await servers.masterOf('{a}')
  const there = await Promise.all(keys.map(async key => (await servers.masterOf(key)) === hung))
  const [onHung = '', other = ''] = [keys[there.indexOf(true)], keys[there.indexOf(false)]]
  const get = async (key: string) => await callRedis(app, redis => redis.get(key), { nodeOf: key, clock })
  t.same([await get(onHung), await get(other)], [null, null])
  hung.server.pause()
  t.teardown(() => hung.server.resume())
  const first = t.rejects(get(onHung), { ...UNAVAILABLE, cause: { code: 'FST_REDIS_SUITE_REDIS_TIMEOUT' } })
  await clock.advance(150)
  await first
  await advanceUntil(clock, 'the node is known to hang', async () => await get(onHung).catch(error => error.cause?.code === 'FST_REDIS_SUITE_REDIS_NODE_DOWN'))
  await until('the other node replies', async () => await get(other) === null)
  await t.rejects(get(onHung), { ...UNAVAILABLE, cause: { code: 'FST_REDIS_SUITE_REDIS_NODE_DOWN' } })
})

t.test('on a Cluster, a duplicate without commandTimeout waits for a blocking command longer than the client itself', async t => {
  const { app, prefix } = await createTestApp(t, { store: 'cluster', connection: { commandTimeout: 1000 } })
  const cluster = clusterOf(app.redis)
  const redisOptions = { ...cluster?.options.redisOptions, commandTimeout: undefined, socketTimeout: undefined }
  const queue = cluster?.duplicate([], { redisOptions })
  t.teardown(() => queue?.disconnect())
  t.equal(await queue?.blpop(`${prefix}:jobs`, 1.5), null)
})
