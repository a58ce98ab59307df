/**
 * Returns a copy of bytes in memory of its own. A slice would hold its whole pool or chunk of a socket in memory, and
 * change when its source writes into it.
 */
export function copyBytes (bytes: Uint8Array): Buffer {
  const own = Buffer.allocUnsafeSlow(bytes.length)
  own.set(bytes)
  return own
}

/** Returns the UTF-8 of a text in memory of its own, which L1 keeps without a copy. */
export function ownBytesOf (text: string): Buffer {
  const own = Buffer.allocUnsafeSlow(Buffer.byteLength(text))
  own.write(text)
  return own
}

/** Returns bytes that own their memory: the given ones, or a copy if they share it. */
export function ownBytes (bytes: Buffer): Buffer {
  return bytes.buffer.byteLength === bytes.length ? bytes : copyBytes(bytes)
}
