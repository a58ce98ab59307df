import { ask, askTwice, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'
import '../helpers/index.js'

onBothStores('a response with a header that cannot be sent is 500 and is not stored: the next request runs the handler', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  let runs = 0
  app.get('/', { config: { cache: { ttl: '1h' } } }, async (_, reply) => {
    if (++runs === 1) reply.header('x-name', '€')
    return `run ${runs}`
  })
  t.match(await askTwice(app, '/'), [{ status: 500 }, { status: 200, body: 'run 2', cache: 'MISS' }])
  await settled(app)
  t.match(await ask(app, '/'), { status: 200, body: 'run 2', cache: 'HIT' })
})

onBothStores('a 304 with a header that cannot be sent confirms the stored response, and adds no header to it', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store })
  let runs = 0
  app.get('/', { config: { cache: { ttl: '1m' } } }, async (_, reply) => {
    reply.header('etag', '"a"')
    if (++runs === 1) return 'run 1'
    return await reply.header('x-name', 'a\r\nb').code(304).send()
  })
  t.match(await ask(app, '/'), { status: 200, body: 'run 1' })
  await settled(app)
  await clock.advance('90s')
  t.match(await ask(app, '/'), { status: 200, body: 'run 1' })
  t.equal(runs, 2)
})
