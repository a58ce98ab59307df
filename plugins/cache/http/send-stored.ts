import type { FastifyReply } from 'fastify'
import { weakenEtag } from './body/content-codings.js'
import type { EncodedCopies } from '../store/entry.js'
import { isNotModified, type Validators } from '../rfc/conditional.js'
import type { StoredResponse } from './stored-response.js'
import { joined } from '../rfc/stored-headers.js'
import { parseHttpDate } from '../rfc/http-date.js'
import { isRangeCurrent, parseRange } from '../rfc/range.js'
import { ENCODING } from './reads/request-reads.js'
import type { ClientConditions } from './request-state.js'
import { addVary } from '../rfc/vary.js'

export function validatorsOf ({ meta: { headers }, storedAt }: StoredResponse): Validators {
  return {
    etag: joined(headers['etag']),
    lastModified: joined(headers['last-modified']),
    date: parseHttpDate(joined(headers['date'])) ?? storedAt
  }
}

/**
 * Puts a stored answer onto a reply: whole, a part of it (206, RFC 9110 §14), or that the client has it (304).
 *
 * @param age - milliseconds since it was generated
 * @param coding - of the encoded copy that is to be sent; undefined: the body itself
 * @returns the body to send
 */
export function applyStored (reply: FastifyReply, entry: StoredResponse, client: ClientConditions, age: number, coding?: string): Buffer | string {
  const { status, headers } = entry.meta
  for (const name in headers) {
    const value = headers[name]
    // Fastify appends to this one.
    if (name === 'set-cookie') reply.removeHeader(name)
    if (value !== undefined) reply.header(name, value)
  }
  reply.code(status).header('age', Math.floor(age / 1000))
  const body = entry.encoded === undefined ? entry.body : encodedBody(reply, entry, entry.encoded, coding)
  if (client.ifNoneMatch === undefined && client.ifModifiedSince === undefined && client.range === undefined) return body
  const validators = validatorsOf(entry)
  if (body !== entry.body) validators.etag = joined(reply.getHeader('etag'))
  if (status === 200 && isNotModified(client.ifNoneMatch, client.ifModifiedSince, validators)) return notModified(reply)
  return status === 200 && client.range !== undefined && isRangeCurrent(client.ifRange, validators) ? partOf(reply, body, client.range) : body
}

function encodedBody (reply: FastifyReply, { body }: StoredResponse, copies: EncodedCopies, coding: string | undefined): Buffer {
  // The response is another one for another `Accept-Encoding` (RFC 9110 §12.5.5).
  addVary(reply, ENCODING)
  const encoded = coding === undefined ? undefined : copies[coding]
  if (coding === undefined || encoded === undefined) return body
  reply.header('content-encoding', coding)
  weakenEtag(reply)
  return encoded
}

/** RFC 9110 §15.4.5. */
export function notModified (reply: FastifyReply): string {
  reply.code(304).removeHeader('content-length').removeHeader('content-type').removeHeader('content-encoding')
  return ''
}

/** The length of an empty text would be wrong for the response that the client has (RFC 9110 §8.6). @returns the body of a 304 */
export function withoutLength (reply: FastifyReply, body: unknown): unknown {
  if (body !== '' && body !== null && body !== undefined) return body
  reply.removeHeader('content-length')
  // Fastify sends no length for null.
  return null
}

function partOf (reply: FastifyReply, body: Buffer, field: string): Buffer | string {
  const range = parseRange(field, body.length)
  if (range === undefined) return body
  if (range === 'unsatisfiable') {
    reply.code(416).header('content-range', `bytes */${body.length}`)
    return ''
  }
  reply.code(206).header('content-range', `bytes ${range.first}-${range.last}/${body.length}`)
  return body.subarray(range.first, range.last + 1)
}
