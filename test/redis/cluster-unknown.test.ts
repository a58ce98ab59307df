import Fastify from 'fastify'
import t from 'tap'
import { cache, rateLimit, redis, session } from '../../plugins/index.js'
import { startRedis, until } from '../helpers/index.js'
import { Browser, SECRET } from '../helpers/session/session-app.js'

t.test('a server that is part of a Cluster, behind a client that does not know it, serves many requests at once', async t => {
  const server = await startRedis({ args: ['--cluster-enabled', 'yes'] })
  await server.client().call('CLUSTER', 'ADDSLOTSRANGE', 0, 16383)
  await until('it takes keys', async () => await server.client().set('key', 1) === 'OK')
  const app = Fastify({ trustProxy: true })
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url })
  await app.register(rateLimit, { max: 5 })
  await app.register(session, { secret: SECRET })
  await app.register(cache, { l1: false })
  let runs = 0
  app.post<{ Params: { user: string } }>('/login/:user', async request => await request.login(request.params.user))
  app.get('/me', async request => ({ user: request.session.userId }))
  app.get<{ Params: { id: string } }>('/items/:id', { config: { cache: { ttl: '1m', tags: request => [`item:${request.params.id}`], public: true } } }, async request => ({ id: request.params.id, run: ++runs }))
  const users = Array.from({ length: 10 }, (_, i) => new Browser(app, { 'x-forwarded-for': `10.0.0.${i}` }))
  await Promise.all(users.map((user, i) => user.send('POST', `/login/${i}`)))
  for (let round = 0; round < 2; round++) {
    t.same((await Promise.all(users.map(user => user.send('GET', '/me')))).map(reply => reply.json()), users.map((_, i) => ({ user: String(i) })))
    const items = await Promise.all(users.map((user, i) => user.send('GET', `/items/${i}`)))
    t.same(items.map(reply => [reply.statusCode, reply.headers['x-cache'], reply.json().id]), users.map((_, i) => [200, round === 0 ? 'MISS' : 'HIT', String(i)]))
  }
  t.equal(runs, 10)
  const last = await Promise.all(users.map(user => user.send('GET', '/me')))
  t.same(last.map(({ statusCode }) => statusCode), users.map(() => 429), 'each has had five')
})
