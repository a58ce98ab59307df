import { STATUS_CODES } from 'node:http'
import { Stream, type Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { reasonOf, type PluginName } from '../plugin/errors.js'

/** `done` of a hook. The types of its arguments differ from hook to hook. */
type Done = (error?: never, payload?: never) => void

/** Each call hands the error to the next of Fastify's error handlers: the route's, the default one, and the one that drops the headers. */
const MAX_CALLS = 3

/**
 * Calls a hook's `done` from a promise, a timer or a callback; it never throws.
 *
 * `done` runs the rest of the request, and throws where a header or the payload cannot be sent. Fastify catches that while it calls the
 * hook, but nothing catches it later, and the process would exit. This gives the error back to Fastify, as Fastify does for async hooks.
 *
 * @param payload - the payload that an `onSend` hook passes on
 */
export function finishHook (plugin: PluginName, reply: FastifyReply, done: Done, error?: unknown, payload?: unknown): void {
  if (error) return failHook(plugin, reply, done, error, payload)
  try {
    done(error as never, payload as never)
  } catch (thrown) {
    // Fastify has begun to send the payload, and closes it.
    failHook(plugin, reply, done, thrown)
  }
}

/**
 * Calls a hook's `done` with an error, as {@link finishHook} does. The response has the status 500 where even the error cannot be sent.
 *
 * @param payload - the payload that an `onSend` hook holds: it is not sent, so a stream is closed
 */
export function failHook (plugin: PluginName, reply: FastifyReply, done: Done, error: unknown, payload?: unknown): void {
  if (isStream(payload)) payload.destroy()
  // Fastify takes a falsy value for leave to go on.
  const failure = error || new Error('a promise was rejected without a reason')
  for (let call = 1; call <= MAX_CALLS; call++) {
    try {
      return done(failure as never)
    } catch {
      // The next call takes the next error handler.
    }
  }
  reply.log.error({ plugin, reason: reasonOf(failure) }, `${plugin}: neither a response nor its error could be sent`)
  endResponse(reply)
}

/**
 * Call it before an `onSend` hook waits: until Fastify sends a stream nobody listens for its errors, and one that fails meanwhile (a file that
 * is not there) would end the process. Fastify finds the error when it sends the stream.
 */
export function holdPayload (payload: unknown): void {
  if (isStream(payload)) payload.on('error', ignore)
}

function isStream (payload: unknown): payload is Readable {
  return payload instanceof Stream && 'destroy' in payload && typeof payload.destroy === 'function'
}

function ignore (): void {}

/** Bypasses Fastify, and everything of the response that was set before. */
function endResponse ({ raw, request }: FastifyReply): void {
  if (raw.headersSent || raw.destroyed) {
    raw.destroy()
    return
  }
  for (const name of raw.getHeaderNames()) raw.removeHeader(name)
  const message = STATUS_CODES[500]
  const body = JSON.stringify({ statusCode: 500, error: message, message })
  // Of what cannot be sent, this one is not among the headers; HTTP/2 has none.
  if (request.raw.httpVersionMajor < 2) raw.statusMessage = ''
  raw.writeHead(500, { 'content-type': 'application/json; charset=utf-8', 'content-length': body.length })
  raw.end(body)
}
