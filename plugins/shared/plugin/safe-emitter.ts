import { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { callListener } from './call-listener.js'
import { invalidArgumentError, unknownOptionError, type PluginName } from './errors.js'

/** Calls those who listen to a plugin's events. A listener that throws or rejects is logged, and stops neither the others nor the plugin. */
export class SafeEmitter<Events extends object> {
  readonly #emitter = new EventEmitter()
  readonly #plugin: PluginName
  readonly #log: FastifyBaseLogger
  readonly #names: ReadonlyArray<keyof Events & string>

  /** @param names - of all events */
  constructor (plugin: PluginName, log: FastifyBaseLogger, names: ReadonlyArray<keyof Events & string>) {
    this.#plugin = plugin
    this.#log = log
    this.#names = names
    this.#emitter.setMaxListeners(0)
  }

  /**
   * @returns a function that ends it
   * @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` for an event that there is not, and for a listener that is no function
   */
  on <E extends keyof Events & string>(name: E, listener: (event: Events[E]) => unknown): () => void {
    if (!this.#names.includes(name)) throw unknownOptionError(this.#plugin, String(name), this.#names, 'event')
    if (typeof listener !== 'function') throw invalidArgumentError(this.#plugin, 'listener', listener, 'a function')
    const of = { plugin: this.#plugin, event: name }
    const safe = (event: Events[E]): void => callListener(of, this.#log, listener, event)
    this.#emitter.on(keyOf(name), safe)
    return () => { this.#emitter.off(keyOf(name), safe) }
  }

  hears (name: keyof Events & string): boolean {
    return this.#emitter.listenerCount(keyOf(name)) > 0
  }

  emit <E extends keyof Events & string>(name: E, event: Events[E]): void {
    this.#emitter.emit(keyOf(name), event)
  }
}

/** An emitter throws an event of the name `error` that nobody hears. */
function keyOf (name: string): string {
  return `on:${name}`
}
