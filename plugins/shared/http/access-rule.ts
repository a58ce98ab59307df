import type { FastifyRequest } from 'fastify'
import { reasonOf, type PluginName } from '../plugin/errors.js'

/** As `logLevel` of a route. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** Who may read something: everyone, no one, clients on this machine, or the requests that a function allows. */
export type AccessRule = boolean | 'loopback' | ((request: FastifyRequest) => boolean | Promise<boolean>)

/** What an option of the type {@link AccessRule} allows, for an error. */
export const ACCESS_RULE_ALLOWED = "true, false, 'loopback' or a function of the request"

export type AccessCheck = (request: FastifyRequest) => boolean | Promise<boolean>

export function isAccessRule (value: unknown): value is AccessRule {
  return typeof value === 'boolean' || value === 'loopback' || typeof value === 'function'
}

export function accessCheckOf (plugin: PluginName, audience: AccessRule): AccessCheck {
  if (typeof audience === 'boolean') return () => audience
  return audience === 'loopback' ? isLocal : closedOnFailure(plugin, audience)
}

/** A function that throws must not fail a readiness probe. It shows nothing, and is logged once. */
function closedOnFailure (plugin: PluginName, allows: AccessCheck): AccessCheck {
  let isLogged = false
  return async request => {
    try {
      return await allows(request)
    } catch (error) {
      if (!isLogged) request.log.error({ plugin, reason: reasonOf(error) }, `${plugin}: the function that decides who may read failed, so nothing is shown`)
      isLogged = true
      return false
    }
  }
}

// Not all of 127.0.0.0/8: the proxy of a service mesh connects from 127.0.0.6.
const LOOPBACK = new Set(['127.0.0.1', '::1', '::ffff:127.0.0.1'])
const LOCAL_HOST = /^(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?$/i
// What a proxy, a load balancer or a CDN adds to a request that it passes on.
const FORWARDING = /forward|proxy|-original-|(?:client|real|connecting|user|remote|external)-?(?:ip|addr)|^(?:via|cdn-loop)$|^(?:x-amzn|x-envoy|cf)-/

/**
 * Whether a client on this machine sent the request itself. A proxy on this machine connects by loopback as well, for everyone, so that no
 * header of one may be there. `request.ip` has no say: where a proxy is trusted, a client can name an address itself.
 * HTTP/1.0 is what nginx speaks to an app unless it is set otherwise, with the app's own address as `Host` and none of these headers.
 * The host has to be of this machine as well: a name of the outside is that of a proxy, or of a web page that rebinds it to 127.0.0.1.
 */
function isLocal ({ socket, headers, raw }: FastifyRequest): boolean {
  if (!LOOPBACK.has(socket.remoteAddress ?? '') || raw.httpVersion === '1.0') return false
  const host = headers.host ?? headers[':authority']
  return typeof host === 'string' && LOCAL_HOST.test(host) && !Object.keys(headers).some(name => FORWARDING.test(name))
}
