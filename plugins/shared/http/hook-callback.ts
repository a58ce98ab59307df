import { STATUS_CODES } from 'node:http'
import { Stream, type Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { reasonOf, type PluginName } from '../plugin/errors.js'

/** The callback `done` of a hook. The types of its arguments differ from hook to hook. */
type Done = (error?: never, payload?: never) => void

/** Each call uses Fastify's next error handler: the route's, the default one, and the one that drops the headers. */
const MAX_CALLS = 3

/**
 * Calls a hook's `done` from a promise, a timer or a callback; never throws.
 *
 * `done` runs the rest of the request, and throws if a header or the payload cannot be sent. Fastify catches the error
 * only while it calls the hook; later the error would end the process. This function returns it to Fastify, as Fastify
 * does for async hooks.
 *
 * @param payload - the payload of an `onSend` hook
 */
export function finishHook (
  plugin: PluginName, reply: FastifyReply, done: Done, error?: unknown, payload?: unknown
): void {
  if (error) return failHook(plugin, reply, done, error, payload)
  try {
    done(error as never, payload as never)
  } catch (thrown) {
    // Fastify has started to send the payload, and closes it itself.
    failHook(plugin, reply, done, thrown)
  }
}

/**
 * Calls a hook's `done` with an error, as {@link finishHook} does. If even the error cannot be sent, the response is a
 * bare 500.
 *
 * @param payload - the payload of an `onSend` hook, which is not sent: a stream is destroyed
 */
export function failHook (
  plugin: PluginName, reply: FastifyReply, done: Done, error: unknown, payload?: unknown
): void {
  if (isStream(payload)) payload.destroy()
  // Fastify takes a falsy value for success.
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
 * Handles a stream's errors while an `onSend` hook waits. Until Fastify sends the stream it has no other listener, and
 * an error (such as a missing file) would end the process. Fastify finds the error when it sends the stream.
 */
export function holdPayload (payload: unknown): void {
  if (isStream(payload)) payload.on('error', ignore)
}

function isStream (payload: unknown): payload is Readable {
  return payload instanceof Stream && 'destroy' in payload && typeof payload.destroy === 'function'
}

function ignore (): void {}

/** Ends the response without Fastify and without the headers that were set before. */
function endResponse ({ raw, request }: FastifyReply): void {
  if (raw.headersSent || raw.destroyed) {
    raw.destroy()
    return
  }
  for (const name of raw.getHeaderNames()) raw.removeHeader(name)
  const message = STATUS_CODES[500]
  const body = JSON.stringify({ statusCode: 500, error: message, message })
  // The status message may be invalid as well. HTTP/2 has none.
  if (request.raw.httpVersionMajor < 2) raw.statusMessage = ''
  raw.writeHead(500, { 'content-type': 'application/json; charset=utf-8', 'content-length': body.length })
  raw.end(body)
}
