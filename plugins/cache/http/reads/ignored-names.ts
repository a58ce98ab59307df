import type { RouteOptions } from 'fastify'

// Fields of the connection, of the message's form, and those that the cache itself evaluates.
const OF_THE_MESSAGE = ['cache-control', 'connection', 'content-length', 'content-type', 'expect', 'if-match', 'if-modified-since', 'if-none-match',
  'if-range', 'if-unmodified-since', 'keep-alive', 'pragma', 'range', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'upgrade-insecure-requests', 'via', 'x-no-compression',
  // How Fastify and HTTP/2 route the request: the URL and the method are in the key.
  ':method', ':path', ':scheme']

// Identify a request, and not the one who sends it.
const OF_TRACES = ['b3', 'cf-ray', 'request-id', 'sentry-trace', 'traceparent', 'tracestate', 'uber-trace-id', 'x-amzn-trace-id', 'x-b3-flags', 'x-b3-parentspanid', 'x-b3-sampled',
  'x-b3-spanid', 'x-b3-traceid', 'x-cloud-trace-context', 'x-correlation-id', 'x-datadog-parent-id', 'x-datadog-sampling-priority', 'x-datadog-trace-id', 'x-request-id', 'x-request-start',
  'x-vercel-id']

const ANYWHERE = [...OF_THE_MESSAGE, ...OF_TRACES, 'user-agent']

// What `request.ip` is made of.
const OF_ADDRESS = ['forwarded', 'x-forwarded-for', 'x-real-ip']

// Hooks read these to limit, log, refuse or redirect, and to set response headers that are not stored (CORS).
const IN_HOOKS = ['access-control-request-headers', 'access-control-request-method', 'access-control-request-private-network', 'baggage', 'origin', 'referer', 'request.ip', 'request.protocol',
  'sec-fetch-dest', 'sec-fetch-mode', 'sec-fetch-site', 'sec-fetch-user', 'x-forwarded-proto', ...OF_ADDRESS]

const OF_HOST_NAME = ['host', ':authority']

/** Names that do not count where they are read. */
export interface IgnoredNames {
  /** In the handler and after it. */
  anywhere: ReadonlySet<string>
  /** In hooks before the look-up. */
  inHooks: ReadonlySet<string>
}

/** @param more - further names; one that begins with `!` counts although it is harmless by default */
export function resolveIgnoredNames (more: readonly string[]): IgnoredNames {
  const isCounted = new Set(more.filter(name => name.startsWith('!')).map(name => name.slice(1)))
  if (isCounted.has('request.ip')) for (const name of OF_ADDRESS) isCounted.add(name)
  const anywhere = new Set([...ANYWHERE, ...more].filter(name => !isCounted.has(name)))
  return { anywhere, inHooks: new Set([...anywhere, ...IN_HOOKS.filter(name => !isCounted.has(name))]) }
}

/** The router has compared these already. */
export function withConstraints ({ anywhere, inHooks }: IgnoredNames, constraints: RouteOptions['constraints'] = {}): IgnoredNames {
  const names = [...constraints['version'] === undefined ? [] : ['accept-version'], ...typeof constraints['host'] === 'string' ? OF_HOST_NAME : []]
  return names.length === 0 ? { anywhere, inHooks } : { anywhere: new Set([...anywhere, ...names]), inHooks: new Set([...inHooks, ...names]) }
}
