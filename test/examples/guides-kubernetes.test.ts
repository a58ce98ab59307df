import { readFileSync } from 'node:fs'
import { Agent, get as httpGet } from 'node:http'
import { join } from 'node:path'
import t from 'tap'
import { parseAllDocuments } from 'yaml'
import { build } from '../../examples/guides/kubernetes.js'
import { parseDuration } from '../../plugins/shared/plugin/duration.js'
import { root } from '../helpers/docs/doc-blocks.js'
import { startConnectionBalancer } from '../helpers/examples/connection-balancer.js'
import { startExample } from '../helpers/examples/start-example.js'
import { until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

interface Probe { httpGet: { path: string, port: string }, periodSeconds: number, failureThreshold: number, timeoutSeconds?: number }
interface Container {
  ports: Array<{ name: string, containerPort: number }>
  env: Array<{ name: string, value?: string }>
  startupProbe: Probe
  readinessProbe: Probe
  livenessProbe: Probe
}
interface Deployment {
  spec: {
    strategy: { rollingUpdate: object }
    selector: { matchLabels: object }
    template: { metadata: { labels: object }, spec: { terminationGracePeriodSeconds: number, containers: [Container] } }
  }
}

const source = readFileSync(join(root, 'examples/guides/kubernetes.ts'), 'utf8')
const manifests = parseAllDocuments(readFileSync(join(root, 'examples/guides/kubernetes.yaml'), 'utf8'))
const ofKind = (kind: string) => manifests.map(document => document.toJS() as { kind: string }).find(manifest => manifest.kind === kind)

t.test('the manifest is YAML, and its labels, ports and variables are those of the app', async t => {
  t.same(manifests.flatMap(({ errors, warnings }) => [...errors, ...warnings]), [])
  const { spec: { strategy, selector, template } } = ofKind('Deployment') as unknown as Deployment
  const [{ ports, env }] = template.spec.containers
  t.same(strategy.rollingUpdate, { maxSurge: 1, maxUnavailable: 0 })
  t.same(selector.matchLabels, template.metadata.labels)
  t.match(ofKind('Service'), { spec: { selector: template.metadata.labels, ports: [{ targetPort: ports[0]?.name }] } })
  t.match(ofKind('PodDisruptionBudget'), { spec: { maxUnavailable: 1, selector: { matchLabels: template.metadata.labels } } })
  t.equal(String(ports[0]?.containerPort), env.find(({ name }) => name === 'PORT')?.value)
  t.same(env.map(({ name }) => name).filter(name => !source.includes(`process.env['${name}']`)), [])
})

t.test('the times of the manifest fit the app: the drain is long enough to be noticed, and ends within the grace period', async t => {
  const { spec: { template: { spec } } } = ofKind('Deployment') as unknown as Deployment
  const [{ env, readinessProbe: ready, startupProbe: startup }] = spec.containers
  const drain = parseDuration(env.find(({ name }) => name === 'DRAIN_DELAY')?.value) ?? 0
  const exit = Number(/closeWithGrace\(\{ delay: ([\d_]+) \}/.exec(source)?.[1]?.replaceAll('_', ''))
  const longest = Number(/handlerTimeout: ([\d_]+)/.exec(source)?.[1]?.replaceAll('_', ''))
  const noticed = (ready.periodSeconds * ready.failureThreshold + (ready.timeoutSeconds ?? 1)) * 1000
  t.ok(drain > noticed, `readiness fails after ${noticed} ms of a drain of ${drain} ms`)
  t.ok(exit >= drain + longest + 5000, `a drain of ${drain} ms, a request of ${longest} ms and 5 s to close end before ${exit} ms`)
  t.ok(spec.terminationGracePeriodSeconds * 1000 > exit)
  t.ok(startup.periodSeconds * startup.failureThreshold >= 30)
})

t.test('each probe asks the route that its purpose needs', async t => {
  const { spec: { template: { spec: { containers: [{ startupProbe, readinessProbe, livenessProbe, ports }] } } } } = ofKind('Deployment') as unknown as Deployment
  const app = await build()
  t.teardown(() => app.close())
  const statuses = async () => await Promise.all([startupProbe, readinessProbe, livenessProbe].map(async ({ httpGet: { path, port } }) => {
    t.equal(port, ports[0]?.name)
    return (await app.inject(path)).statusCode
  }))
  t.same(await statuses(), [200, 200, 200])
  app.health.addCheck('database', () => false, { cacheFor: 0 })
  t.same(await statuses(), [200, 503, 200], 'a dependency that fails restarts no pod')
})

t.test('in a rolling restart no request fails, also of clients whose connections stay open', async t => {
  const balancer = await startConnectionBalancer(t)
  const start = async (name: string) => {
    const pod = await startExample(t, 'kubernetes', { DRAIN_DELAY: '800ms', POD_NAME: name })
    balancer.add(Number(new URL(pod.url).port))
    await until(`${name} is ready`, () => balancer.ready.includes(Number(new URL(pod.url).port)))
    return pod
  }
  const old = await Promise.all([start('old-1'), start('old-2')])
  const served = new Map<string, number>()
  const failures: string[] = []
  const over = new AbortController()
  // Each client has one connection, and sends its next request as soon as it has a response.
  const client = async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (!over.signal.aborted) {
      const { status, body } = await new Promise<{ status?: number | undefined, body: string }>(resolve => {
        httpGet(balancer.url, { agent }, response => {
          let body = ''
          response.setEncoding('utf8').on('data', (chunk: string) => { body += chunk }).on('end', () => resolve({ status: response.statusCode, body }))
        }).on('error', error => resolve({ body: error.message }))
      })
      const pod = /"pod":"(.*)"/.exec(body)?.[1] ?? ''
      if (status === 200) served.set(pod, (served.get(pod) ?? 0) + 1)
      else failures.push(`${status}: ${body}`)
      await new Promise(resolve => setTimeout(resolve, 2))
    }
    agent.destroy()
  }
  const clients = Promise.all(Array.from({ length: 10 }, client))
  await until('both old pods serve requests', () => served.has('old-1') && served.has('old-2'))
  for (const [i, pod] of old.entries()) {
    await start(`new-${i + 1}`)
    t.equal(await pod.stop('SIGTERM'), 0, 'it exits by itself')
  }
  await until('both new pods serve requests', () => served.has('new-1') && served.has('new-2'))
  over.abort()
  await clients
  t.same(failures, [])
})
