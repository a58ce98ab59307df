import { fork } from 'node:child_process'
import { once } from 'node:events'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { idempotency, type IdempotencyPluginOptions } from '../../plugins/idempotency/index.js'
import { redis } from '../../plugins/redis/index.js'
import { circuitOf } from '../../plugins/shared/guard.js'
import { startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
let prefixes = 0

async function build (t: Test, url: string, options: IdempotencyPluginOptions = {}, prefix = `f${++prefixes}`) {
  const { logger, lines, text } = collectLog()
  const app = Fastify({ loggerInstance: logger as never })
  t.teardown(() => app.close())
  await app.register(redis, { url, prefix, commandTimeout: 250 })
  await app.register(idempotency, options)
  const post = (key: string) => app.inject({ method: 'POST', url: '/', headers: { 'idempotency-key': key } })
  return { app, post, text, prefix, linesWith: (part: string) => lines.filter(line => String(line['msg']).includes(part)).length }
}

const on = { config: { idempotency: true } }

t.test('when the process that runs a request is killed, the next one runs when the lease is over, and not before', async t => {
  const lease = 1000
  const { app, post, prefix } = await build(t, server.url, { wait: '5s', timeout: '5s' })
  let runs = 0
  app.post('/', on, async () => ++runs)
  await app.ready()
  const child = fork(new URL('../fixtures/idempotent-instance.ts', import.meta.url), [server.url, prefix, String(lease)], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill('SIGKILL') })
  await once(child, 'message')
  const [key = ''] = await server.client().keys(`${prefix}:*`)
  // Longer than a lease: it is renewed.
  const begun = performance.now()
  await until('the lease would be over', async () => {
    t.ok(await server.client().pttl(key) > 0)
    return performance.now() - begun > 1.5 * lease
  })
  const answers = Promise.all(Array.from({ length: 20 }, () => post('k')))
  child.kill('SIGKILL')
  const killed = performance.now()
  t.same([...new Set((await answers).map(({ body }) => body))], ['1'])
  t.ok(performance.now() - killed > lease / 2, 'not before')
})

t.test('while Redis is gone a request with a key is refused within the time-out, and taken when Redis is back; one without a key runs', async t => {
  const own = await startRedis()
  const { app, post, linesWith } = await build(t, own.url, { timeout: '500ms' })
  let runs = 0
  app.post('/', on, async () => ++runs)
  t.equal((await post('before')).statusCode, 200)
  await own.kill()
  for (let i = 0; i < 20; i++) {
    const sinceStart = stopwatch()
    const refused = await post('k')
    t.match([refused.statusCode, refused.headers['retry-after'], refused.json().code], [503, '1', 'FST_REDIS_SUITE_IDEMPOTENCY_STORE_UNAVAILABLE'])
    t.ok(sinceStart() < 2000)
  }
  t.equal(runs, 1)
  t.equal((await app.inject({ method: 'POST', url: '/' })).statusCode, 200)
  await own.start()
  await until('it is taken', async () => (await post('k')).statusCode === 200)
  t.equal(runs, 3)
  t.same([linesWith('the store cannot be asked'), linesWith('the store answers again')], [1, 1])
})

t.test("with onStoreError 'open' a request runs while Redis is gone, and its answer is kept once Redis is back", async t => {
  const own = await startRedis()
  const { app, post } = await build(t, own.url, { onStoreError: 'open', lease: 300, timeout: '2s' })
  let runs = 0
  app.post('/', on, async () => ++runs)
  await app.ready()
  await own.kill()
  t.equal((await post('k')).body, '1')
  await own.start()
  await until('it is kept, and Redis is asked again', async () => (await own.client().keys('*')).length === 1 && circuitOf(app.redis)?.state === 'closed')
  t.equal((await post('k')).body, '1')
  t.equal(runs, 1)
})

