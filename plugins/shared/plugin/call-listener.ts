import type { FastifyBaseLogger } from 'fastify'
import { reasonOf, type PluginName } from './errors.js'
import { recover } from './maybe-promise.js'

/** Whose listener it is, for the log. */
export interface ListenerName {
  plugin: PluginName
  /** The event, or the option that holds the function. */
  event: string
}

/**
 * Calls a function of the app that nothing waits for, sync or async. What it throws, or what its promise rejects with, is logged and has no
 * other effect: neither the plugin nor the request fails, and no unhandled rejection ends the process.
 */
export function callListener<A extends unknown[]> ({ plugin, event }: ListenerName, log: FastifyBaseLogger, listener: (...args: A) => unknown, ...args: A): void {
  recover(() => listener(...args), error => {
    log.error({ plugin, event, reason: reasonOf(error) }, `${plugin}: a listener failed`)
  })
}
