import { Redis } from 'ioredis'
import t from 'tap'
import { ScriptBatcher } from '../../plugins/rate-limit/batch.js'
import { applyScripts } from '../../plugins/rate-limit/scripts.js'
import { startRedis } from '../helpers/index.js'

const server = await startRedis()
const client = new Redis(server.url)
t.teardown(() => client.disconnect())

t.test('calls of one turn travel together, each gets its own reply, and one that fails does not concern the others', async t => {
  const batcher = new ScriptBatcher(client, applyScripts['sliding-log'])
  const consume = (key: string, max: number | string = 2) => batcher.run([key], ['consume', 1, 1, max, 60_000, max])
  await consume('warm')
  await server.client().config('RESETSTAT')
  const results = await Promise.allSettled([consume('a'), consume('a'), consume('a'), consume('b', 'nonsense'), consume('c')])
  t.same(results.map(({ status }) => status), ['fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
  const used = results.map(result => result.status === 'fulfilled' && Array.isArray(result.value) ? Number(result.value[result.value.length === 3 ? 1 : 3]) : undefined)
  t.same(used, [1, 2, 2, undefined, 1])
  t.match(await server.client().info('commandstats'), /cmdstat_evalsha:calls=1,/)
})

t.test('a thousand calls at once are split into batches, and none is lost', async t => {
  const batcher = new ScriptBatcher(client, applyScripts['sliding-log'])
  const replies = await Promise.all(Array.from({ length: 1000 }, (_, i) => batcher.run([`many-${i % 10}`], ['consume', 1, 1, 50, 60_000, 50])))
  const passed = replies.filter(reply => Array.isArray(reply) && (reply.length === 3 || reply[5] === 0)).length
  t.equal(passed, 500)
})

t.test('without a server every call is rejected', async t => {
  const gone = new Redis({ port: 1, retryStrategy: () => null, maxRetriesPerRequest: 0 })
  gone.on('error', () => {})
  const batcher = new ScriptBatcher(gone, applyScripts.gcra)
  const results = await Promise.allSettled([1, 2, 3].map(() => batcher.run(['k'], ['consume', 1, 1, 5, 1000, 5])))
  t.ok(results.every(({ status }) => status === 'rejected'))
})
