import { Recent } from '../../shared/data/recent.js'
import type { Entry } from './entry.js'
import { decodeEntry, metaEnd, type CasToken } from './entry-codec.js'

interface Decoded {
  /** All bytes before the body. */
  readonly head: Buffer
  readonly length: number
  readonly token: CasToken
  readonly entry: Entry
}

const MAX_KEYS = 1000
const MAX_HEAD = 2048
/** Bodies are not kept. */
const NO_BODY = Buffer.alloc(0)

/**
 * Decodes entries that are read again and again, as without L1. The metadata of an entry with the same bytes as at the
 * last read is not decoded again, which takes a sixth of a hit.
 */
export class EntryDecoder {
  readonly #decoded = new Recent<Decoded>(MAX_KEYS)

  decode (key: string, bytes: Buffer): { token: CasToken, entry: Entry | undefined } {
    const known = this.#decoded.get(key)
    if (known?.length === bytes.length && bytes.compare(known.head, 0, known.head.length, 0, known.head.length) === 0) {
      return { token: known.token, entry: { ...known.entry, body: bytes.subarray(known.head.length) } }
    }
    const found = decodeEntry(bytes)
    const { token, entry } = found
    if (entry !== undefined && entry.encoded === undefined) {
      const end = metaEnd(bytes)
      // A copy: the bytes are a part of what was read from the socket.
      if (end <= MAX_HEAD) {
        const head = Buffer.from(bytes.subarray(0, end))
        this.#decoded.set(key, { head, length: bytes.length, token, entry: { ...entry, body: NO_BODY } })
      }
    }
    return found
  }
}
