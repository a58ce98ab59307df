import { randomBytes, randomInt } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { createEncryption } from '../../plugins/session/store/encryption.js'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { newPrefix, sharedRedis } from '../helpers/index.js'
import { anySession, Browser, buildApp, logged, SECRET } from '../helpers/session/session-app.js'
import { replaceText, storedSession } from '../helpers/session/stored-session.js'

const VALUE = 'a value that no other user may read'
const KEY = randomBytes(32)
const server = await sharedRedis()
const secrets = new Set<string>([SECRET, VALUE, KEY.toString('base64'), KEY.toString('hex')])

/** Values that JSON cannot represent. */
const values: Record<string, () => unknown> = {
  BigInt: () => ({ a: 1, b: 10n }),
  'a BigInt alone': () => ({ b: 10n }),
  cyclic: () => { const b: Record<string, unknown> = {}; b.self = b; return { a: 1, b } },
  throwing: () => ({ a: 1, b: { toJSON () { throw new Error('has no JSON') } } }),
  'a Map': () => ({ a: 1, b: new Map([['k', 1]]) }),
  'a Set, deep down': () => ({ a: 1, b: { c: [{ d: new Set([1]) }] } }),
  'an Error': () => ({ a: 1, b: new Error('boom') }),
  'NaN in a list': () => ({ a: 1, b: [NaN] }),
  'a function': () => ({ b: () => 1 }),
  'a symbol': () => ({ b: { c: Symbol('s') } }),
  'a list that is nested too deeply': () => ({ a: 1, b: JSON.parse('['.repeat(20_000) + ']'.repeat(20_000)) })
}

async function start (t: Test, options: Partial<SessionPluginOptions> = {}, prefix = newPrefix()) {
  const routes = (app: FastifyInstance) => {
    app.post<{ Params: { what: string } }>('/value/:what', async request => { Object.assign(request.session, values[request.params.what]?.()) })
    app.post<{ Body: { name: string } }>('/delete', async request => {
      delete anySession(request)[request.body.name]
    })
    app.post<{ Body: object }>('/assign-and-login', async request => {
      Object.assign(request.session, request.body)
      await request.login('ann', { set: request.body as never })
    })
    app.post<{ Body: object }>('/assign-and-logout', async request => {
      Object.assign(request.session, request.body)
      await request.logout()
    })
    app.post<{ Body: Record<string, unknown> }>('/assign-and-call', async request => {
      const { sessionId } = request.session
      Object.assign(request.session, request.body)
      for (const name of Object.keys(request.body)) request.session.set(name as never, request.body as never)
      await request.session.save()
      await request.session.reload()
      await request.session.regenerate(['a', ...Object.keys(request.body)] as never)
      const isNew = request.session.sessionId !== sessionId && !request.session.isModified() && typeof request.session.get === 'function'
      await request.session.destroy()
      return isNew
    })
  }
  const app = await buildApp(t, { redis: { url: server.url, prefix }, session: options, routes })
  const keyOf = (handle: string) => `${prefix}:session:data:${handle}`
  return { app, prefix, keyOf, keys: () => server.client().keys(`${prefix}:*`) }
}

async function login (app: FastifyInstance, name = 'ann') {
  const user = new Browser(app)
  const handle = (await user.send('POST', `/login/${name}`)).body
  const cookie = user.cookie!
  secrets.add(cookie.slice(4, 36)).add(cookie.slice(37))
  return { user, handle, cookie, id: cookie.slice(4, 36) }
}

