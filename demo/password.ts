import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto'

const KEY_LENGTH = 32

/** Hashes a password with scrypt and the parameters of Node.js. @returns `salt:key`, both base64url */
export async function hashPassword (password: string): Promise<string> {
  const salt = randomBytes(16)
  return `${salt.toString('base64url')}:${(await derive(password, salt)).toString('base64url')}`
}

/** @param hash - undefined for an unknown user: verification takes as long, so that users cannot be enumerated */
export async function verifyPassword (password: string, hash: string | undefined): Promise<boolean> {
  const [salt = '', key = ''] = (hash ?? 'AAAAAAAAAAAAAAAAAAAAAA:').split(':')
  const derived = await derive(password, Buffer.from(salt, 'base64url'))
  const expected = Buffer.from(key, 'base64url')
  return expected.length === KEY_LENGTH && timingSafeEqual(derived, expected)
}

function derive (password: string, salt: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(password, salt, KEY_LENGTH, (error, key) => error ? reject(error) : resolve(key))
  })
}
