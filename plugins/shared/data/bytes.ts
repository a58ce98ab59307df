/**
 * Bytes with memory of their own: what is kept for long must not hold the pool, or the piece of a socket's stream, that it
 * was cut out of, nor change when whoever gave it writes into it.
 */
export function copyBytes (bytes: Uint8Array): Buffer {
  const own = Buffer.allocUnsafeSlow(bytes.length)
  own.set(bytes)
  return own
}

/** As {@link copyBytes}, where they share their memory with others. */
export function ownBytes (bytes: Buffer): Buffer {
  return bytes.buffer.byteLength === bytes.length ? bytes : copyBytes(bytes)
}
