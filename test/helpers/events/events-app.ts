import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { events, type EventsPluginOptions } from '../../../plugins/events/index.js'
import { redis, type RedisPluginOptions } from '../../../plugins/redis/index.js'
import { collectLog } from '../app/log-lines.js'

export type Build = (connection?: Partial<RedisPluginOptions>, options?: EventsPluginOptions) => Promise<FastifyInstance>

/** Apps of one test, which hear each other. In memory there is but one. */
export function builder (t: Test, connection: RedisPluginOptions | undefined, log = collectLog()): Build {
  let only: FastifyInstance | undefined
  return async (more, options) => {
    if (only) return only
    const server: FastifyServerOptions = { loggerInstance: log.logger }
    const app = Fastify(server)
    t.teardown(() => app.close())
    if (connection) await app.register(redis, { ...connection, ...more })
    else only = app
    await app.register(events, options ?? {})
    return app
  }
}
