import { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { invalidArgumentError, unknownOptionError, type PluginName, reasonOf } from './errors.js'
import { recover } from './maybe-promise.js'

/** Emits a plugin's events. An error of a listener is logged, and affects neither the others nor the plugin. */
export class SafeEmitter<Events extends object> {
  readonly #emitter = new EventEmitter()
  readonly #plugin: PluginName
  readonly #log: FastifyBaseLogger
  readonly #names: ReadonlyArray<keyof Events & string>

  /** @param names - the names of all events */
  constructor (plugin: PluginName, log: FastifyBaseLogger, names: ReadonlyArray<keyof Events & string>) {
    this.#plugin = plugin
    this.#log = log
    this.#names = names
    this.#emitter.setMaxListeners(0)
  }

  /**
   * Adds a listener.
   *
   * @returns a function that removes it
   * @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` for an unknown event, and for a listener that is not a function
   */
  on <E extends keyof Events & string>(name: E, listener: (event: Events[E]) => unknown): () => void {
    if (!this.#names.includes(name)) throw unknownOptionError(this.#plugin, String(name), this.#names, 'event')
    if (typeof listener !== 'function') throw invalidArgumentError(this.#plugin, 'listener', listener, 'a function')
    const listenerName = { plugin: this.#plugin, event: name }
    const safe = (event: Events[E]): void => callListener(listenerName, this.#log, listener, event)
    this.#emitter.on(keyOf(name), safe)
    return () => { this.#emitter.off(keyOf(name), safe) }
  }

  hasListeners (name: keyof Events & string): boolean {
    return this.#emitter.listenerCount(keyOf(name)) > 0
  }

  emit <E extends keyof Events & string>(name: E, event: Events[E]): void {
    this.#emitter.emit(keyOf(name), event)
  }
}

/** Returns the name in the emitter, which would throw an event `error` without a listener. */
function keyOf (name: string): string {
  return `on:${name}`
}

/** Names a listener for the log. */
interface ListenerName {
  plugin: PluginName
  /** The event, or the option that is a function. */
  event: string
}

/**
 * Calls a sync or async function of the app without awaiting it. Its error is logged, and has no other effect: neither
 * the plugin nor the request fails, and no unhandled rejection ends the process.
 */
export function callListener<A extends unknown[]> (
  { plugin, event }: ListenerName, log: FastifyBaseLogger, listener: (...args: A) => unknown, ...args: A
): void {
  recover(() => listener(...args), error => {
    log.error({ plugin, event, reason: reasonOf(error) }, `${plugin}: a listener failed`)
  })
}
