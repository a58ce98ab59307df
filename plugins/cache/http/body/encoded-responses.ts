import { copyBytes } from '../../../shared/data/bytes.js'
import { addVary } from '../../rfc/vary.js'
import { PATTERN_TAG } from '../../store/store.js'
import { lookupResponse } from '../lookup.js'
import { ENCODING } from '../reads/request-reads.js'
import { ownHeaders } from '../reads/watch-request.js'
import type { RequestCache } from '../request-state.js'
import { isResponse, type StoredResponse } from '../stored-response.js'
import { bytesOf, discard } from './body-capture.js'
import { decode, weakenEtag } from './content-codings.js'

/**
 * Stores the encoded copy of a response that a hook made for a client beside the response. Later requests are sent the
 * copy: hooks do not encode a response that has a coding.
 *
 * @returns the body to send
 */
export async function adoptEncodedCopy (
  state: RequestCache, entry: StoredResponse, coding: string, payload: unknown
): Promise<Buffer> {
  const { request, reply, route } = state
  route.codings.learn(ownHeaders(request)[ENCODING], coding)
  const encoded = await encodedCopyOf(state, entry, coding, payload)
  reply.removeHeader('content-length')
  if (encoded === undefined) {
    reply.removeHeader('content-encoding')
    return entry.body
  }
  weakenEtag(reply)
  addVary(reply, ENCODING)
  return encoded
}

/** Returns undefined where other hooks changed the response as well, so that its decoded form is not the stored one. */
async function encodedCopyOf (
  state: RequestCache, entry: StoredResponse, coding: string, payload: unknown
): Promise<Buffer | undefined> {
  const present = entry.encoded?.[coding]
  if (present !== undefined) {
    discard(payload)
    return present
  }
  const encoded = await readAll(payload)
  const decoded = encoded && await decode(coding, encoded, entry.body.length + 1)
  if (encoded === undefined || decoded?.equals(entry.body) !== true) return undefined
  storeEncodedCopy(state, entry, coding, encoded).catch(() => {})
  return encoded
}

async function storeEncodedCopy (
  state: RequestCache, entry: StoredResponse, coding: string, encoded: Buffer
): Promise<void> {
  const { cache: { core }, key } = state
  // Read before the lookup, so that a removal by pattern after it is noticed.
  const patternVersion = (await core.attempt(() => core.store.tags([PATTERN_TAG])))?.versions[PATTERN_TAG]
  if (key === undefined || patternVersion === undefined) return
  const { place, response } = await lookupResponse(state, key, [])
  // Another request may have stored the copy, or another response, since.
  if (!isResponse(response) || response.encoded?.[coding] !== undefined || !response.body.equals(entry.body)) return
  const copies = { ...response.encoded, [coding]: copyBytes(encoded) }
  await core.amend(place, { ...response, encoded: copies }, patternVersion)
}

/** Reads a body whole. Returns undefined for a stream that fails. */
async function readAll (payload: unknown): Promise<Buffer | undefined> {
  const bytes = bytesOf(payload)
  if (bytes !== undefined) return bytes
  try {
    const chunks: Uint8Array[] = []
    for await (const chunk of payload as AsyncIterable<Uint8Array | string>) {
      chunks.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk)
    }
    return Buffer.concat(chunks)
  } catch {
    return undefined
  }
}