t.test('an answer that Redis did not take is given, and kept once Redis is back', async t => {
  const own = await startRedis()
  const { app, post, linesWith } = await build(t, own.url, { lease: 600, timeout: '2s' })
  let runs = 0
  app.post('/', on, async () => {
    await own.kill()
    return ++runs
  })
  t.equal((await post('k')).body, '1')
  t.equal(linesWith('an answer is not kept yet'), 1)
  await own.start()
  await until('it is kept, and Redis is asked again', async () =>
    await own.client().hget((await own.client().keys('*'))[0] ?? '', 'head') !== null && circuitOf(app.redis)?.state === 'closed')
  t.match(await post('k'), { body: '1', headers: { 'idempotency-replayed': 'true' } })
  t.equal(runs, 1)
})

t.test('a server that refuses to write is one that cannot be asked; one that lost its scripts is not', async t => {
  const { app, post, linesWith } = await build(t, server.url)
  let runs = 0
  app.post('/', on, async () => ++runs)
  await server.client().config('SET', 'maxmemory', '1')
  for (let i = 0; i < 3; i++) t.equal((await post('k')).statusCode, 503)
  await server.client().config('SET', 'maxmemory', '0')
  t.equal(linesWith('the store cannot be asked'), 1)
  await server.client().script('FLUSH')
  t.same([(await post('k')).body, (await post('k')).body], ['1', '1'])
})

t.test('whoever lost the claim does not put an answer in the place of the next one', async t => {
  const { app, post, prefix, linesWith } = await build(t, server.url, { lease: 300 })
  const goOn: Array<() => void> = []
  app.post('/', on, async () => {
    const run = goOn.length + 1
    await new Promise<void>(resolve => { goOn.push(resolve) })
    return run
  })
  const first = post('k')
  await until('it is under way', () => goOn.length === 1)
  await server.client().del(await server.client().keys(`${prefix}:*`))
  await until('it is seen', () => linesWith('a claim ended while its request is under way') === 1)
  const second = post('k')
  await until('the next one runs', () => goOn.length === 2)
  goOn[0]?.()
  t.equal((await first).body, '1')
  goOn[1]?.()
  t.equal((await second).body, '2')
  t.equal((await post('k')).body, '2')
  t.equal(linesWith('an answer is not kept, as its key was taken'), 1)
})

t.test('each key that is written has an end, and shows neither the key nor its owner', async t => {
  const { app, post, prefix, text } = await build(t, server.url)
  app.post('/', on, async () => 'done')
  await post('a-secret-key')
  const keys = await server.client().keys(`${prefix}:*`)
  t.match(keys, [new RegExp(`^${prefix}:idempotency:key:[\\w-]{43}$`)])
  const left = await server.client().pttl(keys[0] ?? '')
  t.ok(left > 86_000_000 && left <= 86_400_000)
  t.notMatch(text() + keys.join(), /a-secret-key/)
})

t.test('what is kept of an answer and cannot be read is 503 by a code, runs nothing, and is not told in the log', async t => {
  const { app, post, prefix, text } = await build(t, server.url)
  let runs = 0
  app.post('/', on, async () => ({ run: ++runs }))
  t.equal((await post('key')).statusCode, 200)
  const client = server.client()
  const key = `${prefix}:idempotency:key:`
  const [kept = ''] = (await client.keys(`${key}*`))
  const heads = ['secret', '{"secret', 'null', '[]', '-1', '"secret"', '{"status":200}', '{"status":"200","headers":{}}', '{"status":99,"headers":{}}', '{"status":600,"headers":{}}',
    '{"status":200,"headers":null}', '{"status":200,"headers":{"x":1}}', '{"status":200,"headers":{"x":[null]}}', '{"status":200,"headers":{"x y":"a"}}', '{"status":200,"headers":{"x":"a\\r\\nsecret: b"}}']
  for (const head of heads) {
    await client.hset(kept, 'head', head)
    const { statusCode, body } = await post('key')
    t.equal(statusCode, 503, head)
    t.match(body, 'FST_REDIS_SUITE_IDEMPOTENCY_STORE_UNAVAILABLE')
  }
  t.equal(runs, 1)
  t.notMatch(text(), 'secret')
  t.match(text(), 'what is kept of an answer cannot be read')
})
