// A report every ten minutes, written by one instance of the fleet. Run it twice with one REDIS_URL,
// on two ports: `PORT=3000 npx tsx examples/guides/scheduled-jobs.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { lock, redis } from '../../plugins/index.js'
import type { Clock } from '../../plugins/testing/index.js'

export interface JobOptions {
  /** The work. `signal` aborts when the lock is lost; `token` grows with each run. */
  report?: (signal: AbortSignal, token: number) => unknown
  /** How often each instance asks whether the report is due. */
  pollMs?: number
  /** For tests. */
  clock?: Clock
}

export async function build ({ report = writeReport, pollMs = 30_000, clock }: JobOptions = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'jobs' })
  await app.register(lock, { clock })

  const outcomes = { ran: 0, done: 0, running: 0, failed: 0 }
  async function runIfDue (): Promise<void> {
    try {
      const period = { every: '10 minutes', ttl: '30s' }
      const outcome = await app.locks.once('report', period, (signal, { token }) => report(signal, token))
      outcomes[outcome]++
    } catch (error) {
      outcomes.failed++
      app.log.error(error, 'the report failed; the next call on any instance tries again')
    }
  }

  let timer: NodeJS.Timeout
  app.addHook('onReady', async () => { timer = setInterval(runIfDue, pollMs) })
  app.addHook('preClose', async () => clearInterval(timer))

  app.get('/jobs', async () => outcomes)
  return app
}

async function writeReport (signal: AbortSignal): Promise<void> {
  const url = process.env['REPORT_URL'] ?? 'http://localhost:8000/reports'
  const response = await fetch(url, { method: 'POST', signal })
  if (!response.ok) throw new Error(`the report service responded with ${response.status}`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
