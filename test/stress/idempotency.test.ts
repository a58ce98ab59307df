import { fork } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { createTestApp, newPrefix, startRedis, until } from '../helpers/index.js'
import { byAddress, ON, post } from '../helpers/idempotency/requests.js'
import { monotonicMs } from '../helpers/timing/stalls.js'

const server = await startRedis()
const sleep = async (ms: number) => await new Promise(resolve => setTimeout(resolve, ms))

t.test('if the process that runs a request is killed, the next request runs when the lease has expired, and not before', async t => {
  const lease = 1000
  const prefix = newPrefix()
  let runs = 0
  const { app } = await createTestApp(t, {
    store: server,
    clock: 'real',
    prefix,
    plugins: { idempotency: { wait: '30s', timeout: '5s', scope: byAddress } },
    routes: app => { app.post('/', ON, async () => ++runs) }
  })
  const child = fork(new URL('../fixtures/idempotent-instance.ts', import.meta.url), [server.url, prefix, String(lease)], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill('SIGKILL') })
  await once(child, 'message')
  const [key = ''] = await server.client().keys(`${prefix}:*`)
  // Longer than a lease, which is renewed meanwhile.
  const begun = monotonicMs()
  const lefts: number[] = []
  await until('a lease has passed', async () => {
    lefts.push(await server.client().pttl(key))
    return monotonicMs() - begun > 1.5 * lease
  })
  t.ok(Math.min(...lefts) > 0, 'the claim stands')
  const answers = Promise.all(Array.from({ length: 20 }, async () => await post(app, '/', 'k')))
  child.kill('SIGKILL')
  const killed = monotonicMs()
  const left = await server.client().pttl(key)
  t.same((await answers).map(({ body }) => body), Array(20).fill('1'))
  t.ok(monotonicMs() - killed >= left - 1, `not before the ${left} ms that the lease had left`)
})

t.test('100 equal requests at once on each of 4 instances run once, and all get the response, for each of 20 keys', async t => {
  const runs: Record<string, number> = {}
  const { apps } = await createTestApp(t, {
    store: server,
    clock: 'real',
    instances: 4,
    connection: { commandTimeout: '30s' },
    plugins: { idempotency: { timeout: '30s', wait: '1 minute', scope: byAddress } },
    routes: app => {
      app.post('/orders', ON, async (request, reply) => {
        const key = request.idempotencyKey ?? ''
        await sleep(50)
        runs[key] = (runs[key] ?? 0) + 1
        return await reply.code(201).send({ run: runs[key] })
      })
    }
  })
  const keys = Array.from({ length: 20 }, (_, i) => `k${i}`)
  for (const key of keys) {
    const answers = await Promise.all(apps.flatMap(app => Array.from({ length: 100 }, async () => await post(app, '/orders', key, { a: 1 }))))
    t.same([...new Set(answers.map(({ statusCode, body }) => `${statusCode} ${body}`))], ['201 {"run":1}'])
    t.equal(answers.filter(({ headers }) => headers['idempotency-replayed'] === undefined).length, 1)
  }
  t.same(runs, Object.fromEntries(keys.map(key => [key, 1])))
})
