// One redis-server process on one port, in one folder. It knows no options: see redis-server.ts.
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { redisBinary } from './redis-binary.js'
import { register, unregister } from './registry.js'
import { forgetPid, notePid } from './scratch.js'

const START_TIMEOUT = 10_000

export interface RedisProcessOptions {
  port: number
  dir: string
  /** Lines of redis.conf. */
  config: string[]
  args?: string[]
  /** Whether Ctrl-C in the terminal leaves it running, until stop(). */
  detached?: boolean
  password?: string | undefined
  /** The certificate to trust, which makes clients connect by TLS. */
  ca?: string | undefined
}

export class RedisServer {
  readonly host = '127.0.0.1'
  readonly port: number
  readonly dir: string
  readonly url: string
  readonly password: string | undefined
  /** PEM, with `tls` only; the certificate is self-signed, so both are the same. */
  readonly ca: string | undefined
  readonly cert: string | undefined
  readonly #options: RedisProcessOptions
  #child: ChildProcess | undefined
  #admin: Redis | undefined
  #paused = false

  constructor (options: RedisProcessOptions) {
    this.#options = options
    this.port = options.port
    this.dir = options.dir
    this.password = options.password
    this.ca = this.cert = options.ca
    const auth = options.password ? `:${encodeURIComponent(options.password)}@` : ''
    this.url = `${options.ca ? 'rediss' : 'redis'}://${auth}${this.host}:${this.port}`
  }

  /** The pid of the last process started, also after kill(). */
  get pid (): number {
    return this.#child?.pid ?? 0
  }

  /** Neither dead nor paused. */
  get answers (): boolean {
    return this.isRunning && !this.#paused
  }

  /** Whether the process exists, paused or not. */
  get isRunning (): boolean {
    return this.#child?.exitCode === null && this.#child.signalCode === null
  }

  async start (): Promise<void> {
    register(this)
    await writeFile(join(this.dir, 'redis.conf'), this.#options.config.join('\n') + '\n')
    await this.#launch()
  }

  /** Sends SIGSTOP: the sockets stay open, and there are no replies. */
  pause (): void {
    this.#signal('SIGSTOP')
    this.#paused = true
  }

  resume (): void {
    this.#signal('SIGCONT')
    this.#paused = false
  }

  /** Sends SIGKILL; resolves when the process has ended. */
  async kill (): Promise<void> {
    const child = this.#child
    if (!child || !this.isRunning) return
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  }

  /** Restarts it on the same port, with the same folder and options; resolves when it responds. */
  async restart (): Promise<void> {
    await this.kill()
    await this.#launch()
  }

  async stop (): Promise<void> {
    this.#admin?.disconnect()
    this.#admin = undefined
    await this.kill()
    await rm(this.dir, { recursive: true, force: true })
    unregister(this)
  }

  /** A client as the default user, for INFO, CONFIG SET and the like; closed by stop(). */
  client (): Redis {
    this.#admin ??= this.#connect(50)
    return this.#admin
  }

  async #launch (): Promise<void> {
    const log = openSync(join(this.dir, 'redis.log'), 'w')
    const child = spawn(redisBinary(), ['redis.conf', ...this.#options.args ?? []], {
      cwd: this.dir,
      detached: this.#options.detached === true,
      stdio: ['ignore', log, log]
    })
    closeSync(log)
    await once(child, 'spawn')
    this.#child = child
    this.#paused = false
    notePid(this.dir, this.pid)
    child.once('exit', () => forgetPid(this.dir))
    await this.#ready(child)
  }

  async #ready (child: ChildProcess): Promise<void> {
    const probe = this.#connect(20)
    const ended = new AbortController()
    try {
      await Promise.race([
        this.#isOurs(probe, ended.signal),
        once(child, 'exit', { signal: ended.signal }).then(() => { throw new Error('it exited') }),
        sleep(START_TIMEOUT, undefined, { signal: ended.signal }).then(
          () => { throw new Error(`no answer in ${START_TIMEOUT} ms`) }
        )
      ])
    } catch (error) {
      throw new Error(`redis-server on port ${this.port} did not start: ${(error as Error).message}\n${this.log()}`)
    } finally {
      ended.abort()
      probe.disconnect()
    }
  }

  // Another server may have taken the port: then this one is about to exit.
  async #isOurs (probe: Redis, ended: AbortSignal): Promise<void> {
    while (!ended.aborted) {
      const info = await probe.info('server')
      if (info.includes(`process_id:${this.pid}\r`)) return
      await sleep(20)
    }
  }

  /** The log of the server since its last start. */
  log (): string {
    return readFileSync(join(this.dir, 'redis.log'), 'utf8')
  }

  #signal (signal: 'SIGSTOP' | 'SIGCONT'): void {
    if (!this.isRunning || !this.#child?.kill(signal)) {
      throw new Error(`redis-server on port ${this.port} is not running`)
    }
  }

  // Commands have no timeout: the caller of a helper knows whether the server should respond.
  #connect (retryDelay: number): Redis {
    const { port, password, ca } = this.#options
    const client = new Redis({
      host: this.host,
      port,
      password,
      tls: ca ? { ca } : undefined,
      maxRetriesPerRequest: null,
      retryStrategy: () => retryDelay
    })
    client.on('error', () => {})
    return client
  }
}
