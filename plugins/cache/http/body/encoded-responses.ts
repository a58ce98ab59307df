import type { FastifyReply, FastifyRequest } from 'fastify'
import { copyBytes } from '../../../shared/data/bytes.js'
import { discard } from './body-capture.js'
import { decode, weakenEtag } from './content-codings.js'
import { PATTERN_TAG } from '../../store/store.js'
import type { TwoTierCache } from '../../tiers/two-tier-cache.js'
import { isResponse, type StoredResponse } from '../stored-response.js'
import { lookupResponse } from '../lookup.js'
import { ENCODING } from '../reads/request-reads.js'
import type { RequestCache } from '../request-state.js'
import { addVary } from '../../rfc/vary.js'
import { ownHeaders } from '../reads/watch-request.js'

/**
 * Deals with stored responses that a hook has encoded for a client. The encoded copy is stored beside the response, so that a hook need not
 * encode it once more: a response with a coding passes it by.
 */
export class EncodedResponses {
  readonly #core: TwoTierCache

  constructor (core: TwoTierCache) {
    this.#core = core
  }

  /** @returns the body to send */
  async adopt (request: FastifyRequest, reply: FastifyReply, state: RequestCache, entry: StoredResponse, coding: string, payload: unknown): Promise<Buffer> {
    state.route.codings.learn(ownHeaders(request)[ENCODING], coding)
    const encoded = await this.#copyOf(request, state, entry, coding, payload)
    reply.removeHeader('content-length')
    if (encoded === undefined) {
      reply.removeHeader('content-encoding')
      return entry.body
    }
    weakenEtag(reply)
    addVary(reply, ENCODING)
    return encoded
  }

  /** @returns undefined where it is not the stored response that was encoded, as other hooks have changed it once more */
  async #copyOf (request: FastifyRequest, state: RequestCache, entry: StoredResponse, coding: string, payload: unknown): Promise<Buffer | undefined> {
    const present = entry.encoded?.[coding]
    if (present !== undefined) {
      discard(payload)
      return present
    }
    const encoded = await readAll(payload)
    const decoded = encoded && await decode(coding, encoded, entry.body.length + 1)
    if (encoded === undefined || decoded?.equals(entry.body) !== true) return undefined
    this.#add(request, state, entry, coding, encoded).catch(() => {})
    return encoded
  }

  async #add (request: FastifyRequest, state: RequestCache, entry: StoredResponse, coding: string, encoded: Buffer): Promise<void> {
    const { key } = state
    // Before the look-up, so that a removal by pattern after it is noticed.
    const patterns = (await this.#core.attempt(() => this.#core.store.tags([PATTERN_TAG])))?.versions[PATTERN_TAG]
    if (key === undefined || patterns === undefined) return
    const { place, response } = await lookupResponse(this.#core, key, [], request, state)
    // Another request was quicker, or the response is another one by now.
    if (!isResponse(response) || response.encoded?.[coding] !== undefined || !response.body.equals(entry.body)) return
    await this.#core.amend(place, { ...response, encoded: { ...response.encoded, [coding]: copyBytes(encoded) } }, patterns)
  }
}

/** @returns undefined for a stream that fails */
async function readAll (payload: unknown): Promise<Buffer | undefined> {
  if (typeof payload === 'string') return Buffer.from(payload)
  if (payload instanceof Uint8Array) return Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength)
  try {
    const chunks: Uint8Array[] = []
    for await (const chunk of payload as AsyncIterable<Uint8Array | string>) chunks.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk)
    return Buffer.concat(chunks)
  } catch {
    return undefined
  }
}
