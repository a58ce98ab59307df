import { Readable } from 'node:stream'
import { copyBytes } from '../../../shared/data/bytes.js'

/** What becomes of a body that is to be stored. */
export interface Capture {
  /** What is to be sent in place of the body. */
  payload: unknown
  /** Settles as soon as it is known. */
  body: Captured | Promise<Captured>
}

/** The body whole; or that it is too long, or nothing that can be kept; or that it broke off, which says nothing of the source. */
export type Captured = Buffer | 'unstorable' | 'broken'

/**
 * Keeps a body while it is sent.
 *
 * @param declared - its Content-Length, where it says one
 * @param onEnd - is called when a stream has ended, before its reader learns of it
 */
export function capture (payload: unknown, maxSize: number, declared: number | undefined, onEnd = (): void => {}): Capture {
  if (payload === null || payload === undefined) return { payload, body: Buffer.alloc(0) }
  if (typeof payload === 'string') return { payload, body: within(Buffer.from(payload), maxSize) }
  // The handler may write into it again.
  if (payload instanceof Uint8Array) return { payload, body: payload.length <= maxSize ? copyBytes(payload) : 'unstorable' }
  if (payload instanceof Readable) return tee(payload, maxSize, declared, onEnd)
  if (payload instanceof ReadableStream) return tee(Readable.fromWeb(payload as Parameters<typeof Readable.fromWeb>[0]), maxSize, declared, onEnd)
  if (isForeignStream(payload)) return tee(new Readable().wrap(payload), maxSize, declared, onEnd)
  return { payload, body: 'unstorable' }
}

/** Whether it is a stream of another library, such as minipass or readable-stream. */
function isForeignStream (payload: unknown): payload is NodeJS.ReadableStream {
  return typeof payload === 'object' && payload !== null && 'pipe' in payload && typeof payload.pipe === 'function' && 'on' in payload
}

function within (body: Buffer, maxSize: number): Captured {
  return body.length <= maxSize ? body : 'unstorable'
}

/**
 * Passes a stream on, and keeps what passes. It is read as fast as it comes, whatever the client reads, for as long as it may be stored: what
 * waits for the client is in memory anyway. So a slow client delays none of those who wait for the entry; from `maxSize` on it slows its own stream only.
 */
function tee (source: Readable, maxSize: number, declared: number | undefined, onEnd: () => void): Capture {
  // A stream that has ended or failed emits nothing more, so `passing` would never end.
  if (source.destroyed) return { payload: source, body: 'broken' }
  if (declared !== undefined && declared > maxSize) return { payload: source, body: 'unstorable' }
  let chunks: Buffer[] | undefined = []
  let size = 0
  let done = (_body: Captured): void => {}
  const body = new Promise<Captured>(resolve => { done = resolve })
  const passing = new Readable({
    read () { source.resume() },
    destroy (error, callback) {
      done('broken')
      if (!source.destroyed) source.destroy(error ?? undefined)
      callback(error)
    }
  })
  const keep = (bytes: Buffer): void => {
    size += bytes.length
    if (size > maxSize) {
      chunks = undefined
      done('unstorable')
    }
    chunks?.push(bytes)
  }
  source.on('data', (chunk: unknown) => {
    const bytes = bytesOf(chunk)
    if (bytes === undefined) return passing.destroy(new TypeError('the body is a stream of neither text nor bytes'))
    keep(bytes)
    if (!passing.push(bytes) && chunks === undefined) source.pause()
  })
  source.on('end', () => {
    onEnd()
    // A body that is not as long as it said has been cut off.
    done(chunks === undefined || (declared !== undefined && declared !== size) ? 'broken' : Buffer.concat(chunks))
    passing.push(null)
  })
  source.on('error', error => passing.destroy(error))
  source.on('close', () => { if (!source.readableEnded) passing.destroy(new Error('the body broke off')) })
  return { payload: passing, body }
}

/** Ends a body that is not sent: a stream would hold what it comes from. */
export function discard (payload: unknown): void {
  if (typeof payload !== 'object' || payload === null) return
  if ('destroy' in payload && typeof payload.destroy === 'function') payload.destroy()
  else if (payload instanceof ReadableStream) payload.cancel().catch(() => {})
}

function bytesOf (chunk: unknown): Buffer | undefined {
  if (typeof chunk === 'string') return Buffer.from(chunk)
  if (Buffer.isBuffer(chunk)) return chunk
  return chunk instanceof Uint8Array ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength) : undefined
}
