// Tests of limits, TTLs and session timeouts that pass hours without waiting for them. Run it with
// `npx tsx examples/testing.ts`.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { cache, rateLimit, session } from '../plugins/index.js'
import { createTestClock, type Clock } from '../plugins/testing/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

/**
 * Builds the app under test. All plugins share the test's clock; in production the clock is omitted, which means the
 * system's.
 */
export async function build (clock?: Clock) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(rateLimit, { max: 100, timeWindow: '1 minute', clock })
  await app.register(session, { secret: 'only for this example, 32 characters', idleTimeout: '30 minutes', clock })
  await app.register(cache, { ttl: '5m', clock })

  let runs = 0
  app.get('/report', { config: { cache: true } }, async () => ({ run: ++runs }))
  app.post('/login', { config: { rateLimit: { max: 5, timeWindow: '15 minutes' } } }, async request => {
    await request.login('ann')
    return { welcome: 'ann' }
  })
  app.get('/me', async (request, reply) => {
    const { userId } = request.session
    return userId === undefined ? await reply.code(401).send({ error: 'log in first' }) : { userId }
  })
  return app
}

export const tests: Record<string, () => Promise<void>> = {
  async 'the sixth login within 15 minutes is refused, and the next one after them passes' () {
    const clock = createTestClock()
    const app = await build(clock)
    const login = async () => (await app.inject({ method: 'POST', url: '/login' })).statusCode
    for (let i = 0; i < 5; i++) assert.equal(await login(), 200)
    assert.equal(await login(), 429)
    await clock.advance('15 minutes')
    assert.equal(await login(), 200)
    await app.close()
  },

  async 'a report is cached for 5 minutes' () {
    const clock = createTestClock()
    const app = await build(clock)
    const report = async () => (await app.inject('/report')).body
    assert.equal(await report(), '{"run":1}')
    await clock.advance('4m')
    assert.equal(await report(), '{"run":1}')
    await clock.advance('1m')
    assert.equal(await report(), '{"run":2}')
    await app.close()
  },

  async 'a session ends 30 minutes after its last request' () {
    const clock = createTestClock()
    const app = await build(clock)
    const login = await app.inject({ method: 'POST', url: '/login' })
    const cookies = { sid: login.cookies.find(({ name }) => name === 'sid')?.value ?? '' }
    const me = async () => (await app.inject({ url: '/me', cookies })).statusCode
    await clock.advance('29 minutes')
    assert.equal(await me(), 200)
    await clock.advance('29 minutes')
    assert.equal(await me(), 200)
    // The timeout is renewed once a minute, so a session may last a minute longer.
    await clock.advance('31 minutes')
    assert.equal(await me(), 401)
    await app.close()
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  for (const [name, run] of Object.entries(tests)) test(name, run)
}
