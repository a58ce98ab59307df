import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { parseDocument } from 'yaml'
import { build } from '../../examples/guides/observability.js'
import { root } from '../helpers/docs/doc-blocks.js'
import { startRedis, until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

interface Rule { alert: string, expr: string, for: string, labels: { severity: string }, annotations: { summary: string } }

const rulesFile = parseDocument(readFileSync(join(root, 'examples/guides/alerts.yaml'), 'utf8'))
const rules: Rule[] = (rulesFile.toJS() as { groups: Array<{ rules: Rule[] }> }).groups.flatMap(group => group.rules)

/** Two instances of the example on one Redis. */
async function start (t: Test) {
  const server = await startRedis()
  process.env['REDIS_URL'] = server.url
  const apps = await Promise.all([build(), build()])
  t.teardown(async () => { await Promise.all(apps.map(app => app.close())) })
  return { server, apps: apps as [FastifyInstance, FastifyInstance] }
}

const scrape = async (app: FastifyInstance, headers = {}) => await app.inject({ url: '/metrics', headers })
/** The values of a metric, by its labels as text. */
async function valuesOf (app: FastifyInstance, name: string): Promise<Map<string, number>> {
  const { body } = await scrape(app)
  return new Map([...body.matchAll(new RegExp(`^${name}(\\{.*?\\})? ([\\d.e+-]+)$`, 'gm'))].map(([, labels = '', value]) => [labels, Number(value)]))
}
const max = (values: Map<string, number>) => Math.max(...values.values())

t.test('the alerts are valid, and the app exposes each of their metrics, with the labels of their expressions', async t => {
  t.same([...rulesFile.errors, ...rulesFile.warnings], [])
  t.same(rules.filter(({ labels, annotations, for: wait }) => !['critical', 'warning'].includes(labels.severity) || annotations.summary === '' || !/^\d+m$/.test(wait)), [])
  t.equal(new Set(rules.map(({ alert }) => alert)).size, rules.length)
  const { apps: [app] } = await start(t)
  app.cache.writeBehind('views', { write: async () => {} })
  await app.inject('/products/1')
  await app.inject({ method: 'POST', url: '/orders/1' })
  const { body } = await scrape(app)
  const missing = rules.flatMap(({ alert, expr }) => {
    // Names of metrics precede a selector, a range or the end of an expression.
    const names = [...expr.replaceAll(/by \([^)]*\)|"[^"]*"/g, '').matchAll(/\b(?:fastify|http|nodejs)_\w+/g)].map(([name]) => name)
    if (names.length === 0) return [`${alert}: no metric`]
    // Prometheus adds `job` and `instance`.
    const labels = [...[...expr.matchAll(/by \(([^)]*)\)/g)].flatMap(([, list = '']) => list.split(', ')), ...[...expr.matchAll(/(\w+)(?:=~|!=|=)"/g)].map(([, label = '']) => label)].filter(label => !['job', 'instance'].includes(label))
    return names.flatMap(name => {
      const line = body.split('\n').find(text => text.startsWith(`${name}{`))
      if (line === undefined) return [`${alert}: ${name}`]
      return labels.filter(label => !line.includes(`${label}="`)).map(label => `${alert}: ${name} has no ${label}`)
    })
  })
  t.same(missing, [])
  t.ok(rules.length >= 10)
})

t.test('Redis stops: each instance reports an open circuit, decisions without the store, and serves requests; and recovers', async t => {
  const { server, apps } = await start(t)
  for (const app of apps) t.equal((await app.inject('/products/1')).statusCode, 200)
  await server.kill()
  for (const app of apps) {
    await until('the circuit is open', async () => {
      t.equal((await app.inject('/products/1')).statusCode, 200)
      return max(await valuesOf(app, 'fastify_redis_circuit_open')) === 1
    })
    await app.inject('/products/2')
    t.ok(max(await valuesOf(app, 'fastify_rate_limit_store_errors_total')) > 0)
    t.equal((await app.inject('/health/ready')).statusCode, 200, 'readiness does not depend on Redis')
    await until('the check warns', async () => [...await valuesOf(app, 'fastify_health_check_status')].some(([labels, value]) => labels.includes('check="redis') && value < 1))
  }
  await server.restart()
  for (const app of apps) await until('the circuit is closed', async () => max(await valuesOf(app, 'fastify_redis_circuit_open')) === 0)
})

t.test('requests by route, cache results and orders are counted; probes and scrapes are not', async t => {
  const { apps: [app] } = await start(t)
  for (const id of [1, 1, 2]) await app.inject(`/products/${id}`)
  await app.inject({ method: 'POST', url: '/orders/1' })
  await app.inject('/health/ready')
  const { body } = await scrape(app)
  t.match(body, /^http_request_duration_seconds_count\{.*route="\/products\/:id".*\} 3$/m)
  t.match(body, /^fastify_cache_requests_total\{.*result="hit".*\} 1$/m)
  t.match(body, /^shop_orders_total\{payment="card",service="shop"\} 1$/m)
  t.notMatch(body, /^http_request_duration_seconds_count\{.*route="\/(?:health|metrics)/m)
})

t.test('with a token only Prometheus may read the metrics', async t => {
  process.env['METRICS_TOKEN'] = 'a token of this test'
  t.teardown(() => { delete process.env['METRICS_TOKEN'] })
  const { apps: [app] } = await start(t)
  t.equal((await scrape(app)).statusCode, 404)
  t.equal((await scrape(app, { authorization: 'Bearer another' })).statusCode, 404)
  t.equal((await scrape(app, { authorization: 'Bearer a token of this test' })).statusCode, 200)
})
