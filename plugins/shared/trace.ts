import { context, SpanKind, SpanStatusCode, trace, type Attributes, type SpanOptions, type Tracer } from '@opentelemetry/api'
import type { PluginName } from './errors.js'

let tracer: Tracer | undefined
let users = 0

/**
 * From now on what the plugins do has spans, for the whole process, as a tracer provider is the process's.
 *
 * @returns a function that ends it
 */
export function startTracing (): () => void {
  users++
  tracer ??= trace.getTracer('fastify-redis-suite')
  return () => { if (--users === 0) tracer = undefined }
}

/**
 * Runs something in a span of its own, where it is done for one that is recorded: what happens in the background makes no traces.
 *
 * @param resultOf - attributes that tell what came of it
 */
export function traced<T> (name: string, work: () => Promise<T>, resultOf?: (result: T) => Attributes): Promise<T> {
  return tracer === undefined ? work() : inSpan(tracer, name, {}, work, resultOf)
}

/** The same for an operation on Redis, as the semantic conventions for database clients have it. */
export function tracedRedis<T> (plugin: PluginName, operation: () => Promise<T>, run: (operation: () => Promise<T>) => Promise<T>): Promise<T> {
  if (tracer === undefined) return run(operation)
  const attributes = { 'db.system.name': 'redis', 'fastify_redis_suite.plugin': plugin }
  return inSpan(tracer, `redis ${plugin}`, { kind: SpanKind.CLIENT, attributes }, () => run(operation))
}

function inSpan<T> (tracer: Tracer, name: string, options: SpanOptions, work: () => Promise<T>, resultOf?: (result: T) => Attributes): Promise<T> {
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
