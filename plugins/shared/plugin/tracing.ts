import type { Attributes, SpanOptions, Tracer } from '@opentelemetry/api'
import type { PluginName } from './errors.js'

interface Tracing {
  api: typeof import('@opentelemetry/api')
  tracer: Tracer
}

let tracing: Tracing | undefined
let users = 0

/**
 * From now on what the plugins do has spans, for the whole process, as a tracer provider is the process's.
 *
 * @returns a function that ends it
 * @throws `ERR_MODULE_NOT_FOUND` where `@opentelemetry/api` is not installed
 */
export async function startTracing (): Promise<() => void> {
  // Not before somebody asks for it: whoever does not trace need not have it.
  const api = await import('@opentelemetry/api')
  users++
  tracing ??= { api, tracer: api.trace.getTracer('fastify-redis-suite') }
  return () => { if (--users === 0) tracing = undefined }
}

export function isTracing (): boolean {
  return tracing !== undefined
}

/**
 * Runs something in a span of its own, where it is done for one that is recorded: what happens in the background makes no traces.
 *
 * @param resultOf - attributes that tell what came of it
 */
export function traced<T> (name: string, work: () => Promise<T>, resultOf?: (result: T) => Attributes): Promise<T> {
  return tracing === undefined ? work() : inSpan(tracing, name, {}, work, resultOf)
}

/** The same for an operation on Redis, as the semantic conventions for database clients have it. */
export function tracedRedis<T> (plugin: PluginName, operation: () => Promise<T>, run: (operation: () => Promise<T>) => Promise<T>): Promise<T> {
  if (tracing === undefined) return run(operation)
  const attributes = { 'db.system.name': 'redis', 'fastify_redis_suite.plugin': plugin }
  return inSpan(tracing, `redis ${plugin}`, { kind: tracing.api.SpanKind.CLIENT, attributes }, () => run(operation))
}

function inSpan<T> ({ api, tracer }: Tracing, name: string, options: SpanOptions, work: () => Promise<T>, resultOf?: (result: T) => Attributes): Promise<T> {
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
      // Neither its message nor its stack: an error of the client's carries a command's arguments.
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
