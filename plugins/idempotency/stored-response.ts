import type { FastifyReply } from 'fastify'
import { ownBytes } from '../shared/data/bytes.js'
import type { Bytes } from '../shared/plugin/units.js'
import { storedHeaders, restoreHeaders } from './stored-headers.js'
import type { ResolvedRouteIdempotency } from './options.js'
import type { RecordedResponse } from './store.js'

// These ask the client to try again, as 5xx do.
const RETRYABLE = new Set([408, 425, 429])
/** A rough size of an entry without its headers and body. */
const ENTRY_BYTES = 1024

/** Whether a response is stored: repetitions of the request get the same. */
export function isFinal (status: number): boolean {
  return status < 500 && !RETRYABLE.has(status)
}

/**
 * Returns what is stored of a response; undefined if the body is a stream.
 *
 * @param before - the headers before the handler ran
 */
export function recordResponse (
  reply: FastifyReply, payload: unknown, { headers, maxBodySize }: ResolvedRouteIdempotency, before: object
): RecordedResponse | undefined {
  const body = bytesOf(payload)
  if (body === undefined) return undefined
  return {
    status: reply.statusCode,
    headers: storedHeaders(reply, headers, before),
    body: body !== null && body.length > maxBodySize ? 'too-large' : body
  }
}

function bytesOf (payload: unknown): Buffer | null | undefined {
  if (payload === undefined || payload === null) return null
  // A copy, as the handler may write into its buffer again.
  return typeof payload === 'string' || payload instanceof Uint8Array ? Buffer.from(payload) : undefined
}

/**
 * Returns a copy of a response in memory of its own, and its size: a small body may share the pool of Node.js, and a
 * header may be a slice of a longer text.
 */
export function copyResponse (
  { status, headers, body }: RecordedResponse
): { response: RecordedResponse, bytes: Bytes } {
  const text = JSON.stringify(headers)
  const response = {
    status,
    headers: JSON.parse(text) as RecordedResponse['headers'],
    body: body instanceof Buffer ? ownBytes(body) : body
  }
  return { response, bytes: ENTRY_BYTES + 2 * text.length + (body instanceof Buffer ? body.length : 0) }
}

/** Sends a stored response. The hooks of the app process it as any other response. */
export function sendStored (reply: FastifyReply, { status, headers, body }: RecordedResponse): FastifyReply {
  return reply.code(status).headers(headers).header('idempotency-replayed', 'true').send(body ?? undefined)
}

/**
 * Restores a stored response after the hooks of the app have changed it: they had changed the first response before it
 * was stored.
 *
 * @returns the body
 */
export function restoreStored (
  reply: FastifyReply, { status, headers, body }: RecordedResponse, route: ResolvedRouteIdempotency
): unknown {
  restoreHeaders(reply, route.headers, headers)
  reply.code(status)
  return body
}
