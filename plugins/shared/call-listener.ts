import type { FastifyBaseLogger } from 'fastify'
import { reasonOf, type PluginName } from './errors.js'
import { isPromise } from './maybe-promise.js'

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
export function callListener<A extends unknown[]> (name: ListenerName, log: FastifyBaseLogger, listener: (...args: A) => unknown, ...args: A): void {
  try {
    const result = listener(...args)
    if (isPromise(result)) Promise.resolve(result).catch((error: unknown) => logFailure(name, log, error))
  } catch (error) {
    logFailure(name, log, error)
  }
}

function logFailure ({ plugin, event }: ListenerName, log: FastifyBaseLogger, error: unknown): void {
  log.error({ plugin, event, reason: reasonOf(error) }, `${plugin}: a listener failed`)
}
