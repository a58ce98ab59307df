import { readFile } from 'node:fs/promises'
import Fastify from 'fastify'
import t from 'tap'
import { cache, events, health, metrics, rateLimit, redis, session } from '../../plugins/index.js'
import { METRICS } from '../../plugins/metrics/names.js'
import { startRedis } from '../helpers/index.js'
import { scrape } from '../helpers/metrics/scrape.js'
import { SECRET } from '../helpers/session/session-app.js'

const server = await startRedis()
const dashboard = JSON.parse(await readFile(new URL('../../docs/grafana.json', import.meta.url), 'utf8'))
const expressions: string[] = dashboard.panels.flatMap((panel: { targets?: Array<{ expr: string }> }) => (panel.targets ?? []).map(({ expr }) => expr))
// Functions and clauses stand before a parenthesis or are words of the language; names of metrics have at least one underscore.
const used = new Set(expressions.flatMap(expr => expr.replaceAll(/\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)/g, '').match(/\b[a-z]\w*_\w+\b(?!\s*\()/g) ?? []))

t.test('each metric of the dashboard is told by an app with all plugins, with the labels that it is asked by', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(metrics)
  await app.register(redis, { url: server.url, prefix: 'grafana' })
  await app.register(rateLimit, { max: 1000, timeWindow: '1 minute' })
  await app.register(session, { secret: SECRET })
  await app.register(cache, { ttl: '1m', unkeyed: false })
  await app.register(health)
  await app.register(events)
  await app.events.stream('orders').consume({ group: 'mail', handler: async () => {} })
  app.get('/', { config: { cache: true } }, async () => 'x')
  app.cache.writeBehind('views', { write: async () => {} })
  await app.inject('/')
  const found = await scrape(app)

  t.ok(used.size > 30, `${used.size} names`)
  for (const name of used) t.ok(found.names.has(name), name)
  for (const expr of expressions) {
    const grouped = [...expr.matchAll(/by \(([^)]*)\)/g)].flatMap(([, labels]) => labels!.split(',').map(label => label.trim()))
    const told = grouped.filter(label => label !== 'instance')
    const [name] = expr.replaceAll(/\{[^}]*\}|by \([^)]*\)/g, '').match(/\b[a-z]\w*_\w+\b(?!\s*\()/) ?? []
    const line = found.text.split('\n').find(text => text.startsWith(`${name}{`)) ?? ''
    for (const label of told) t.ok(line.includes(`${label}="`), `${name} has ${label}`)
  }
})

t.test('each metric of the suite is on the dashboard', async t => {
  for (const name of Object.values(METRICS).flatMap(Object.keys)) t.ok(used.has(`fastify_${name}`), name)
})
