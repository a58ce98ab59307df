import type { Attributes, SpanOptions, Tracer } from '@opentelemetry/api'
import type { PluginName } from './errors.js'

interface Tracing {
  api: typeof import('@opentelemetry/api')
  tracer: Tracer
}

let tracing: Tracing | undefined
let users = 0

/**
 * Starts spans for the plugins of the whole process, as a tracer provider belongs to the process.
 *
 * @returns a function that ends them
 * @throws `ERR_MODULE_NOT_FOUND` if `@opentelemetry/api` is not installed
 */
export async function startTracing (): Promise<() => void> {
  // Imported on demand: apps without tracing do not need the package.
  const api = await import('@opentelemetry/api')
  users++
  tracing ??= { api, tracer: api.trace.getTracer('fastify-redis-suite') }
  return () => { if (--users === 0) tracing = undefined }
}

export function isTracing (): boolean {
  return tracing !== undefined
}

/**
 * Runs `work` in a span of its own if the active span is recorded. Background work without an active span has none.
 *
 * @param resultOf - returns attributes of the result
 */
export function traced<T> (name: string, work: () => Promise<T>, resultOf?: (result: T) => Attributes): Promise<T> {
  return tracing === undefined ? work() : inSpan(tracing, name, {}, work, resultOf)
}

/**
 * Runs an operation on Redis in a span of its own, as {@link traced} does.
 *
 * @see https://opentelemetry.io/docs/specs/semconv/database/redis/
 */
export function tracedRedis<T> (
  plugin: PluginName, operation: () => Promise<T>, run: (operation: () => Promise<T>) => Promise<T>
): Promise<T> {
  if (tracing === undefined) return run(operation)
  const attributes = { 'db.system.name': 'redis', 'fastify_redis_suite.plugin': plugin }
  return inSpan(tracing, `redis ${plugin}`, { kind: tracing.api.SpanKind.CLIENT, attributes }, () => run(operation))
}

function inSpan<T> (
  { api, tracer }: Tracing, name: string, options: SpanOptions, work: () => Promise<T>,
  resultOf?: (result: T) => Attributes
): Promise<T> {
  const { context, SpanStatusCode, trace } = api
  if (trace.getActiveSpan()?.isRecording() !== true) return work()
  const span = tracer.startSpan(name, options)
  return context.with(trace.setSpan(context.active(), span), work).then(
    result => {
      if (resultOf !== undefined) span.setAttributes(resultOf(result))
      span.end()
      return result
    },
    (error: unknown) => {
      // Without message and stack: the client's error contains a command's arguments.
      span.setAttribute('error.type', typeOf(error))
      span.setStatus({ code: SpanStatusCode.ERROR })
      span.end()
      throw error
    })
}

function typeOf (error: unknown): string {
  if (!(error instanceof Error)) return '_OTHER'
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name
}
