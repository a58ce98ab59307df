import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { pino } from 'pino'
import type { Test } from 'tap'
import { redis, type RedisPluginOptions } from '../../../plugins/redis/index.js'
import { session, type SessionPluginOptions } from '../../../plugins/session/index.js'
import { collectLog } from '../app/log-lines.js'

export const SECRET = 'a secret of at least thirty-two characters'

/** What all apps of this process have logged, at the finest level: nothing secret may be in it. */
export const logged: string[] = []

/** The session as anything: attacks put in what the types forbid. */
export const anySession = (request: FastifyRequest) => request.session as unknown as Record<string, unknown>

/** An app with sessions and no routes yet, and what it logs. */
export async function startApp (t: Test, connection?: RedisPluginOptions, options: Partial<SessionPluginOptions> = {}): Promise<{ app: FastifyInstance, logged: () => string }> {
  const { logger, text } = collectLog()
  const app = Fastify({ loggerInstance: logger as never }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  if (connection) await app.register(redis, connection)
  await app.register(session, { secret: SECRET, ...options })
  return { app, logged: text }
}

export interface AppOptions {
  redis?: RedisPluginOptions | undefined
  session?: Partial<SessionPluginOptions>
  before?: (app: FastifyInstance) => unknown
  routes?: (app: FastifyInstance) => unknown
}

/** An app with sessions; `before` registers what stands before them. */
export async function buildApp (t: Test, { redis: connection, session: options = {}, before, routes }: AppOptions): Promise<FastifyInstance> {
  const logger = pino({ level: 'trace' }, { write: (line: string) => { logged.push(line) } })
  const app = Fastify({ loggerInstance: logger as never }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  if (connection) await app.register(redis, connection)
  await before?.(app)
  await app.register(session, { secret: SECRET, ...options })
  app.get('/', async request => ({ ...request.session, cookie: undefined }))
  app.post<{ Body: object }>('/set', async request => { Object.assign(request.session, request.body) })
  app.post<{ Params: { user: string } }>('/login/:user', async request => {
    await request.login(request.params.user)
    return app.sessions.handleOf(request.session.sessionId)
  })
  app.post('/logout', async request => { await request.logout() })
  await routes?.(app)
  await app.ready()
  return app
}

/** A client with one cookie, as a browser keeps it. */
export class Browser {
  cookie: string | undefined
  readonly #app: FastifyInstance
  readonly #headers: Record<string, string>

  /** @param headers - of each of its requests */
  constructor (app: FastifyInstance, headers: Record<string, string> = {}) {
    this.#app = app
    this.#headers = headers
  }

  async send (method: 'GET' | 'POST' | 'HEAD' | 'OPTIONS', url: string, body?: object, on = this.#app) {
    const response = await on.inject({ method, url, headers: { ...this.#headers, ...this.cookie && { cookie: this.cookie } }, remoteAddress: '192.0.2.7', ...(body && { payload: body }) })
    const set = response.cookies[0]
    if (set) this.cookie = set.value === '' ? undefined : `${set.name}=${encodeURIComponent(set.value)}`
    return response
  }

  async state (on = this.#app): Promise<Record<string, unknown>> {
    return (await this.send('GET', '/', undefined, on)).json()
  }
}
