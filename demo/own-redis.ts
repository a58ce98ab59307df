import { startProxy, type Proxy } from '../tools/servers/proxy.js'
import type { RedisServer } from '../tools/servers/redis-process.js'
import { startOnFreePort } from '../tools/servers/start-on-free-port.js'
import { SLOW_MS, type Fault } from './live-events.js'

const MAX_MEMORY = '64mb'
/** Cached responses are evicted before sessions, as docs/operations/redis-settings.md recommends. */
const POLICY = 'volatile-lfu'

/** The fault of a Redis, and when it began, in milliseconds since the epoch. */
export interface FaultState {
  fault: Fault | undefined
  since: number
}

/**
 * A redis-server that the demo has started, on a free port of 127.0.0.1 and without persistence. It may be broken. It
 * ends with the demo, even if a signal kills the demo.
 */
export class OwnRedis {
  readonly #server: RedisServer
  readonly #proxy: Proxy
  #state: FaultState = { fault: undefined, since: Date.now() }
  /** One change at a time. */
  #turn: Promise<void> = Promise.resolve()

  private constructor (server: RedisServer, proxy: Proxy) {
    this.#server = server
    this.#proxy = proxy
  }

  /** @throws if this machine has no redis-server */
  static async start (): Promise<OwnRedis> {
    const server = await startOnFreePort(undefined, (port, dir) => ({
      port,
      dir,
      // Ctrl-C ends the demo, which then closes before its Redis does.
      detached: true,
      config: [
        'bind 127.0.0.1', `port ${port}`, 'save ""', 'appendonly no', `maxmemory ${MAX_MEMORY}`,
        `maxmemory-policy ${POLICY}`
      ]
    }))
    return new OwnRedis(server, await startProxy(server.port))
  }

  /** The address for clients: a proxy in front of the server, which can delay its replies. */
  get url (): string {
    return `redis://${this.#proxy.host}:${this.#proxy.port}`
  }

  get pid (): number {
    return this.#server.pid
  }

  get state (): FaultState {
    return this.#state
  }

  /** Mends the present fault, then makes this one; `undefined` makes none. Resolves when it is in effect. */
  async setFault (fault: Fault | undefined): Promise<void> {
    const change = this.#turn.then(async () => {
      await this.#mend()
      if (fault !== undefined) await this.#make(fault)
      this.#state = { fault, since: Date.now() }
    })
    this.#turn = change.catch(() => {})
    await change
  }

  async stop (): Promise<void> {
    await this.#turn
    await this.#proxy.stop()
    await this.#server.stop()
  }

  async #make (fault: Fault): Promise<void> {
    switch (fault) {
      case 'hang': return this.#server.pause()
      case 'kill': return await this.#server.kill()
      case 'slow': return this.#proxy.delay(SLOW_MS)
      case 'full': return await this.#configure('1', 'noeviction')
      // No server listens there: it stays a replica that has lost its master.
      case 'read-only': await this.#server.client().replicaof('127.0.0.1', 1)
    }
  }

  async #mend (): Promise<void> {
    this.#proxy.delay(0)
    if (!this.#server.isRunning) return await this.#server.restart()
    this.#server.resume()
    if (this.#state.fault === 'full') await this.#configure(MAX_MEMORY, POLICY)
    if (this.#state.fault === 'read-only') await this.#server.client().replicaof('NO', 'ONE')
  }

  async #configure (maxmemory: string, policy: string): Promise<void> {
    const client = this.#server.client()
    await client.config('SET', 'maxmemory-policy', policy)
    await client.config('SET', 'maxmemory', maxmemory)
  }
}
