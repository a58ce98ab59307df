import { fork } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'
import t from 'tap'
import { createTestApp, sharedRedis, until } from '../helpers/index.js'

t.test('an instance that is killed between writing the source and the cache leaves a key that reads as missing, and the next writer repairs it', async t => {
  const { app: { cache }, prefix } = await createTestApp(t, { store: 'redis', clock: 'real', plugins: { cache: { ttl: '1h', timeout: '5s' } } })
  const child = fork(resolve(import.meta.dirname, '../helpers/fixtures/write-through.ts'), {
    env: { ...process.env, REDIS_URL: (await sharedRedis()).url, REDIS_PREFIX: prefix },
    execArgv: ['--import', 'tsx']
  })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child, 'message')
  await cache.set('k', 'old')
  t.equal(await cache.get('k'), 'old')
  child.send('k')
  await once(child, 'message')
  child.kill('SIGKILL')
  await once(child, 'exit')
  await until('this instance heard of the mark', async () => await cache.get('k') === undefined)
  t.equal(await cache.getOrSet('k', () => 'new'), 'new')
  t.equal(await cache.writeThrough('k', 'newer', () => {}), 'newer')
  t.equal(await cache.get('k'), 'newer')
})
