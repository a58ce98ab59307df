import { AsyncLocalStorage } from 'node:async_hooks'
import { context, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, type Context, type ContextManager } from '@opentelemetry/api'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { createTestApp, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { Browser } from '../helpers/session/session-app.js'

/** As that of OpenTelemetry's package for Node.js, without what is not needed here. */
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

/** @returns the spans of what was done within one of our own, by name */
async function within (work: () => Promise<unknown>) {
  exporter.reset()
  const parent = tracer.startSpan('request')
  // Awaited within: what inject returns begins when it is.
  await context.with(trace.setSpan(context.active(), parent), async () => await work())
  parent.end()
  // Not those of what an earlier request left to be done in the background.
  const spans = exporter.getFinishedSpans().filter(span => span.spanContext().traceId === parent.spanContext().traceId)
  return { spans, names: spans.map(({ name }) => name), find: (name: string) => spans.find(span => span.name === name), parent }
}

t.test('a traced request has spans of the plugins below it, with their results and without secrets', async t => {
  const app = await build(t, true)
  const browser = new Browser(app)
  const missed = await within(() => app.inject('/value'))
  // It is stored in the background.
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
