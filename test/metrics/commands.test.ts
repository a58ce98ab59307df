import { Redis } from 'ioredis'
import { Registry } from 'prom-client'
import t from 'tap'
import { watchCommands } from '../../plugins/metrics/commands.js'
import { FastHistogram } from '../../plugins/metrics/histogram.js'
import { startRedis, until } from '../helpers/index.js'
import { Scrape } from '../helpers/metrics/scrape.js'

const server = await startRedis()

t.test('a command that waits for a connection is told once, with the time that it waited', async t => {
  const own = await startRedis()
  await own.kill()
  const client = new Redis(own.url, { retryStrategy: () => 20, maxRetriesPerRequest: null })
  t.teardown(() => client.disconnect())
  client.on('error', () => {})
  const told: Array<[string, number, boolean]> = []
  watchCommands(client, (command, ms, failed) => { if (command === 'set') told.push([command, ms, failed]) })
  const written = client.set('k', 'v')
  const started = performance.now()
  await own.restart()
  await written
  t.equal(told.length, 1)
  t.ok(told[0]![1] <= performance.now() - started + 50)
  t.equal(told[0]![2], false)
})

t.test('several listen to one client, each until it ends it, and the last one gives the client its own method back', async t => {
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  const told: string[] = []
  const ends = ['a', 'b'].map(name => watchCommands(client, command => { told.push(`${name} ${command}`) }))
  await client.ping()
  ends[0]!()
  ends[0]!()
  await client.get('k')
  ends[1]!()
  await client.echo('x')
  t.same(told.filter(line => /ping|get|echo/.test(line)), ['a ping', 'b ping', 'b get'])
  t.notOk(Object.hasOwn(client, 'sendCommand'))
})

t.test('an error of a command reaches its caller alone, also where nobody waits for the listener', async t => {
  const client = new Redis(server.url, { enableAutoPipelining: true })
  t.teardown(() => client.disconnect())
  const unhandled: unknown[] = []
  const listener = (reason: unknown) => { unhandled.push(reason) }
  process.on('unhandledRejection', listener)
  t.teardown(() => process.off('unhandledRejection', listener))
  let failed = 0
  watchCommands(client, (command, _ms, hasFailed) => { if (command === 'lpush' && hasFailed) failed++ })
  await client.set('text', 'x')
  await t.rejects(client.lpush('text', 'x'), /WRONGTYPE/)
  const [result] = await client.pipeline().lpush('text', 'x').exec() ?? []
  t.match(result?.[0]?.message, /WRONGTYPE/)
  await until('both are told', () => failed === 2)
  t.same(unhandled, [])
})

t.test('commands that wait by themselves are not told', async t => {
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  const told: string[] = []
  watchCommands(client, command => { told.push(command) })
  await client.blpop('nothing', 0.05)
  await client.ping()
  t.notOk(told.includes('blpop'))
  t.ok(told.includes('ping'))
})

t.test('a histogram has an end: what is beyond 5,000 combinations is one, and nothing is lost', async t => {
  const registry = new Registry()
  const histogram = new FastHistogram({ name: 'x_seconds', help: 'x', labelNames: ['a', 'b'], buckets: [1, 2], registers: [registry] })
  for (let i = 0; i < 6000; i++) histogram.series(String(i), 'b"\\\n').observe(i % 3)
  const found = new Scrape(await registry.metrics())
  t.equal(found.sum('x_seconds_count'), 6000)
  t.equal(found.sum('x_seconds_count', { a: 'other', b: 'other' }), 1000)
  t.equal(found.sum('x_seconds_bucket', { le: '1' }), 4000)
  t.equal(found.sum('x_seconds_bucket', { le: '2' }), 6000)
  t.equal(found.size, 5001 * 5)
  t.match((await registry.getMetricsAsJSON())[0], { name: 'x_seconds', type: 'histogram' })
})

t.test('its bounds are as those of prom-client: a value on a bound is in its bucket, one above all is in +Inf alone', async t => {
  const registry = new Registry()
  const histogram = new FastHistogram({ name: 'x_seconds', help: 'x', labelNames: [], buckets: [1, 2], registers: [registry] })
  for (const value of [0, 1, 1.5, 2, 3]) histogram.series().observe(value)
  const found = new Scrape(await registry.metrics())
  t.same(['1', '2', '+Inf'].map(le => found.sum('x_seconds_bucket', { le })), [2, 4, 5])
  t.equal(found.sum('x_seconds_sum'), 7.5)
})

t.test('it goes on counting after its registry was reset', async t => {
  const registry = new Registry()
  const series = new FastHistogram({ name: 'x_seconds', help: 'x', labelNames: ['a'], buckets: [1], registers: [registry] }).series('y')
  series.observe(1)
  registry.resetMetrics()
  t.equal(new Scrape(await registry.metrics()).sum('x_seconds_count'), 0)
  series.observe(1)
  t.equal(new Scrape(await registry.metrics()).sum('x_seconds_count', { a: 'y' }), 1)
})

t.test('what others put in the place of a method stays, whether it came before or after', async t => {
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  await client.ping()
  const passed: string[] = []
  const put = (name: string) => {
    const send = client.sendCommand
    client.sendCommand = function (...args: Parameters<typeof send>) {
      passed.push(name)
      return send.apply(this, args)
    }
  }
  put('before')
  watchCommands(client, () => {})()
  await client.get('k')
  t.same(passed.splice(0), ['before'])

  const told: string[] = []
  const end = watchCommands(client, command => { told.push(command) })
  put('after')
  await client.get('k')
  end()
  await client.echo('x')
  t.same(passed, ['after', 'before', 'after', 'before'])
  t.same(told, ['get'])
})
