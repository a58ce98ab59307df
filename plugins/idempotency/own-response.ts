import { ownBytes } from '../shared/plugin/bytes.js'
import type { RecordedResponse } from './store.js'

/** What an answer takes beside its headers and body, roughly: its key, its owner and its place. */
const ENTRY_BYTES = 1024

/** An answer in memory of its own, and how many bytes it takes: a small body is a piece of a pool, and a header may be one of a long text. */
export function ownResponse ({ status, headers, body }: RecordedResponse): { answer: RecordedResponse, bytes: number } {
  const text = JSON.stringify(headers)
  const answer = { status, headers: JSON.parse(text) as RecordedResponse['headers'], body: body instanceof Buffer ? ownBytes(body) : body }
  return { answer, bytes: ENTRY_BYTES + 2 * text.length + (body instanceof Buffer ? body.length : 0) }
}
