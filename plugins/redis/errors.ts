import { pluginError, withoutArguments } from '../shared/plugin/errors.js'

export const AlreadyRegisteredError = pluginError('redis', 'ALREADY_REGISTERED',
  '%s is taken: give each further connection its own "namespace"')

/**
 * A call to Redis got no reply in time, or Redis refuses commands. `cause` has the reason. The command may have been
 * executed.
 */
export const StoreUnavailableError = pluginError(
  'redis', 'STORE_UNAVAILABLE', 'Redis is unavailable; try again later', 503
)

/** The reason why a first connection failed. The error's code ends in it: `FST_REDIS_SUITE_REDIS_CONNECT_<KIND>`. */
type ConnectFailure = 'REFUSED' | 'AUTH' | 'NOT_REDIS' | 'NAME_NOT_FOUND' | 'TLS' | 'TIMEOUT' | 'DATABASE' | 'ENDED' |
  'FAILED'

const EXPLANATION: Record<ConnectFailure, string> = {
  REFUSED: 'connection refused: nothing listens there',
  AUTH: 'wrong user or password, or one is needed',
  NOT_REDIS: 'what answers there is not a Redis',
  NAME_NOT_FOUND: 'the host name does not exist',
  TLS: 'the TLS handshake failed',
  TIMEOUT: 'no answer in time; check host, port and firewall, and use rediss:// only where the server has TLS',
  DATABASE: 'the server refuses this database; choose one that it has by the option db or in the url',
  ENDED: 'the client was closed before; give one that is open',
  FAILED: 'the connection failed'
}

const HINT_UNREACHABLE = '; start Redis there, give its address by the option url, as REDIS_URL in url: ' +
  'process.env.REDIS_URL, ' +
  'or boot without it by required: false'

const HINT_NOT_A_CLUSTER = '; the server is not a node of a Cluster: use the option url or host in place of cluster'

function isNoCluster (cause: Error | undefined): boolean {
  return cause?.message.includes('cluster support disabled') === true
}

/** Whether the server may be reachable later. */
function isUnreachable (kind: ConnectFailure): boolean {
  return kind === 'REFUSED' || kind === 'TIMEOUT'
}

/**
 * @param address - host and port, without credentials
 * @param cause - the last error, if there was one
 */
export function connectError (kind: ConnectFailure, address: string, cause: Error | undefined): Error {
  const ConnectError = pluginError('redis', `CONNECT_${kind}`, 'cannot connect to %s: %s%s', 500)
  const details = cause === undefined ? '' : ` (${summary(cause)})`
  const hints = (isUnreachable(kind) ? HINT_UNREACHABLE : '') + (isNoCluster(cause) ? HINT_NOT_A_CLUSTER : '')
  return new ConnectError(address, EXPLANATION[kind], details + hints)
}

export function connectFailureOf (error: Error | undefined): ConnectFailure {
  if (error === undefined) return 'TIMEOUT'
  const code = errorCode(error)
  if (code === 'ECONNREFUSED') return 'REFUSED'
  if (code === 'ENOTFOUND') return 'NAME_NOT_FOUND'
  if (/^ERR_(TLS|SSL)|^EPROTO$|CERT|UNABLE_TO_/.test(code)) return 'TLS'
  if (isDatabaseRefusal(error)) return 'DATABASE'
  const message = causeOf(error.message)
  if (/^(WRONGPASS|NOAUTH|NOPERM|ERR invalid password|ERR AUTH)/.test(message)) return 'AUTH'
  if (error.name === 'ParserError' || message.startsWith('Unknown RESP type')) return 'NOT_REDIS'
  // The latter if the connection is established, but no reply arrives.
  if (code === 'ETIMEDOUT' || /^(Command timed out|Connection timeout)$/.test(message)) return 'TIMEOUT'
  if (message.includes('ECONNREFUSED')) return 'REFUSED'
  if (message.includes('ENOTFOUND')) return 'NAME_NOT_FOUND'
  return 'FAILED'
}

/** Returns the last Sentinel's error, in which ioredis's error about all Sentinels ends. */
function causeOf (message: string): string {
  return /^All sentinels are unreachable.* Last error: (.*)$/s.exec(message)?.[1] ?? message
}

/** Whether the server refuses the database of a new connection. Before a login it refuses all commands. */
export function isDatabaseRefusal (error: Error): boolean {
  // An error of node-redis does not have the command.
  if (/^ERR (DB index|invalid DB index)/.test(error.message)) return true
  const command: unknown = Reflect.get(error, 'command')
  const isSelect = typeof command === 'object' && command !== null && Reflect.get(command, 'name') === 'select'
  return isSelect && error.name === 'ReplyError' && !/^(NOAUTH|WRONGPASS|LOADING|MASTERDOWN)/.test(error.message)
}

/**
 * Whether waiting cannot help: a wrong password stays wrong, while a Redis that is starting refuses connections at
 * first.
 */
export function isFinal (failure: ConnectFailure): boolean {
  return failure !== 'REFUSED' && failure !== 'TIMEOUT' && failure !== 'FAILED'
}

/**
 * Whether the app's own options are wrong, so that Redis would never be reachable: the app does not boot, even if Redis
 * is not required.
 */
export function isSetupError (error: unknown): boolean {
  return error instanceof Error && 'code' in error && /_CONNECT_(DATABASE|ENDED)$/.test(String(error.code))
}

/** Returns an error's message in one line, without the command's arguments, which may contain a password. */
export function summary (error: Error): string {
  const line = withoutArguments(error.message).split('\n', 1)[0] ?? ''
  const code = errorCode(error)
  return code === '' || line.includes(code) ? line : `${code} ${line}`
}

function errorCode (error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : ''
}
