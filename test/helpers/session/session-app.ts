import type { FastifyInstance, FastifyRequest } from 'fastify'
import { pino } from 'pino'
import type { Test } from 'tap'
import type { RedisPluginOptions } from '../../../plugins/redis/index.js'
import type { SessionPluginOptions } from '../../../plugins/session/index.js'
import { createTestApp, type TestApp, type TestAppOptions } from '../app/test-app.js'

export { SECRET } from '../app/test-app.js'

/** A session of any type: tests put values into it that the types forbid. */
export const anySession = (request: FastifyRequest) => request.session as unknown as Record<string, unknown>

export interface SessionAppOptions extends Omit<TestAppOptions, 'plugins'> {
  session?: Partial<SessionPluginOptions>
}

/** Starts apps with sessions, and with routes that read, change, create and destroy one; `routes` adds others. */
export async function createSessionApp (t: Test, { session = {}, routes, ...options }: SessionAppOptions = {}): Promise<TestApp> {
  return await createTestApp(t, {
    ...options,
    plugins: { session },
    routes: async (app, instance) => {
      app.get('/', async request => ({ ...request.session, cookie: undefined }))
      app.post<{ Body: object }>('/set', async request => { Object.assign(request.session, request.body) })
      app.post<{ Params: { user: string } }>('/login/:user', async request => {
        await request.login(request.params.user)
        return app.sessions.handleOf(request.session.sessionId)
      })
      app.post('/logout', async request => { await request.logout() })
      await routes?.(app, instance)
    }
  })
}

/** Everything that apps of {@link buildApp} have logged, at the level `trace` and above: nothing secret may be in it. */
export const logged: string[] = []

export interface AppOptions {
  redis?: RedisPluginOptions | undefined
  session?: Partial<SessionPluginOptions>
  before?: (app: FastifyInstance) => unknown
  routes?: (app: FastifyInstance) => unknown
  /** @default a clock that only the test advances, so that no deadline passes */
  clock?: TestAppOptions['clock'] | undefined
}

/** An app of {@link createSessionApp} for each server's address. */
export async function buildApp (t: Test, { redis, session = {}, before, routes, clock }: AppOptions): Promise<FastifyInstance> {
  const logger = pino({ level: 'trace' }, { write: (line: string) => { logged.push(line) } })
  const { url, cluster, prefix, ...connection } = redis ?? {}
  const store = cluster !== undefined ? { startupNodes: cluster.nodes as Array<{ host: string, port: number }>, answers: false } : url !== undefined ? { url, answers: false } : 'memory'
  const { app } = await createSessionApp(t, {
    store,
    session,
    connection,
    server: { loggerInstance: logger as never },
    ...clock !== undefined && { clock },
    ...prefix !== undefined && { prefix },
    ...before !== undefined && { before },
    ...routes !== undefined && { routes }
  })
  return app
}

/** A client with one cookie, like a browser. */
export class Browser {
  cookie: string | undefined
  readonly #app: FastifyInstance
  readonly #headers: Record<string, string>

  /** @param headers - sent with each request */
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

/** A client that sends a cookie from elsewhere. */
export function browserWith (cookie: string | undefined, app: FastifyInstance): Browser {
  const browser = new Browser(app)
  browser.cookie = cookie
  return browser
}
