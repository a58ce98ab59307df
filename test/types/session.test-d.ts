import Fastify from 'fastify'
import { session } from 'fastify-redis-suite'
import type { SessionInfo, SessionPluginOptions } from 'fastify-redis-suite/session'
import { expectError, expectNotAssignable, expectType } from 'tsd'

declare module 'fastify' {
  interface Session {
    userId?: string
    basket?: string[]
  }
}

const app = Fastify()

app.register(session, { secret: process.env['SESSION_SECRET'] })
app.register(session, { secret: ['x'.repeat(32)], idleTimeout: '1h', userId: session => session.userId, encrypt: Buffer.alloc(32) })
// What `@fastify/session` takes.
app.register(session, { secret: 'x'.repeat(32), cookieName: 'id', cookie: { domain: 'example.com', sameSite: 'strict' } })
expectError(app.register(session))
expectError(app.register(session, {}))
expectNotAssignable<SessionPluginOptions>({ secret: '', decorators: 'login' })
expectNotAssignable<SessionPluginOptions>({ secret: '', onMaxPerUser: 'drop-newest' })
// The store is the plugin's own.
expectError<SessionPluginOptions>({ secret: '', store: new Map() })

app.get('/bare', { config: { session: false } }, async request => {
  expectType<string[] | undefined>(request.session.basket)
  expectError(request.session.color)
  await request.login('ann', { keep: ['basket'], set: { basket: [] } })
  await request.login(1, { maxAge: '30 days' })
  await request.login(1n)
  expectError(request.login({ id: 1 }))
  expectError(request.login('ann', { set: { color: 'red' } }))
  await request.logout()
  expectType<Promise<void>>(app.sessions.login(request, 'ann', { keep: ['basket'], maxAge: 1000 }))
  expectType<Promise<void>>(app.sessions.logout(request))
  expectError(app.sessions.login('ann'))
  return app.sessions.handleOf(request.session.sessionId)
})

expectType<SessionInfo[]>(await app.sessions.list('ann', { current: 'handle' }))
expectType<number>(await app.sessions.destroyAll(1, { except: 'handle' }))
expectType<boolean>(await app.sessions.destroy('handle'))
expectType<number>(await app.sessions.count('ann'))
expectError(app.sessions.list('ann', { except: 'handle' }))
app.get('/watch', request => { expectType<() => void>(app.sessions.watch(request, async () => {}, { interval: '5s' })) })
app.get('/watch', request => { expectError(app.sessions.watch(request, () => {}, { every: 5 })) })
