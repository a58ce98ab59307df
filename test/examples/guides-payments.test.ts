import t, { type Test } from 'tap'
import { build } from '../../examples/guides/payments.js'
import type { StandInOptions } from '../../examples/guides/stand-in.js'
import { startExample } from '../helpers/examples/start-example.js'
import { startStandIn } from '../helpers/examples/stand-in.js'
import { startRedis, until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

/** Two instances of the example on one Redis, and their payment provider. */
async function start (t: Test, options: StandInOptions = {}) {
  const [server, provider] = await Promise.all([startRedis(), startStandIn(t, options)])
  process.env['REDIS_URL'] = server.url
  process.env['PROVIDER_URL'] = provider.url
  const apps = await Promise.all([build(), build()])
  t.teardown(async () => { await Promise.all(apps.map(app => app.close())) })
  const pay = async (instance: number, key: string, payload: object = { cents: 500, card: '4242' }, customer = 'ann') => {
    const response = await apps[instance]?.inject({ method: 'POST', url: '/payments', headers: { 'x-api-key': `key-of-${customer}`, 'idempotency-key': key }, payload })
    return { status: response?.statusCode, replayed: response?.headers['idempotency-replayed'], body: response?.json() }
  }
  return { server, provider, pay }
}

t.test('ten equal requests at once, to two instances, charge the card once', async t => {
  const { provider, pay } = await start(t)
  const responses = await Promise.all(Array.from({ length: 10 }, async (_, i) => await pay(i % 2, 'order-7')))
  t.same(responses.map(({ status, body }) => [status, body]), Array(10).fill([201, { charge: '1', cents: 500 }]))
  t.equal(responses.filter(({ replayed }) => replayed === 'true').length, 9)
  t.match(await provider.state(), { requests: 1, done: [{ path: '/charges', body: { cents: 500, card: '4242' } }] })
})

t.test('two customers with the same key have a charge each, and another amount under a used key is refused', async t => {
  const { provider, pay } = await start(t)
  await pay(0, '1')
  t.match(await pay(1, '1', undefined, 'bob'), { status: 201, body: { charge: '2' } })
  t.equal((await pay(1, '1', { cents: 900, card: '4242' })).status, 422)
  const { done } = await provider.state()
  t.equal(new Set(done.map(({ key }) => key)).size, 2)
})

t.test('a declined card is replayed, and the provider is not asked again', async t => {
  const { provider, pay } = await start(t, { refuse: () => 402 })
  t.match(await pay(0, 'a'), { status: 402, replayed: undefined })
  t.match(await pay(1, 'a'), { status: 402, replayed: 'true', body: { error: 'the card was declined' } })
  t.equal((await provider.state()).requests, 1)
})

t.test('a failure of the provider is not stored: the retry charges, with the same provider key', async t => {
  const { provider, pay } = await start(t, { refuse: (_body, attempt) => attempt === 1 ? 500 : undefined })
  t.equal((await pay(0, 'a')).status, 502)
  t.match(await pay(1, 'a'), { status: 201, body: { charge: '1' } })
  t.match(await provider.state(), { requests: 2, done: { length: 1 } })
})

t.test('an instance that is killed between the charge and its response does not cause a second charge', async t => {
  let isCharged = false
  const { server, provider, pay } = await start(t, {
    delay (_body, attempt) {
      if (attempt > 1) return undefined
      isCharged = true
      return new Promise(() => {})
    }
  })
  const instance = await startExample(t, 'payments', { REDIS_URL: server.url, PROVIDER_URL: provider.url })
  const headers = { 'x-api-key': 'key-of-ann', 'idempotency-key': 'order-8', 'content-type': 'application/json' }
  const first = fetch(`${instance.url}/payments`, { method: 'POST', headers, body: '{"cents":500,"card":"4242"}' }).then(() => 'a response', () => 'no response')
  await until('the card is charged', () => isCharged)
  await instance.stop('SIGKILL')
  t.equal(await first, 'no response')
  // The lease of the dead instance passes.
  const redis = server.client()
  for (const key of await redis.keys('payments:idempotency:key:*')) await redis.pexpire(key, 1)
  t.match(await pay(0, 'order-8'), { status: 201, replayed: undefined, body: { charge: '1' } })
  t.match(await pay(1, 'order-8'), { status: 201, replayed: 'true', body: { charge: '1' } })
  t.match(await provider.state(), { requests: 2, done: { length: 1 } })
})

t.test('while Redis is unavailable a payment is refused with 503, and no card is charged', async t => {
  const { server, provider, pay } = await start(t)
  await server.kill()
  t.equal((await pay(0, 'a')).status, 503)
  t.equal((await provider.state()).requests, 0)
  await server.restart()
  await until('Redis is used again', async () => (await pay(0, 'a')).status === 201)
  t.equal((await provider.state()).done.length, 1)
})
