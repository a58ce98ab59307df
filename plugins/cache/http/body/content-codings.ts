import { promisify } from 'node:util'
import zlib from 'node:zlib'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Bytes } from '../../../shared/plugin/units.js'
import { type Headers, joined } from '../../rfc/stored-headers.js'
import { parseVary } from '../../rfc/vary.js'
import type { EncodedCopies } from '../../store/entry.js'
import { ENCODING } from '../reads/request-reads.js'
import { ownHeaders } from '../reads/watch-request.js'

type Decoder = (body: Buffer, options: { maxOutputLength: Bytes }) => Promise<Buffer>
const zstdDecompress: unknown = Reflect.get(zlib, 'zstdDecompress')
const DECODERS: Readonly<Record<string, Decoder>> = {
  br: promisify(zlib.brotliDecompress) as Decoder,
  deflate: promisify(zlib.inflate) as Decoder,
  gzip: promisify(zlib.gunzip) as Decoder,
  // Since Node.js 22.15.
  ...typeof zstdDecompress === 'function' && { zstd: promisify(zstdDecompress) as Decoder }
}

/** Decodes a body. Returns undefined for one that cannot be decoded, or is larger than `maxSize` then. */
export async function decode (coding: string, body: Buffer, maxSize: Bytes): Promise<Buffer | undefined> {
  try {
    return await DECODERS[coding]?.(body, { maxOutputLength: Math.max(1, maxSize) })
  } catch {
    return undefined
  }
}

/** Returns the coding of a reply, if it can be decoded. */
export function decodableCoding (reply: FastifyReply): string | undefined {
  const coding = reply.getHeader('content-encoding')
  return typeof coding === 'string' && Object.hasOwn(DECODERS, coding) ? coding : undefined
}

const MAX_LEARNED = 100
const MAX_FIELD_LENGTH = 200

/**
 * The codings that a route's hooks chose, by `Accept-Encoding`. Hooks choose by their own options, which the cache does
 * not know.
 */
export class ChosenCodings {
  readonly #chosen = new Map<string, string>()

  learn (accepted: unknown, coding: string): void {
    if (typeof accepted !== 'string' || accepted.length > MAX_FIELD_LENGTH) return
    this.#chosen.set(accepted, coding)
    const [oldest = ''] = this.#chosen.keys()
    if (this.#chosen.size > MAX_LEARNED) this.#chosen.delete(oldest)
  }

  /**
   * Returns the coding of the copy to send; undefined where the hooks would not encode the response, or no copy has
   * their coding.
   */
  choose (request: FastifyRequest, copies: EncodedCopies): string | undefined {
    const headers = ownHeaders(request)
    const accepted = headers[ENCODING]
    // @fastify/compress does not encode responses to requests with this header.
    if (typeof accepted !== 'string' || headers['x-no-compression'] !== undefined) return undefined
    const coding = this.#chosen.get(accepted)
    return coding !== undefined && Object.hasOwn(copies, coding) ? coding : undefined
  }
}

/** Whether a handler left it to hooks to encode its response, so that they can encode a stored response as well. */
export function leavesEncodingToHooks (reply: FastifyReply): boolean {
  const coding = reply.getHeader('content-encoding')
  if (coding !== undefined && coding !== 'identity') return false
  const vary = parseVary(joined(reply.getHeader('vary')))
  return vary !== '*' && !vary.includes(ENCODING)
}

/**
 * Returns response headers without those of an encoding.
 *
 * @param varyBefore - `Vary` as it was before the handler ran, which is not stored
 */
export function withoutEncoding ({ 'content-encoding': _, vary, ...headers }: Headers, varyBefore: unknown): Headers {
  const names = (joined(vary) ?? '').split(',').map(name => name.trim())
    .filter(name => name !== '' && name.toLowerCase() !== ENCODING).join(', ')
  return names === '' || names === varyBefore ? headers : { ...headers, vary: names }
}

/**
 * Weakens the `ETag` of a reply: bodies that differ in bytes have no strong validator in common (RFC 9110 §8.8.3.3).
 */
export function weakenEtag (reply: FastifyReply): void {
  const etag = joined(reply.getHeader('etag'))
  if (etag?.startsWith('"')) reply.header('etag', `W/${etag}`)
}
