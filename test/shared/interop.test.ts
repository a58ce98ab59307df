import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Http2ServerResponse } from 'node:http2'
import { Socket } from 'node:net'
import { join } from 'node:path'
import Fastify, { type FastifyRequest } from 'fastify'
import { Cluster, Redis } from 'ioredis'
import { Histogram, Registry } from 'prom-client'
import t from 'tap'
import { readPage, root } from '../helpers/docs/doc-blocks.js'
import { sharedRedis } from '../helpers/index.js'

// The undocumented members of other packages that docs/internals/interop.md lists: a later version without one of them fails here first.

/** Returns the value under a symbol with this description, on an object or its prototypes. */
function bySymbol (object: object, description: string): unknown {
  for (let each: object | null = object; each !== null; each = Reflect.getPrototypeOf(each)) {
    const symbol = Object.getOwnPropertySymbols(each).find(symbol => symbol.description === description)
    if (symbol !== undefined) return Reflect.get(each, symbol)
  }
  return undefined
}

t.test('Fastify has its 404 handler, and the classes of requests and replies, under the symbols that the suite looks for', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  t.type(Reflect.get(bySymbol(app, 'fastify.404') as object, 'setContext'), 'function')
  app.decorateRequest('decorated', null)
  const Request = bySymbol(app, 'fastify.Request') as { prototype: object }
  t.type(Object.getOwnPropertyDescriptor(Reflect.getPrototypeOf(Request.prototype) ?? {}, 'ip')?.get ??
    Object.getOwnPropertyDescriptor(Request.prototype, 'ip')?.get, 'function')
  t.type(bySymbol(app, 'fastify.Reply'), 'function')
  let assigned: unknown
  Object.defineProperty(Request.prototype, 'decorated', { get: () => 'by the prototype', set (value) { assigned = value }, configurable: true })
  app.get('/', async request => (request as FastifyRequest & { decorated: unknown }).decorated)
  t.equal((await app.inject('/')).body, 'by the prototype', 'decorators are assigned, not defined, in the constructor')
  t.equal(assigned, null)
})

t.test('Fastify has its options under the symbol that the suite looks for, with the query parser of the app', async t => {
  const querystringParser = () => ({})
  const app = Fastify({ routerOptions: { querystringParser } })
  t.teardown(() => app.close())
  t.match(bySymbol(app, 'fastify.options'), { routerOptions: { querystringParser } })
})

t.test('Fastify passes each route to setContext, and calls childLoggerFactory before the first hook', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const notFound = bySymbol(app, 'fastify.404') as { setContext: (instance: unknown, context: { config: { url: string } }) => void }
  const { setContext } = notFound
  const urls: string[] = []
  notFound.setContext = function (instance, context) {
    urls.push(context.config.url)
    Reflect.apply(setContext, this, [instance, context])
  }
  const order: string[] = []
  app.addHook('onRequest', async () => { order.push('onRequest') })
  app.route({
    method: 'GET',
    url: '/watched',
    childLoggerFactory (logger, bindings, options) {
      order.push('childLoggerFactory')
      return logger.child(bindings, options)
    },
    handler: async () => 'x'
  })
  await app.inject('/watched')
  t.ok(urls.includes('/watched'))
  t.same(order, ['childLoggerFactory', 'onRequest'])
})

t.test('Fastify reads the hooks of a route after instance.after(), which follows all onRoute hooks', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const order: string[] = []
  app.addHook('onRoute', function (route) {
    this.after(() => { order.push('after') })
    Object.defineProperty(route, 'preHandler', { get () { order.push('read'); return [] }, enumerable: true, configurable: true })
  })
  app.addHook('onRoute', () => { order.push('onRoute') })
  app.route({ method: 'POST', url: '/', handler: async () => 'x' })
  await app.ready()
  t.ok(order.indexOf('onRoute') < order.indexOf('after'), order.join())
  t.ok(order.lastIndexOf('read') > order.indexOf('after'), order.join())
})