t.test('a cookie that is forged, cut, extended, replayed, foreign, 64 KiB long or changed at any position opens no session, and leaves no key behind', async t => {
  const { app, keys } = await start(t)
  const { app: other } = await start(t, { secret: 'another secret of thirty-two characters' })
  const { cookie, user } = await login(app)
  const foreign = await login(other)
  const replayed = await login(app)
  await replayed.user.send('POST', '/logout')
  const { length } = await keys()
  const signature = cookie.slice(cookie.indexOf('.') + 1)
  const bad = [cookie.slice(0, -1), `${cookie}A`, `sid=.${signature}`, `sid=${'x'.repeat(65_536)}`, `sid=${'x'.repeat(60_000)}.${signature}`, foreign.cookie, replayed.cookie,
    ...['*', '{x}', '%0a', '%00', '%ed%a0%80', '%', '__proto__', 'constructor', '../x', ' '].flatMap(id => [`sid=${id}`, `sid=${id}.${signature}`])]
  for (const cookie of bad) {
    const reply = await app.inject({ url: '/', headers: { cookie } })
    t.same([reply.statusCode, reply.body], [200, '{}'], cookie.slice(0, 30))
  }
  for (let at = 4; at < cookie.length; at++) {
    const mutated = cookie.slice(0, at) + String.fromCharCode(33 + randomInt(90)) + cookie.slice(at + 1)
    const reply = await app.inject({ url: '/', headers: { cookie: mutated } })
    if (reply.statusCode !== 200) t.fail(`${reply.statusCode} at ${at}`)
    if (reply.body !== '{}' && decodeURIComponent(mutated.split(';')[0]!.replaceAll(/%(?![\da-f]{2})/gi, '%25')) !== decodeURIComponent(cookie)) {
      // The last character of a signature carries bits that mean nothing, and nothing else may differ.
      if (at !== cookie.length - 1) t.fail(`at ${at} of ${cookie.length}`)
    }
  }
  t.equal((await keys()).length, length)
  t.same(await user.state(), { userId: 'ann' })
})

t.test('one of two cookies of one name counts, and the signed cookie of an app with another prefix opens nothing', async t => {
  const { app } = await start(t)
  const { app: neighbour } = await start(t)
  const { cookie } = await login(app)
  for (const both of [`${cookie}; sid=x.y`, `sid=x.y; ${cookie}`]) {
    const reply = await app.inject({ url: '/', headers: { cookie: both } })
    t.equal(reply.statusCode, 200)
    t.ok(['{}', '{"userId":"ann"}'].includes(reply.body))
  }
  t.equal((await neighbour.inject({ url: '/', headers: { cookie } })).body, '{}')
})

