import t, { type Test } from 'tap'
import { build } from '../../examples/guides/background-mails.js'
import type { StandInOptions } from '../../examples/guides/stand-in.js'
import { startExample } from '../helpers/examples/start-example.js'
import { startStandIn } from '../helpers/examples/stand-in.js'
import { startRedis, until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

/** Instances of the example on one Redis, and their mail provider. */
async function start (t: Test, options: StandInOptions = {}, instances = 2) {
  const [server, provider] = await Promise.all([startRedis(), startStandIn(t, options)])
  process.env['REDIS_URL'] = server.url
  process.env['MAIL_URL'] = provider.url
  const apps = await Promise.all(Array.from({ length: instances }, async () => await build({ backoff: { min: 1, max: 5 } })))
  t.teardown(async () => { await Promise.all(apps.map(app => app.close())) })
  const signUp = async (name: string, instance = 0) => (await apps[instance]?.inject({
    method: 'POST', url: '/users', payload: { email: `${name}@example.com`, name }, headers: { 'idempotency-key': `sign-up-${name}` }
  }))?.statusCode
  const mails = async () => (await apps[0]?.inject('/mails'))?.json<{ lag: number, pending: number, deadLetters: number, dead: Array<{ data: { to: string }, reason: string }> }>()
  return { server, provider, apps, signUp, mails }
}

t.test('each sign-up sends one mail, also one that the client repeats on another instance', async t => {
  const { provider, signUp, mails } = await start(t)
  const names = Array.from({ length: 20 }, (_, i) => `user-${i}`)
  const statuses = await Promise.all(names.flatMap(name => [signUp(name, 0), signUp(name, 1)]))
  t.same(new Set(statuses), new Set([202]))
  await until('all mails are handled', async () => {
    const state = await mails()
    return state?.lag === 0 && state.pending === 0
  })
  const { requests, done } = await provider.state()
  t.equal(requests, 20)
  t.same(done.map(({ body }) => (body as { to: string }).to).sort(), names.map(name => `${name}@example.com`).sort())
})

t.test('a mail that the provider refuses is sent at a later attempt, under the same key', async t => {
  const { provider, signUp } = await start(t, { refuse: (_body, attempt) => attempt < 3 ? 503 : undefined })
  await signUp('ann')
  await until('the mail is sent', async () => (await provider.state()).done.length === 1)
  t.match(await provider.state(), { requests: 3, done: [{ path: '/emails', key: /^mail-[\d.-]+$/ }] })
})

t.test('a mail that is never accepted becomes a dead letter, holds up no other mail, and can be replayed', async t => {
  let isRepaired = false
  const { apps, provider, signUp, mails } = await start(t, { refuse: body => (body as { to: string }).to === 'bad@example.com' && !isRepaired ? 422 : undefined })
  await signUp('bad')
  await signUp('good')
  await until('the other mail is sent', async () => (await provider.state()).done.length === 1)
  await until('the dead letter', async () => (await mails())?.dead.length === 1)
  t.match((await mails())?.dead, [{ data: { to: 'bad@example.com' }, reason: /responded with 422/ }])
  isRepaired = true
  const replay = await apps[1]?.inject({ method: 'POST', url: '/mails/replay' })
  t.same(replay?.json(), { replayed: 1 })
  await until('it is sent', async () => (await provider.state()).done.length === 2)
  t.match(await mails(), { dead: { length: 0 } })
})

t.test('an instance that is killed after the provider has a mail: another one repeats it under the same key', async t => {
  const { server, provider } = await start(t, { delay: (_body, attempt) => attempt === 1 ? new Promise(() => {}) : undefined }, 0)
  const killed = await startExample(t, 'background-mails', { REDIS_URL: server.url, MAIL_URL: provider.url })
  const response = await fetch(`${killed.url}/users`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"email":"ann@example.com","name":"Ann"}' })
  t.equal(response.status, 202)
  await until('the provider has the mail', async () => (await provider.state()).done.length === 1)
  await killed.stop('SIGKILL')
  const successor = await build({ backoff: { min: 1, max: 5 } })
  t.teardown(() => successor.close())
  const state = async () => (await successor.inject('/mails')).json()
  await until('the mail is handled', async () => (await provider.state()).requests === 2 && (await state()).pending === 0, 30_000)
  t.equal((await provider.state()).done.length, 1)
})

t.test('while Redis is unavailable a sign-up is refused with 503, so that no mail is lost in silence', async t => {
  const { server, provider, signUp } = await start(t)
  await server.kill()
  t.equal(await signUp('ann'), 503)
  await server.restart()
  await until('sign-ups are accepted again', async () => await signUp('ann') === 202)
  await until('the mail is sent', async () => (await provider.state()).done.length === 1)
})
