import Fastify, { type FastifyBaseLogger, type FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { Redis } from 'ioredis'
import { lock, type LockPluginOptions } from '../../../plugins/lock/index.js'
import { collectLog } from '../app/log-lines.js'

/** An instance of its own, closed after the test. */
export async function openLocks (t: Test, options: LockPluginOptions) {
  const log = collectLog()
  const app: FastifyInstance = Fastify({ loggerInstance: log.logger as FastifyBaseLogger })
  t.teardown(() => app.close())
  await app.register(lock, options)
  await app.ready()
  return { app, locks: app.locks, ...log }
}

/** A client of its own, gone after the test. */
export function connect (t: Test, url: string): Redis {
  const client = new Redis(url)
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  return client
}
