import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto'

/** Encrypts what is stored. A text that was sealed for one place cannot be opened in another. */
export interface Encryption {
  seal (text: string, handle: string, name: string): string
  /** Returns undefined if the text cannot be decrypted. */
  open (sealed: string, handle: string, name: string): string | undefined
}

const VERSION = 'v1.'
const NONCE = 12
const TAG = 16

/**
 * AES-256 in Galois/Counter Mode (NIST SP 800-38D). Each session has its own key, so that no key seals so many texts
 * that random nonces could repeat.
 *
 * @param keys - 32 bytes each. The first one seals, all open
 * @returns undefined without a key
 */
export function createEncryption (keys: readonly Buffer[]): Encryption | undefined {
  const keyOf = (key: Buffer, handle: string) => createHmac('sha256', key).update(`session ${handle}`).digest()
  const [first] = keys
  if (first === undefined) return undefined
  return {
    seal (text, handle, name) {
      const nonce = randomBytes(NONCE)
      const cipher = createCipheriv('aes-256-gcm', keyOf(first, handle), nonce).setAAD(Buffer.from(name))
      const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
      return VERSION + Buffer.concat([nonce, body, cipher.getAuthTag()]).toString('base64url')
    },
    open (sealed, handle, name) {
      if (!sealed.startsWith(VERSION)) return undefined
      const bytes = Buffer.from(sealed.slice(VERSION.length), 'base64url')
      if (bytes.length < NONCE + TAG) return undefined
      for (const key of keys) {
        const text = openBy(keyOf(key, handle), bytes, name)
        if (text !== undefined) return text
      }
      return undefined
    }
  }
}

function openBy (key: Buffer, bytes: Buffer, name: string): string | undefined {
  try {
    const decipher = createDecipheriv(
      'aes-256-gcm', key, bytes.subarray(0, NONCE), { authTagLength: TAG }
    ).setAAD(Buffer.from(name))
    decipher.setAuthTag(bytes.subarray(-TAG))
    return Buffer.concat([decipher.update(bytes.subarray(NONCE, -TAG)), decipher.final()]).toString('utf8')
  } catch {
    return undefined
  }
}
