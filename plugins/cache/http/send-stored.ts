import type { FastifyReply } from 'fastify'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { isNotModified, type Validators } from '../rfc/conditional.js'
import { parseHttpDate } from '../rfc/http-date.js'
import { isRangeCurrent, parseRange } from '../rfc/range.js'
import { joined } from '../rfc/stored-headers.js'
import { addVary } from '../rfc/vary.js'
import type { EncodedCopies } from '../store/entry.js'
import { discard } from './body/body-capture.js'
import { decodableCoding, weakenEtag } from './body/content-codings.js'
import { adoptEncodedCopy } from './body/encoded-responses.js'
import { ENCODING } from './reads/request-reads.js'
import type { ClientConditions, RequestCache, Served } from './request-state.js'
import type { StoredResponse } from './stored-response.js'

export function validatorsOf ({ meta: { headers }, storedAt }: StoredResponse): Validators {
  return {
    etag: joined(headers['etag']),
    lastModified: joined(headers['last-modified']),
    date: parseHttpDate(joined(headers['date'])) ?? storedAt
  }
}

/**
 * Puts a stored response onto a reply: whole, a part of it (206, RFC 9110 §14), or 304 if the client has it.
 *
 * @param conditions - of the client's request
 * @param coding - of the encoded copy to send; undefined: the body itself
 * @returns the body to send
 */
export function applyStored (
  reply: FastifyReply, entry: StoredResponse, conditions: ClientConditions | undefined, age: Milliseconds,
  coding: string | undefined
): Buffer | string {
  const { status, headers } = entry.meta
  for (const name in headers) {
    const value = headers[name]
    // Fastify appends to this field.
    if (name === 'set-cookie') reply.removeHeader(name)
    if (value !== undefined) reply.header(name, value)
  }
  // RFC 9111 §5.1
  reply.code(status).header('age', Math.floor(age / 1000))
  const body = entry.encoded === undefined ? entry.body : encodedBody(reply, entry, entry.encoded, coding)
  if (conditions === undefined || status !== 200) return body
  const validators = validatorsOf(entry)
  if (body !== entry.body) validators.etag = joined(reply.getHeader('etag'))
  // RFC 9111 §4.3.2
  if (isNotModified(conditions.ifNoneMatch, conditions.ifModifiedSince, validators)) return notModified(reply)
  const { range, ifRange } = conditions
  return range !== undefined && isRangeCurrent(ifRange, validators) ? partialContent(reply, body, range) : body
}

function encodedBody (
  reply: FastifyReply, { body }: StoredResponse, copies: EncodedCopies, coding: string | undefined
): Buffer {
  // The response differs for another `Accept-Encoding` (RFC 9110 §12.5.5).
  addVary(reply, ENCODING)
  const encoded = coding === undefined ? undefined : copies[coding]
  if (coding === undefined || encoded === undefined) return body
  reply.header('content-encoding', coding)
  weakenEtag(reply)
  return encoded
}

/** Makes a reply a 304 (RFC 9110 §15.4.5). */
export function notModified (reply: FastifyReply): string {
  reply.code(304).removeHeader('content-length').removeHeader('content-type').removeHeader('content-encoding')
  return ''
}

/**
 * Removes the length of an empty body from a 304: it is not the length of the response that the client has (RFC 9110
 * §8.6).
 */
export function withoutLength (reply: FastifyReply, body: unknown): unknown {
  if (body !== '' && body !== null && body !== undefined) return body
  reply.removeHeader('content-length')
  // Fastify sends no length for null.
  return null
}

function partialContent (reply: FastifyReply, body: Buffer, field: string): Buffer | string {
  const range = parseRange(field, body.length)
  if (range === undefined) return body
  if (range === 'unsatisfiable') {
    reply.code(416).header('content-range', `bytes */${body.length}`)
    return ''
  }
  reply.code(206).header('content-range', `bytes ${range.first}-${range.last}/${body.length}`)
  return body.subarray(range.first, range.last + 1)
}

/**
 * Undoes what the app's hooks change in a stored response: they changed it before it was stored. A hook may still
 * encode it for a client.
 *
 * @returns the body to send
 */
export function restoreStoredBody (state: RequestCache, served: Served, payload: unknown): MaybePromise<unknown> {
  const { request, reply, hasFailed } = state
  if (hasFailed) return payload
  const { entry, body, contentType, contentEncoding } = served
  // Fastify gives bytes a type.
  if (contentType === undefined) reply.removeHeader('content-type')
  if (payload === body || reply.statusCode !== served.statusCode) return payload
  if (reply.getHeader('content-encoding') === contentEncoding) {
    discard(payload)
    reply.removeHeader('content-length')
    return body
  }
  const coding = decodableCoding(reply)
  const isWhole = body === entry.body && contentEncoding === undefined
  if (coding !== undefined && isWhole && payload !== null && request.method === 'GET') {
    return adoptEncodedCopy(state, entry, coding, payload)
  }
  weakenEtag(reply)
  return payload
}
