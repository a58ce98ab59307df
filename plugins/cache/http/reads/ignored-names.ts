import type { RouteOptions } from 'fastify'

/** Fields of the connection and of the message's form, and those that the cache itself evaluates. */
const MESSAGE_FIELDS = ['cache-control', 'connection', 'content-length', 'content-type', 'expect', 'if-match',
  'if-modified-since', 'if-none-match',
  'if-range', 'if-unmodified-since', 'keep-alive', 'pragma', 'range', 'te', 'trailer', 'transfer-encoding', 'upgrade',
  'upgrade-insecure-requests', 'via', 'x-no-compression',
  // Fastify and HTTP/2 route the request by these: the URL and the method are in the key.
  ':method', ':path', ':scheme']

/** Fields that identify a request, and not its client. */
const TRACE_FIELDS = ['b3', 'cf-ray', 'request-id', 'sentry-trace', 'traceparent', 'tracestate', 'uber-trace-id',
  'x-amzn-trace-id', 'x-b3-flags', 'x-b3-parentspanid', 'x-b3-sampled',
  'x-b3-spanid', 'x-b3-traceid', 'x-cloud-trace-context', 'x-correlation-id', 'x-datadog-parent-id',
  'x-datadog-sampling-priority', 'x-datadog-trace-id', 'x-request-id', 'x-request-start',
  'x-vercel-id']

const ANYWHERE = [...MESSAGE_FIELDS, ...TRACE_FIELDS, 'user-agent']

/** Fields from which `request.ip` is derived. */
const ADDRESS_FIELDS = ['forwarded', 'x-forwarded-for', 'x-real-ip']

/** Names that hooks read to limit, log, refuse or redirect, and to set response headers that are not stored (CORS). */
const IN_HOOKS = ['access-control-request-headers', 'access-control-request-method',
  'access-control-request-private-network', 'baggage', 'origin', 'referer', 'request.ip', 'request.protocol',
  'sec-fetch-dest', 'sec-fetch-mode', 'sec-fetch-site', 'sec-fetch-user', 'x-forwarded-proto', ...ADDRESS_FIELDS]

const HOST_FIELDS = ['host', ':authority']

/** Names whose reads do not count. */
export interface IgnoredNames {
  /** Names ignored in the handler and after it. */
  anywhere: ReadonlySet<string>
  /** Names ignored in hooks before the lookup. */
  inHooks: ReadonlySet<string>
}

/** @param more - further names; one that begins with `!` counts although it is harmless by default */
export function resolveIgnoredNames (more: readonly string[]): IgnoredNames {
  const isCounted = new Set(more.filter(name => name.startsWith('!')).map(name => name.slice(1)))
  if (isCounted.has('request.ip')) for (const name of ADDRESS_FIELDS) isCounted.add(name)
  const anywhere = new Set([...ANYWHERE, ...more].filter(name => !isCounted.has(name)))
  return { anywhere, inHooks: new Set([...anywhere, ...IN_HOOKS.filter(name => !isCounted.has(name))]) }
}

/** Returns ignored names with the fields by which the router chose the route. */
export function withConstraints (
  { anywhere, inHooks }: IgnoredNames, constraints: RouteOptions['constraints'] = {}
): IgnoredNames {
  const names: string[] = []
  if (constraints['version'] !== undefined) names.push('accept-version')
  if (typeof constraints['host'] === 'string') names.push(...HOST_FIELDS)
  return names.length === 0
    ? { anywhere, inHooks }
    : { anywhere: new Set([...anywhere, ...names]), inHooks: new Set([...inHooks, ...names]) }
}
