import { randomInt } from 'node:crypto'
import t from 'tap'
import { newPrefix, sharedRedis } from '../helpers/index.js'
import { testRaces } from '../helpers/session/races.js'
import { Browser, buildApp } from '../helpers/session/session-app.js'
import { scaled } from '../helpers/stress/scale.js'

const server = await sharedRedis()
await testRaces(t, { counts: { redis: scaled(1000), cluster: scaled(100) }, clock: 'real' })

t.test('requests without a cookie, or with an invalid one, leave no key behind', async t => {
  const prefix = newPrefix()
  const app = await buildApp(t, { redis: { url: server.url, prefix }, clock: 'real' })
  for (let i = 0; i < scaled(40); i++) {
    await Promise.all(Array.from({ length: 500 }, (_, k) => app.inject(k % 5 === 0 ? { url: '/', headers: { cookie: `sid=${k}.x` } } : '/')))
  }
  t.same(await server.client().keys(`${prefix}:*`), [])
})

t.test('random changes of one character of a cookie open no other session', async t => {
  const app = await buildApp(t, { redis: { url: server.url, prefix: newPrefix() }, clock: 'real' })
  const user = new Browser(app)
  await user.send('POST', '/login/ann')
  const { cookie = '' } = user
  const opened: string[] = []
  for (let i = 0; i < scaled(1000); i++) {
    // The last character of a signature has unused bits.
    const at = randomInt(4, cookie.length - 1)
    const mutated = cookie.slice(0, at) + String.fromCharCode(33 + randomInt(90)) + cookie.slice(at + 1)
    const reply = await app.inject({ url: '/', headers: { cookie: mutated } })
    const decoded = () => decodeURIComponent(mutated.split(';')[0]!.replaceAll(/%(?![\da-f]{2})/gi, '%25'))
    if (reply.statusCode !== 200 || (reply.body !== '{}' && decoded() !== decodeURIComponent(cookie))) opened.push(mutated)
  }
  t.same(opened, [])
})