t.test('pino has the serializers of a logger under their public symbol', async t => {
  const app = Fastify({ logger: { level: 'silent' } })
  t.teardown(() => app.close())
  t.type(Reflect.get(Reflect.get(app.log, Symbol.for('pino.serializers')) as object, 'req'), 'function')
})

t.test('a raw request has headers that can be replaced; a raw response calls writeHead whichever way it begins', async t => {
  const raw = new IncomingMessage(new Socket())
  const headers = { host: 'a.example' }
  raw.headers = headers
  t.equal(raw.headers, headers)
  for (const begin of ['write', 'end', 'flushHeaders'] as const) {
    const response = new ServerResponse(raw)
    let calls = 0
    const writeHead = response.writeHead.bind(response)
    response.writeHead = ((...args: unknown[]) => {
      calls++
      return Reflect.apply(writeHead, undefined, args) as ServerResponse
    }) as typeof writeHead
    if (begin === 'flushHeaders') response.flushHeaders()
    else response[begin]('x')
    t.equal(calls, 1, begin)
  }
  t.type(Http2ServerResponse.prototype.writeHead, 'function')
})

t.test('a client of ioredis has the members that the suite patches or reads', async t => {
  const client = new Redis((await sharedRedis()).url)
  t.teardown(() => client.disconnect())
  await client.ping()
  const lazy = { lazyConnect: true, enableAutoPipelining: true }
  for (const each of [new Redis(lazy), new Cluster([{ host: '127.0.0.1', port: 1 }], lazy)]) {
    t.ok(Reflect.get(each, '_runningAutoPipelines') instanceof Set)
    t.type(each.autoPipelineQueueSize, 'number')
    each.disconnect()
  }
  t.ok(Array.isArray(new Cluster([{ host: '127.0.0.1', port: 1 }], lazy).slots))
  const before = client.stream.bytesRead
  const sent: string[] = []
  const sendCommand = client.sendCommand.bind(client)
  client.sendCommand = (command, ...rest) => {
    sent.push(`${command.name} ${Reflect.get(command, 'promise') instanceof Promise}`)
    return sendCommand(command, ...rest)
  }
  await client.ping()
  await client.pipeline().exists('a').get('b').exec()
  t.same(sent, ['ping true', 'exists true', 'get true'])
  t.ok(client.stream.bytesRead > before)
})

t.test('a registry of prom-client collects a histogram by getForPromString', async t => {
  const called: string[] = []
  class Watched extends Histogram {
    getForPromString (): unknown {
      called.push('getForPromString')
      return { name: 'a', help: 'a', type: 'histogram', aggregator: 'sum', values: [{ metricName: 'a_count', labels: {}, value: 7 }] }
    }
  }
  const registry = new Registry()
  registry.registerMetric(new Watched({ name: 'a', help: 'a', registers: [] }))
  t.match(await registry.metrics(), 'a_count 7')
  t.equal(called.length, 1)
})

const PATCH = /\b(?:Object|Reflect)\.(?:defineProperty|defineProperties|setPrototypeOf)\(|\bReflect\.set\(|\bgetOwnPropertySymbols\(|\bSymbol\.for\(/

t.test('docs/internals/interop.md lists each file that patches an object, and names files that exist', async t => {
  const page = readPage('docs/internals/interop.md')
  const files = readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
  const patching = files.filter(name => PATCH.test(readFileSync(join(root, 'plugins', name), 'utf8')))
  t.ok(patching.length >= 8, patching.join())
  t.same(patching.filter(name => !page.includes(`\`${name}\``)), [], 'not listed')
  const named = [...page.matchAll(/`((?:[\w-]+\/)+[\w.-]+\.ts)`/g)].map(([, name = '']) => name)
  t.same(named.filter(name => !existsSync(join(root, name.startsWith('test/') ? name : `plugins/${name}`))), [], 'moved or removed')
})
