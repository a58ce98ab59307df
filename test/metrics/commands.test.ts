import { AsyncLocalStorage } from 'node:async_hooks'
import { context, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, type Context, type ContextManager } from '@opentelemetry/api'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import type { FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { Registry } from 'prom-client'
import t, { type Test } from 'tap'
import { watchCommands } from '../../plugins/metrics/commands.js'
import { FastHistogram } from '../../plugins/metrics/histogram.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { createTestApp, newPrefix, sharedRedis, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { Scrape } from '../helpers/metrics/scrape.js'
import { Browser } from '../helpers/session/session-app.js'

const server = await sharedRedis()

t.test('a command that waits for a connection is timed once, including the wait', async t => {
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

t.test('a client may have several listeners, and has its own method again after the last one is removed', async t => {
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

t.test('an error of a command reaches only its caller, and no rejection is unhandled', async t => {
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
  await until('both listeners are called', () => failed === 2)
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

t.test('a histogram has at most 5,000 combinations of labels; all further ones share one, and no observation is lost', async t => {
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

t.test('a histogram has the bounds of prom-client: a value on a bound is in its bucket, one above all bounds only in +Inf', async t => {
  const registry = new Registry()
  const histogram = new FastHistogram({ name: 'x_seconds', help: 'x', labelNames: [], buckets: [1, 2], registers: [registry] })
  for (const value of [0, 1, 1.5, 2, 3]) histogram.series().observe(value)
  const found = new Scrape(await registry.metrics())
  t.same(['1', '2', '+Inf'].map(le => found.sum('x_seconds_bucket', { le })), [2, 4, 5])
  t.equal(found.sum('x_seconds_sum'), 7.5)
})

t.test('a histogram counts on after a reset of its registry', async t => {
  const registry = new Registry()
  const series = new FastHistogram({ name: 'x_seconds', help: 'x', labelNames: ['a'], buckets: [1], registers: [registry] }).series('y')
  series.observe(1)
  registry.resetMetrics()
  t.equal(new Scrape(await registry.metrics()).sum('x_seconds_count'), 0)
  series.observe(1)
  t.equal(new Scrape(await registry.metrics()).sum('x_seconds_count', { a: 'y' }), 1)
})

t.test('a method that another package put on the client stays, whether it was set before or after', async t => {
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

/** A minimal form of the context manager in OpenTelemetry's package for Node.js. */
class Contexts implements ContextManager {
  readonly #storage = new AsyncLocalStorage<Context>()
  active (): Context { return this.#storage.getStore() ?? ROOT_CONTEXT }
  with<A extends unknown[], F extends (...args: A) => ReturnType<F>> (active: Context, fn: F, thisArg?: ThisParameterType<F>, ...args: A): ReturnType<F> {
    return this.#storage.run(active, () => fn.call(thisArg as never, ...args))
  }

  bind<T> (_context: Context, target: T): T { return target }
  enable (): this { return this }
  disable (): this { return this }
}

const exporter = new InMemorySpanExporter()
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }))
context.setGlobalContextManager(new Contexts())
const tracer = trace.getTracer('test')

async function build (t: Test, tracing: boolean, store: TestAppOptions['store'] = 'redis'): Promise<FastifyInstance> {
  const { app } = await createTestApp(t, {
    store: store!,
    plugins: { metrics: { tracing }, rateLimit: { max: 100, timeWindow: '1 minute' }, session: {}, cache: { l1: false } },
    routes (app) {
      app.get('/value', async () => await app.cache.getOrSet('secret key', () => 'secret value', { ttl: '1m' }))
      app.post('/visit', async request => { Object.assign(request.session, { secret: 'secret visit' }) })
    }
  })
  exporter.reset()
  return app
}

/** @returns the spans within a span of the test, by name */
async function within (work: () => Promise<unknown>) {
  exporter.reset()
  const parent = tracer.startSpan('request')
  // Awaited within the span, as inject sends the request only then.
  await context.with(trace.setSpan(context.active(), parent), async () => await work())
  parent.end()
  // Spans of earlier requests' background work are left out.
  const spans = exporter.getFinishedSpans().filter(span => span.spanContext().traceId === parent.spanContext().traceId)
  return { spans, names: spans.map(({ name }) => name), find: (name: string) => spans.find(span => span.name === name), parent }
}

t.test('a traced request has spans of the plugins, with results and without secrets', async t => {
  const app = await build(t, true)
  const browser = new Browser(app)
  const missed = await within(() => app.inject('/value'))
  // The value is stored in the background.
  await until('the value is stored', () => app.cache.has('secret key'))
  const hit = await within(() => app.inject('/value'))
  const written = await within(() => browser.send('POST', '/visit'))
  const read = await within(() => browser.send('POST', '/visit'))

  t.equal(missed.find('cache lookup')?.attributes['cache.result'], 'miss')
  t.ok(missed.find('cache factory'))
  t.equal(missed.find('rate-limit decide')?.attributes['rate_limit.allowed'], true)
  t.equal(hit.find('cache lookup')?.attributes['cache.result'], 'hit')
  t.notOk(hit.find('cache factory'))
  t.ok(written.find('session write'))
  t.ok(read.find('session read'))
  const lookup = hit.find('cache lookup')
  const command = hit.spans.find(span => span.name === 'redis cache' && span.parentSpanContext?.spanId === lookup?.spanContext().spanId)
  t.match(command, { kind: SpanKind.CLIENT, attributes: { 'db.system.name': 'redis', 'fastify_redis_suite.plugin': 'cache' } })
  t.equal(lookup?.parentSpanContext?.spanId, hit.parent.spanContext().spanId)
  for (const { spans } of [missed, hit, written, read]) {
    const told = JSON.stringify(spans.map(({ name, attributes, events, status }) => ({ name, attributes, events, status })))
    t.notMatch(told, /secret/)
  }
})

t.test('a failure is a span with the error status and the type of the error, without its message', async t => {
  const own = await startRedis()
  const app = await build(t, true, own)
  await own.kill()
  const { find, spans } = await within(() => app.inject('/value'))
  const failed = spans.filter(span => span.name === 'redis cache' && span.status.code === SpanStatusCode.ERROR)
  t.equal(failed.length, 1)
  t.equal(failed[0]?.status.message, undefined)
  t.ok(failed[0]?.attributes['error.type'])
  t.equal(find('cache lookup')?.attributes['cache.result'], 'unanswered')
})

t.test('there are no spans without tracing: true, without a traced request, and after the app is closed', async t => {
  const app = await build(t, false)
  t.same((await within(() => app.inject('/value'))).names, ['request'])
  const traced = await build(t, true)
  await traced.inject('/value')
  t.same(exporter.getFinishedSpans(), [])
  await traced.close()
  t.same((await within(() => app.inject('/value'))).names, ['request'])
})
