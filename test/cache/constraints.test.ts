import t from 'tap'
import { ask, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'

onBothStores('routes of one path that regular expressions of hosts tell apart never share a response', async (t, store) => {
  const { app } = await createCacheApp(t, {
    store,
    routes: app => {
      for (const shop of ['ann', 'bob']) app.get('/', { constraints: { host: new RegExp(`^${shop}\\.`) }, config: { cache: true } }, async () => shop)
    }
  })
  for (const shop of ['ann', 'bob', 'ann', 'bob']) {
    t.equal((await ask(app, '/', { host: `${shop}.example` })).body, shop)
    await settled(app)
  }
  t.equal((await ask(app, '/', { host: 'bob.example' })).cache, 'HIT')
})

t.test('a constraint whose value has no text of its own is refused on a cached route', async t => {
  const { app } = await createCacheApp(t, {
    server: {
      routerOptions: {
        constraints: {
          tier: {
            name: 'tier',
            storage: () => ({ get: () => null, set: () => {} }),
            deriveConstraint: () => 'a',
            validate: () => {}
          }
        }
      }
    } as never
  })
  const constraints = { tier: (name: string) => name === 'a' }
  app.get('/plain', { constraints }, async () => 'plain')
  t.throws(() => app.get('/cached', { constraints, config: { cache: true } }, async () => 'cached'), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message: /constraints of GET \/cached/ })
})
