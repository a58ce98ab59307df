import { Redis } from 'ioredis'
import { Registry } from 'prom-client'
import t from 'tap'
import { watchCommands } from '../../plugins/metrics/commands.js'
import { FastHistogram } from '../../plugins/metrics/histogram.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { newPrefix, sharedRedis, startRedis, until } from '../helpers/index.js'
import { Scrape } from '../helpers/metrics/scrape.js'

const server = await sharedRedis()

t.test('a command that waits for a connection is timed once, with the time that it waited', async t => {
  const own = await startRedis()
  await own.kill()
  const client = new Redis(own.url, { retryStrategy: () => 20, maxRetriesPerRequest: null })
  t.teardown(() => client.disconnect())
  client.on('error', () => {})
  const clock = createTestClock()
  const told: Array<[string, number, boolean]> = []
  watchCommands(client, (command, ms, failed) => { if (command === 'set') told.push([command, ms, failed]) }, clock)
  const written = client.set('k', 'v')
  await clock.advance('1 minute')
  await own.restart()
  await written
  t.same(told, [['set', 60_000, false]])
})

t.test('a client has several listeners until each is removed, and its own method back after the last one', async t => {
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

t.test('an error of a command reaches its caller alone, and no promise stays unhandled', async t => {
  const client = new Redis(server.url, { enableAutoPipelining: true })
  t.teardown(() => client.disconnect())
  const unhandled: unknown[] = []
  const listener = (reason: unknown) => { unhandled.push(reason) }
  process.on('unhandledRejection', listener)
  t.teardown(() => process.off('unhandledRejection', listener))
  const text = newPrefix()
  let failed = 0
  watchCommands(client, (command, _ms, hasFailed) => { if (command === 'lpush' && hasFailed) failed++ })
  await client.set(text, 'x')
  await t.rejects(client.lpush(text, 'x'), /WRONGTYPE/)
  const [result] = await client.pipeline().lpush(text, 'x').exec() ?? []
  t.match(result?.[0]?.message, /WRONGTYPE/)
  await until('both are told', () => failed === 2)
  t.same(unhandled, [])
})

t.test('commands that block in Redis are not timed', async t => {
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  const told: string[] = []
  watchCommands(client, command => { told.push(command) })
  await client.blpop(newPrefix(), 0.05)
  await client.ping()
  t.notOk(told.includes('blpop'))
  t.ok(told.includes('ping'))
})

t.test('a histogram has 5,000 combinations of labels at most, the others are one, and nothing is lost', async t => {
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

t.test('a histogram has the bounds of prom-client: a value on a bound is in its bucket, one above all is in +Inf alone', async t => {
  const registry = new Registry()
  const histogram = new FastHistogram({ name: 'x_seconds', help: 'x', labelNames: [], buckets: [1, 2], registers: [registry] })
  for (const value of [0, 1, 1.5, 2, 3]) histogram.series().observe(value)
  const found = new Scrape(await registry.metrics())
  t.same(['1', '2', '+Inf'].map(le => found.sum('x_seconds_bucket', { le })), [2, 4, 5])
  t.equal(found.sum('x_seconds_sum'), 7.5)
})

t.test('a histogram goes on counting after its registry was reset', async t => {
  const registry = new Registry()
  const series = new FastHistogram({ name: 'x_seconds', help: 'x', labelNames: ['a'], buckets: [1], registers: [registry] }).series('y')
  series.observe(1)
  registry.resetMetrics()
  t.equal(new Scrape(await registry.metrics()).sum('x_seconds_count'), 0)
  series.observe(1)
  t.equal(new Scrape(await registry.metrics()).sum('x_seconds_count', { a: 'y' }), 1)
})

t.test('a method that another package put on the client stays, whether it came before or after', async t => {
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
