import { Readable } from 'node:stream'
import { copyBytes } from '../../../shared/data/bytes.js'
import type { Bytes } from '../../../shared/plugin/units.js'

/** A body that is sent and captured. */
interface Capture {
  /** The payload to send in place of the body. */
  payload: unknown
  /** The captured body: a promise where the body is a stream. */
  body: CapturedBody | Promise<CapturedBody>
}

/**
 * - a `Buffer`: the whole body
 * - `unstorable`: the body is too large, or of a kind that cannot be stored
 * - `broken`: the body broke off, which does not mean that the stored response is outdated
 */
export type CapturedBody = Buffer | 'unstorable' | 'broken'

/**
 * Captures a body while it is sent.
 *
 * @param declared - the body's `Content-Length`, if it has one
 * @param onEnd - called when a stream has ended, before its reader learns of it
 */
export function capture (
  payload: unknown, maxSize: Bytes, declared: Bytes | undefined, onEnd = (): void => {}
): Capture {
  if (payload === null || payload === undefined) return { payload, body: Buffer.alloc(0) }
  if (typeof payload === 'string') return { payload, body: withinSize(Buffer.from(payload), maxSize) }
  // The handler may write into its bytes again.
  if (payload instanceof Uint8Array) {
    return { payload, body: payload.length <= maxSize ? copyBytes(payload) : 'unstorable' }
  }
  if (payload instanceof Readable) return tee(payload, maxSize, declared, onEnd)
  if (payload instanceof ReadableStream) {
    return tee(Readable.fromWeb(payload as Parameters<typeof Readable.fromWeb>[0]), maxSize, declared, onEnd)
  }
  if (isForeignStream(payload)) return tee(new Readable().wrap(payload), maxSize, declared, onEnd)
  return { payload, body: 'unstorable' }
}

/** Whether a payload is a stream of another library, such as minipass or readable-stream. */
function isForeignStream (payload: unknown): payload is NodeJS.ReadableStream {
  return typeof payload === 'object' && payload !== null && 'pipe' in payload && typeof payload.pipe === 'function' &&
    'on' in payload
}

function withinSize (body: Buffer, maxSize: Bytes): CapturedBody {
  return body.length <= maxSize ? body : 'unstorable'
}

/**
 * Passes a stream on, and captures its chunks.
 *
 * While the body may be stored, the source is read at its own pace, so that a slow client does not delay the requests
 * that wait for the entry. The chunks are in memory anyway. Beyond `maxSize` a slow client slows its own stream only.
 */
function tee (source: Readable, maxSize: Bytes, declared: Bytes | undefined, onEnd: () => void): Capture {
  // A stream that has ended or failed emits nothing more, so `passed` would never end.
  if (source.destroyed) return { payload: source, body: 'broken' }
  if (declared !== undefined && declared > maxSize) return { payload: source, body: 'unstorable' }
  let chunks: Buffer[] | undefined = []
  let size = 0
  let settle = (_body: CapturedBody): void => {}
  const body = new Promise<CapturedBody>(resolve => { settle = resolve })
  const passed = new Readable({
    read () { source.resume() },
    destroy (error, callback) {
      settle('broken')
      if (!source.destroyed) source.destroy(error ?? undefined)
      callback(error)
    }
  })
  const captureChunk = (bytes: Buffer): void => {
    size += bytes.length
    if (size > maxSize) {
      chunks = undefined
      settle('unstorable')
    }
    chunks?.push(bytes)
  }
  source.on('data', (chunk: unknown) => {
    const bytes = bytesOf(chunk)
    if (bytes === undefined) return passed.destroy(new TypeError('the body is a stream of neither text nor bytes'))
    captureChunk(bytes)
    if (!passed.push(bytes) && chunks === undefined) source.pause()
  })
  source.on('end', () => {
    onEnd()
    // A body whose length differs from the declared one was cut off.
    settle(chunks === undefined || (declared !== undefined && declared !== size) ? 'broken' : Buffer.concat(chunks))
    passed.push(null)
  })
  source.on('error', error => passed.destroy(error))
  source.on('close', () => { if (!source.readableEnded) passed.destroy(new Error('the body broke off')) })
  return { payload: passed, body }
}

/** Closes a body that is not sent, as a stream would hold its source open. */
export function discard (payload: unknown): void {
  if (typeof payload !== 'object' || payload === null) return
  if ('destroy' in payload && typeof payload.destroy === 'function') payload.destroy()
  else if (payload instanceof ReadableStream) payload.cancel().catch(() => {})
}

/** Returns the bytes of a text or a binary value; undefined for any other value. */
export function bytesOf (value: unknown): Buffer | undefined {
  if (typeof value === 'string') return Buffer.from(value)
  if (Buffer.isBuffer(value)) return value
  return value instanceof Uint8Array ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : undefined
}
