import t from 'tap'
import { SessionCounts } from '../../plugins/session/counts.js'
import { Browser, startApp } from '../helpers/session/session-app.js'

declare module 'fastify' {
  interface Session {
    visits?: number
  }
}

t.test('active is how many were renewed in the last period, wherever in it one looks', async t => {
  let now = 10_000_000
  const counts = new SessionCounts(60_000, () => now)
  now -= now % 60_000
  for (let i = 0; i < 100; i++) {
    counts.seen()
    now += 600
  }
  t.equal(counts.stats.active, 100, 'the period is just over')
  now += 30_000
  t.equal(counts.stats.active, 50, 'half of them are too long ago')
  now += 30_000
  t.equal(counts.stats.active, 0)
  now += 600_000
  counts.created()
  t.same(counts.stats, { created: 1, destroyed: 0, active: 1 })
})

t.test('sessions count when they are first stored and when they are destroyed, not when they are changed or only looked at', async t => {
  const { app } = await startApp(t)
  app.get('/', async () => 'x')
  app.post('/visit', async ({ session }) => { session.visits = (session.visits ?? 0) + 1 })
  app.post('/login', async request => { await request.login('ann') })
  app.post('/logout', async request => { await request.logout() })
  await new Browser(app).send('GET', '/')
  t.same(app.sessions.stats(), { created: 0, destroyed: 0, active: 0 })
  const user = new Browser(app)
  for (let i = 0; i < 3; i++) await user.send('POST', '/visit')
  t.same(app.sessions.stats(), { created: 1, destroyed: 0, active: 1 })
  await user.send('POST', '/login')
  t.match(app.sessions.stats(), { created: 2, destroyed: 1 }, 'a login ends one and makes another')
  const second = new Browser(app)
  await second.send('POST', '/login')
  await app.sessions.destroyAll('ann')
  t.match(app.sessions.stats(), { created: 3, destroyed: 3 })
})