t.test('an id that was planted before the login, or a handle in place of one, opens nothing afterwards', async t => {
  const { app } = await start(t)
  const attacker = new Browser(app)
  await attacker.send('POST', '/set', { a: 1 })
  const victim = new Browser(app)
  victim.cookie = attacker.cookie
  const handle = (await victim.send('POST', '/login/ann')).body
  t.same(await attacker.state(), {})
  attacker.cookie = `sid=${handle}.${victim.cookie!.split('.')[1]}`
  t.same(await attacker.state(), {})
  await t.rejects(app.sessions.destroy(victim.cookie!.slice(4, 36)), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION', message: /^((?!sid).)*$/ })
  t.same(await victim.state(), { userId: 'ann' })
})

t.test('odd names of properties are distinct, set and deleted; names that reach a prototype are left out', async t => {
  for (const options of [{}, { encrypt: KEY }]) {
    const { app } = await start(t, options)
    const user = new Browser(app)
    const odd = ['', 'f:', 'created', 'dead', 'user', 'seen', 'device', 'f:created', 'ключ 🔑', 'a\u0000b', '\n', '*', '{x}', 'valueOf', 'isPrototypeOf', 'toLocaleString']
    await user.send('POST', '/set', Object.fromEntries(odd.map((name, i) => [name, i])))
    t.same(Object.entries(await user.state()).sort(), odd.map((name, i) => [name, i]).sort())
    for (const name of odd) await user.send('POST', '/delete', { name })
    t.same(await user.state(), {})
    await app.inject({ method: 'POST', url: '/set', headers: { cookie: user.cookie!, 'content-type': 'application/json' }, payload: '{"ok":1,"constructor":{"prototype":{"admin":true}}}' })
    t.notOk(Reflect.get({}, 'admin'))
  }
})

t.test('a request body with reserved names of a session changes none of them, whatever the session does then', async t => {
  const names = ['sessionId', 'encryptedSessionId', 'prototype', 'save', 'isModified', 'isSaved', 'touch', 'destroy', 'regenerate', 'reload', 'get', 'set', 'options', 'toString', 'hasOwnProperty', 'constructor']
  for (const rolling of [true, false]) {
    const { app } = await start(t, { rolling })
    for (const name of names) {
      for (const more of [{}, { x: 1 }]) {
        const user = new Browser(app)
        const send = async (url: string) => (await user.send('POST', url, { [name]: 1, ...more })).statusCode
        t.same([await send('/set'), await send('/set'), await send('/set')], [200, 200, 200], `${name} ${JSON.stringify(more)}`)
        t.same(await user.state(), more)
        t.same([await send('/assign-and-login'), await send('/assign-and-login')], [200, 200], name)
        t.same(await user.state(), { userId: 'ann', ...more })
        t.equal(await send('/assign-and-logout'), 200, name)
        t.same(await user.state(), {})
        t.equal((await user.send('POST', '/assign-and-call', { [name]: 1 })).body, 'true', `${name}, and the session is used in the same handler`)
      }
    }
  }
})

t.test('stored fields that would reach a prototype are not used', async t => {
  const { app, keyOf } = await start(t)
  const { user, handle } = await login(app)
  await replaceText(server.client(), keyOf(handle), '{"userId":"ann","__proto__":{"admin":true},"constructor":{"prototype":{"admin":true}},"a":{"__proto__":{"admin":true}},"save":1}')
  const state = await user.state()
  t.equal(state.userId, 'ann')
  t.notOk(Reflect.get({}, 'admin'))
  t.equal((await user.send('POST', '/set', { b: 1 })).statusCode, 200)
  t.match(await user.state(), { b: 1 })
})

t.test('a value that JSON cannot represent, or only as something else, is an error, and nothing of that change is saved', async t => {
  const { app } = await start(t)
  for (const what of Object.keys(values)) {
    t.match((await new Browser(app).send('POST', `/value/${what}`)).json(), { code: 'FST_REDIS_SUITE_SESSION_UNSERIALIZABLE' }, 'also where there was no session')
    const { user } = await login(app, what)
    const reply = await user.send('POST', `/value/${what}`)
    t.match(reply.json(), { statusCode: 500, code: 'FST_REDIS_SUITE_SESSION_UNSERIALIZABLE', message: /"b"/ }, what)
    t.equal(reply.headers['set-cookie'], undefined)
    t.same(await user.state(), { userId: what })
  }
})

t.test('a value of 800 kB is stored', async t => {
  const { app } = await start(t, { timeout: 5000, encrypt: KEY })
  const { user } = await login(app)
  const big = 'ü'.repeat(400_000)
  await user.send('POST', '/set', { big })
  t.equal((await user.state()).big, big)
})

t.test('sealed bytes that are moved, changed, cut, of another key or not sealed are no session: logged once, never a 500', async t => {
  const options = { encrypt: KEY, timeout: 5000 }
  const { app, keyOf, prefix } = await start(t, options)
  const { user, handle, cookie } = await login(app)
  const { handle: others } = await login(app, 'eve')
  await user.send('POST', '/set', { secret: VALUE })
  const redis = server.client()
  const key = keyOf(handle)
  const good = await redis.get(key) ?? ''
  t.notMatch(good, VALUE)
  const foreign = createEncryption([randomBytes(32)])!
  const sealed = JSON.parse((await storedSession(redis, key)).text) as Record<string, string>
  const { userId: ofOther } = JSON.parse((await storedSession(redis, keyOf(others))).text) as Record<string, string>
  const attacks: Array<[string, unknown]> = [['secret', sealed['userId']], ['userId', sealed['secret']], ['userId', ofOther], ['userId', 'eve'], ['userId', 5], ['userId', null],
    ['userId', ''], ['userId', 'v1.'], ['userId', `v2${sealed['userId']!.slice(2)}`], ['new', sealed['userId']], ['userId', foreign.seal('"eve"', handle, 'userId')]]
  const before = logged.length
  for (const [field, value] of attacks) {
    await replaceText(redis, key, JSON.stringify({ ...sealed, [field]: value }))
    const reply = await app.inject({ url: '/', headers: { cookie } })
    t.equal(reply.statusCode, 200)
    t.equal(reply.body, '{}', `${field} ${String(value).slice(0, 8)}`)
    await redis.set(key, good, 'KEEPTTL')
  }
  t.equal(logged.slice(before).filter(line => line.includes('cannot be decrypted or parsed')).length, 1)
  t.match(await user.state(), { userId: 'ann', secret: VALUE })
  for (const keys of [undefined, [randomBytes(32)]]) {
    const { app: wrong } = await start(t, keys && { encrypt: keys }, prefix)
    t.equal((await wrong.inject({ url: '/', headers: { cookie } })).body, '{}')
  }
  const { app: rotated } = await start(t, { encrypt: [randomBytes(32), KEY] }, prefix)
  t.match((await rotated.inject({ url: '/', headers: { cookie } })).json(), { userId: 'ann' })
})

t.test('a sealed text with one changed byte never opens: 0 of 10,000', async t => {
  const cipher = createEncryption([KEY])!
  const sealed = cipher.seal(JSON.stringify(VALUE), 'handle', 'name')
  const bytes = Buffer.from(sealed.slice(3), 'base64url')
  let opened = 0
  for (let i = 0; i < 10_000; i++) {
    const mutated = Buffer.from(bytes)
    const at = randomInt(mutated.length)
    mutated[at] = mutated[at]! ^ (1 + randomInt(255))
    const cut = i % 4 === 0 ? mutated.subarray(0, randomInt(mutated.length)) : mutated
    if (cipher.open(`v1.${cut.toString('base64url')}`, 'handle', 'name') !== undefined) opened++
  }
  t.equal(opened, 0)
  t.equal(cipher.open(sealed, 'handle', 'name'), JSON.stringify(VALUE))
})

t.test('requests without a cookie, or with a bad one, leave no key behind', async t => {
  const { app, keys } = await start(t)
  const count = 500
  for (let i = 0; i < count; i += 500) await Promise.all(Array.from({ length: 500 }, (_, k) => app.inject(k % 5 === 0 ? { url: '/', headers: { cookie: `sid=${k}.x` } } : '/')))
  t.same(await keys(), [])
})

t.test('a login without a user is refused, and the session stays as it was', async t => {
  for (const nobody of [undefined, null, '', {}]) {
    const routes = (app: FastifyInstance) => app.post('/nobody', async request => { await request.login(nobody as never) })
    const other = await buildApp(t, { redis: { url: server.url, prefix: 'nobody' }, routes })
    const user = new Browser(other)
    await user.send('POST', '/set', { a: 1 })
    t.match((await user.send('POST', '/nobody')).json(), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
    t.same(await user.state(), { a: 1 })
  }
})

t.test('after absoluteTimeout is lowered, earlier sessions are still listed and ended', async t => {
  const { app, prefix } = await start(t, { absoluteTimeout: '30 days' })
  const { cookie } = await login(app)
  const { app: stricter } = await start(t, { absoluteTimeout: '1 day' }, prefix)
  t.equal(await stricter.sessions.count('ann'), 1)
  t.equal(await stricter.sessions.destroyAll('ann'), 1)
  t.equal((await app.inject({ url: '/', headers: { cookie } })).body, '{}')
})

t.test('nothing secret was logged through all of this', async t => {
  const text = logged.join('')
  t.ok(logged.length > 500)
  t.same([...secrets].filter(secret => text.includes(secret)).map(secret => secret.slice(0, 4)), [])
})
