import type { CommandArgument } from '../../port.js'
import type { Argument, ReplyMapping } from './types.js'

export const TEXT: ReplyMapping = { typeMapping: {} }
/** 36 is `$`, the first byte of a text. */
export const BYTES: ReplyMapping = { typeMapping: { 36: Buffer } }

export function wordsOf (name: string, args: readonly CommandArgument[]): Argument[] {
  const words: Argument[] = [name]
  for (const arg of args) words.push(typeof arg === 'number' ? String(arg) : arg)
  return words
}

/** Gives an error reply of Redis the name by which it is distinguished from a failure of the connection. */
export function named (error: unknown): unknown {
  if (isErrorReply(error)) error.name = 'ReplyError'
  return error
}

export function isErrorReply (error: unknown): error is Error {
  return isOfKind(error, name => name === 'ErrorReply')
}

const CONNECTION_ERRORS = new Set([
  'ClientClosedError', 'ClientOfflineError', 'ConnectionTimeoutError', 'DisconnectsClientError',
  'ReconnectStrategyError', 'RootNodesUnavailableError', 'SocketClosedUnexpectedlyError', 'SocketTimeoutError',
  'TimeoutError'
])

/** Whether an error is one of node-redis's classes for a connection that failed. */
export function isConnectionError (error: unknown): boolean {
  return isOfKind(error, name => CONNECTION_ERRORS.has(name))
}

function isOfKind (error: unknown, matches: (name: string) => boolean): error is Error {
  if (!(error instanceof Error)) return false
  for (let kind: unknown = error.constructor; typeof kind === 'function'; kind = Object.getPrototypeOf(kind)) {
    if (matches(kind.name)) return true
  }
  return false
}
