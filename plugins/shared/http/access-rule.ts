import type { FastifyRequest } from 'fastify'
import { reasonOf, type PluginName } from '../plugin/errors.js'
import { option } from '../plugin/option-kinds.js'
import type { Option } from '../plugin/option-table.js'

/** The values of a route's `logLevel`. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** The requests with access: all, none, those of clients on this machine, or those that a function allows. */
export type AccessRule = boolean | 'loopback' | ((request: FastifyRequest) => boolean | Promise<boolean>)

type AccessCheck = (request: FastifyRequest) => boolean | Promise<boolean>

/** An option that decides who may read. */
export function accessRule (): Option<AccessRule, AccessCheck> {
  return option<AccessRule, AccessCheck, AccessRule>({
    type: "`true`, `false`, `'loopback'` or `(request) => boolean`, sync or async",
    allowed: "true, false, 'loopback' or a function of the request",
    fallback: 'loopback',
    parse (given, plugin) {
      if (typeof given === 'boolean') return () => given
      if (typeof given === 'function') return closedOnFailure(plugin, given as AccessCheck)
      return given === 'loopback' ? isLocal : undefined
    }
  })
}

/** Denies access if the function throws or rejects, which is logged once: a readiness probe must not fail for it. */
function closedOnFailure (plugin: PluginName, allows: AccessCheck): AccessCheck {
  let isLogged = false
  return async request => {
    try {
      return await allows(request)
    } catch (error) {
      if (!isLogged) {
        request.log.error(
          { plugin, reason: reasonOf(error) }, `${plugin}: the access function failed, so access is denied`
        )
      }
      isLogged = true
      return false
    }
  }
}

// Not all of 127.0.0.0/8: a service mesh's proxy connects from 127.0.0.6.
const LOOPBACK = new Set(['127.0.0.1', '::1', '::ffff:127.0.0.1'])
const LOCAL_HOST = /^(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?$/i
// Headers that proxies, load balancers and CDNs add to forwarded requests.
const FORWARDING = /forward|proxy|-original-|(?:client|real|connecting|user|remote|external)-?(?:ip|addr)|^(?:via|cdn-loop)$|^(?:x-amzn|x-envoy|cf)-/

/**
 * Whether a client on this machine sent the request directly.
 *
 * - A proxy on this machine also connects by loopback, so requests with a proxy's headers are excluded.
 * - `request.ip` is not used: with a trusted proxy, a client can choose the address.
 * - nginx uses HTTP/1.0 by default, with the app's own address as `Host` and without these headers, so HTTP/1.0 is
 *   excluded.
 * - The host must be local: a public name is that of a proxy, or of a web page that rebinds it to 127.0.0.1.
 */
function isLocal ({ socket, headers, raw }: FastifyRequest): boolean {
  if (!LOOPBACK.has(socket.remoteAddress ?? '') || raw.httpVersion === '1.0') return false
  const host = headers.host ?? headers[':authority']
  return typeof host === 'string' && LOCAL_HOST.test(host) && !Object.keys(headers).some(name => FORWARDING.test(name))
}
