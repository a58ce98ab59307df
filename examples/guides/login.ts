// A login that limits failed attempts by address and account. Run it with `npx tsx examples/guides/login.ts`.
import { scrypt, timingSafeEqual } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import Fastify from 'fastify'
import { rateLimit, redis, session } from '../../plugins/index.js'
import type { Clock } from '../../plugins/testing/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

const hash = promisify<string, string, number, Buffer>(scrypt)
const users = new Map([['ann@example.com', { id: 'ann', salt: 'a1', hash: await hash('correct horse', 'a1', 32) }]])
// The check of an account that does not exist takes as long as that of one that does.
const unknown = { id: undefined, salt: 'no user', hash: Buffer.alloc(32) }

export const limits = {
  /** One client that guesses the password of one account. */
  pair: { name: 'login-pair', max: 5, timeWindow: '15 minutes' },
  /** One client that tries a list of leaked passwords on many accounts. */
  address: { name: 'login-address', max: 30, timeWindow: '1 hour' },
  /** Many clients that guess the password of one account. */
  account: { name: 'login-account', max: 100, timeWindow: '1 day' }
}

export async function build ({ clock }: { clock?: Clock } = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'login' })
  await app.register(rateLimit, { max: 300, timeWindow: '1 minute', clock })
  await app.register(
    session, { secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters', clock }
  )

  const schema = {
    body: {
      type: 'object',
      required: ['email', 'password'],
      properties: { email: { type: 'string', maxLength: 254 }, password: { type: 'string', maxLength: 128 } }
    }
  }
  // All attempts of an address, also successful ones: each of them costs the CPU time of a password hash.
  const config = { rateLimit: { max: 20, timeWindow: '1 minute' } }

  app.post<{ Body: { email: string, password: string } }>('/login', { schema, config }, async (request, reply) => {
    const account = request.body.email.trim().toLowerCase()
    // The limiter's key of the address: all addresses of an IPv6 /64 are one client.
    const address = request.rateLimit?.key ?? request.ip
    const attempts = [
      { policy: limits.pair, key: `${address} ${account}` },
      { policy: limits.address, key: address },
      { policy: limits.account, key: account }
    ]
    // Every attempt is charged before the password is checked, so that concurrent guesses cannot pass together.
    const charges = await Promise.all(
      attempts.map(async ({ key, policy }) => ({ key, policy, decision: await app.rateLimiter.consume(key, policy) }))
    )
    const refund = async () => {
      await Promise.all(
        charges.filter(({ decision }) => decision.allowed).map(({ key, policy, decision }) =>
          app.rateLimiter.refund(key, policy, decision))
      )
    }
    const wait = Math.max(...charges.map(({ decision }) => decision.allowed ? 0 : decision.retryAfter))
    if (wait > 0) {
      await refund() // the password was not checked: no limit counts this attempt
      return await reply.code(429).header('retry-after', Math.ceil(wait / 1000)).send(
        { error: 'too many failed attempts, try again later' }
      )
    }
    let isFailure = false
    try {
      const user = users.get(account) ?? unknown
      const isCorrect = timingSafeEqual(await hash(request.body.password, user.salt, 32), user.hash)
      if (!isCorrect || user.id === undefined) {
        isFailure = true
        return await reply.code(401).send({ error: 'wrong email or password' })
      }
      await request.login(user.id)
      return { welcome: user.id }
    } finally {
      if (!isFailure) await refund() // only failures count, and an error of the server is none
    }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
