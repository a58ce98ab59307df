import { promisify } from 'node:util'
import zlib from 'node:zlib'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Headers, joined } from '../../rfc/stored-headers.js'
import { parseVary } from '../../rfc/vary.js'
import type { EncodedCopies } from '../../store/entry.js'
import { ENCODING } from '../reads/request-reads.js'
import { ownHeaders } from '../reads/watch-request.js'

type Decoder = (body: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>
const zstdDecompress: unknown = Reflect.get(zlib, 'zstdDecompress')
const DECODERS: Readonly<Record<string, Decoder>> = {
  br: promisify(zlib.brotliDecompress) as Decoder,
  deflate: promisify(zlib.inflate) as Decoder,
  gzip: promisify(zlib.gunzip) as Decoder,
  // Since Node.js 22.15.
  ...typeof zstdDecompress === 'function' && { zstd: promisify(zstdDecompress) as Decoder }
}

/** @returns undefined for what cannot be decoded, or is larger */
export async function decode (coding: string, body: Buffer, maxSize: number): Promise<Buffer | undefined> {
  try {
    return await DECODERS[coding]?.(body, { maxOutputLength: Math.max(1, maxSize) })
  } catch {
    return undefined
  }
}

/** The coding of a reply; undefined where it has none that can be decoded. */
export function decodableCoding (reply: FastifyReply): string | undefined {
  const coding = reply.getHeader('content-encoding')
  return typeof coding === 'string' && Object.hasOwn(DECODERS, coding) ? coding : undefined
}

const MOST_REMEMBERED = 100
const LONGEST_REMEMBERED = 200

/** Remembers which coding a route's hooks chose for which `Accept-Encoding`. They choose by their own options. */
export class ChosenCodings {
  readonly #chosen = new Map<string, string>()

  learn (accepted: unknown, coding: string): void {
    if (typeof accepted !== 'string' || accepted.length > LONGEST_REMEMBERED) return
    this.#chosen.set(accepted, coding)
    const [oldest = ''] = this.#chosen.keys()
    if (this.#chosen.size > MOST_REMEMBERED) this.#chosen.delete(oldest)
  }

  /** @returns the coding of the copy that is right for a request; undefined: none is */
  choose (request: FastifyRequest, copies: EncodedCopies | undefined): string | undefined {
    if (copies === undefined) return undefined
    const headers = ownHeaders(request)
    const accepted = headers[ENCODING]
    // With this header @fastify/compress encodes nothing.
    if (typeof accepted !== 'string' || headers['x-no-compression'] !== undefined) return undefined
    const coding = this.#chosen.get(accepted)
    return coding !== undefined && Object.hasOwn(copies, coding) ? coding : undefined
  }
}

/** Whether a handler left it to the hooks to encode its response: they can do so with a stored one as well. */
export function leavesEncoding (reply: FastifyReply): boolean {
  const coding = reply.getHeader('content-encoding')
  if (coding !== undefined && coding !== 'identity') return false
  const vary = parseVary(joined(reply.getHeader('vary')))
  return vary !== '*' && !vary.includes(ENCODING)
}

/** Response headers without those of an encoding. @param before - `Vary` as it is before the handler runs, which is not stored */
export function withoutEncoding ({ 'content-encoding': _, vary, ...headers }: Headers, before: unknown): Headers {
  const names = (joined(vary) ?? '').split(',').map(name => name.trim()).filter(name => name !== '' && name.toLowerCase() !== ENCODING).join(', ')
  return names === '' || names === before ? headers : { ...headers, vary: names }
}

/** Bytes that differ have no strong validator in common (RFC 9110 §8.8.3.3). */
export function weakenEtag (reply: FastifyReply): void {
  const etag = joined(reply.getHeader('etag'))
  if (etag?.startsWith('"')) reply.header('etag', `W/${etag}`)
}
