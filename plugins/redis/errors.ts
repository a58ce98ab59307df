import { pluginError } from '../shared/errors.js'

export const AlreadyRegisteredError = pluginError('redis', 'ALREADY_REGISTERED', '%s is taken: give each further connection a "namespace" of its own')

/** Why a first connection failed. The code ends in the kind: `FST_REDIS_SUITE_REDIS_CONNECT_<KIND>`. */
export type ConnectFailure = 'REFUSED' | 'AUTH' | 'NOT_REDIS' | 'NAME_NOT_FOUND' | 'TLS' | 'TIMEOUT' | 'FAILED'

const EXPLANATION: Record<ConnectFailure, string> = {
  REFUSED: 'connection refused: nothing listens there',
  AUTH: 'wrong user or password, or one is needed',
  NOT_REDIS: 'what answers there is not a Redis',
  NAME_NOT_FOUND: 'the host name does not exist',
  TLS: 'the TLS handshake failed',
  TIMEOUT: 'no answer in time',
  FAILED: 'the connection failed'
}

/**
 * @param address - host and port, without credentials
 * @param cause - what happened last, if anything
 */
export function connectError (kind: ConnectFailure, address: string, cause: Error | undefined): Error {
  const ConnectError = pluginError('redis', `CONNECT_${kind}`, 'cannot connect to %s: %s%s', 500)
  return new ConnectError(address, EXPLANATION[kind], cause ? ` (${summary(cause)})` : '')
}

export function connectFailureOf (error: Error | undefined): ConnectFailure {
  if (error === undefined) return 'TIMEOUT'
  const code = errorCode(error)
  if (code === 'ECONNREFUSED') return 'REFUSED'
  if (code === 'ENOTFOUND') return 'NAME_NOT_FOUND'
  if (/^ERR_(TLS|SSL)|^EPROTO$|CERT|UNABLE_TO_/.test(code)) return 'TLS'
  if (/^(WRONGPASS|NOAUTH|NOPERM|ERR invalid password|ERR AUTH)/.test(error.message)) return 'AUTH'
  if (error.name === 'ParserError' || error.message.startsWith('Unknown RESP type')) return 'NOT_REDIS'
  // The latter where the connection stands, but nothing answers.
  if (code === 'ETIMEDOUT' || error.message === 'Command timed out') return 'TIMEOUT'
  return 'FAILED'
}

/** Whether waiting longer cannot help: a wrong password stays wrong, while a refused port may be a Redis that is starting. */
export function isFinal (failure: ConnectFailure): boolean {
  return failure === 'AUTH' || failure === 'NOT_REDIS' || failure === 'NAME_NOT_FOUND' || failure === 'TLS'
}

/** One line of an error, without the stack and without the command's arguments, which may hold a password. */
export function summary (error: Error): string {
  const line = error.message.split('\n', 1)[0] ?? ''
  const code = errorCode(error)
  return code === '' || line.includes(code) ? line : `${code} ${line}`
}

function errorCode (error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : ''
}
