// A Redis within this process that replies to each PING, delayed by a test's clock; real servers would take real time.
import { Duplex } from 'node:stream'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import { portOf } from '../../../plugins/shared/redis/client.js'
import { guardRedis, releaseCircuit, type GuardOptions, type RedisGuard } from '../../../plugins/shared/redis/guard.js'
import type { Clock } from '../../../plugins/shared/plugin/clock.js'
import { createTestClock, type TestClock } from '../../../plugins/testing/index.js'
import { collectLog } from '../app/log-lines.js'

export interface LateRedis {
  client: Redis
  clock: TestClock
  /** The delay of replies from now on in milliseconds; Infinity: no reply. A function is called for each reply. */
  setDelay (ms: number | (() => number)): void
  /** @param asSeen - the clock of the plugin that sends commands, if it is not `clock` */
  guard (options?: GuardOptions, asSeen?: Clock): RedisGuard
  /** The circuit's states that were logged. */
  states (): unknown[]
}

class LateConnection extends Duplex {
  readonly #clock: Clock
  readonly #delay: () => number
  bytesRead = 0

  constructor (clock: Clock, delay: () => number) {
    super()
    this.#clock = clock
    this.#delay = delay
  }

  override _read (): void {}

  override _write (chunk: Buffer, _encoding: string, done: () => void): void {
    const commands = String(chunk).match(/ping/gi)?.length ?? 0
    const delay = commands > 0 ? this.#delay() : Infinity
    if (delay !== Infinity) this.#clock.setTimeout(() => this.#reply('+PONG\r\n'.repeat(commands)), delay)
    done()
  }

  #reply (text: string): void {
    this.bytesRead += text.length
    this.push(text)
  }

  setNoDelay (): this { return this }
  setKeepAlive (): this { return this }
  setTimeout (): this { return this }
}

export async function createLateRedis (t: Test): Promise<LateRedis> {
  const clock = createTestClock()
  let delay = (): number => 1
  class LateConnector {
    connect (): Promise<LateConnection> { return Promise.resolve(new LateConnection(clock, () => delay())) }
    check (): boolean { return true }
    disconnect (): void {}
  }
  // The type is of the package's own connectors.
  const client = new Redis({ Connector: LateConnector as never, enableReadyCheck: false, disableClientInfo: true, protocol: 2 })
  await new Promise(resolve => client.once('ready', resolve))
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  const { logger, lines } = collectLog()
  const { log } = Fastify({ loggerInstance: logger })
  return {
    client,
    clock,
    setDelay (ms) { delay = typeof ms === 'function' ? ms : () => ms },
    guard: (options, asSeen = clock) => guardRedis(portOf(client), log, 150, 'redis', asSeen, options),
    states: () => lines.map(line => line['circuit'])
  }
}
