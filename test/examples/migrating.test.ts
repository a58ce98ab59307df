// The programs of docs/migrating, run as they are on the pages, against what the earlier packages have stored.
import { execFile } from 'node:child_process'
import { symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { sign } from '@fastify/cookie'
import t from 'tap'
import { blocksOf, moduleOf, root } from '../helpers/docs/doc-blocks.js'
import { sharedRedis } from '../helpers/index.js'
import { scratchDir } from '../../tools/servers/scratch.js'

const SECRET = 'of the pages, 32 characters or more'
const dir = scratchDir()
symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
writeFileSync(join(dir, 'package.json'), '{ "type": "module" }')
writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({
  compilerOptions: { paths: { 'fastify-redis-suite': [join(root, 'plugins/index.ts')], 'fastify-redis-suite/*': [join(root, 'plugins/*/index.ts')] } }
}))
const redis = await sharedRedis()
let programs = 0

interface Answer { status: number, body: unknown, cacheControl?: string, cookies: string[] }

/** Runs the n-th program of a page, adds `routes` to its app, and sends it requests. */
async function ask (page: string, n: number, routes: string, requests: Array<{ url: string, method?: string, headers?: Record<string, string> }>): Promise<Answer[]> {
  const block = blocksOf(`docs/migrating/${page}.md`).filter(({ code }) => code.includes('Fastify('))[n]
  if (block === undefined) throw new Error(`docs/migrating/${page}.md has no program ${n}`)
  const file = join(dir, `${page}-${++programs}.ts`)
  writeFileSync(file, `${moduleOf(block)}
${routes}
const answers = []
for (const request of ${JSON.stringify(requests)}) {
  const { statusCode, body, headers } = await app.inject(request as never)
  answers.push({ status: statusCode, body: JSON.parse(body || 'null'), cacheControl: headers['cache-control'], cookies: [headers['set-cookie'] ?? []].flat() })
}
console.log('answers ' + JSON.stringify(answers))
await app.close()
`)
  const env = { ...process.env, REDIS_URL: redis.url, SESSION_SECRET: SECRET, TSX_TSCONFIG_PATH: join(dir, 'tsconfig.json') }
  const output = await new Promise<string>(resolve => {
    execFile('env', ['-u', 'NODE_OPTIONS', process.execPath, '--import', 'tsx', file], { cwd: root, env, timeout: 60_000 }, (_error, stdout, stderr) => resolve(stdout + stderr))
  })
  const [, answers] = /^answers (.*)$/m.exec(output) ?? []
  if (answers === undefined) throw new Error(output)
  return JSON.parse(answers)
}

/** The cookie of an old session, which the packages sign with the same algorithm. */
const cookieOf = (id: string, prefix = '') => encodeURIComponent(prefix + sign(id, SECRET))

t.test('connect-redis: a session of express-session is carried over once, and a visitor who was not logged in gets no error', async t => {
  // As connect-redis 9 stores it.
  const cookie = { originalMaxAge: null, expires: null, httpOnly: true, path: '/' }
  await redis.client().set('sess:old', JSON.stringify({ cookie, userId: 'ann' }))
  await redis.client().set('sess:visitor', JSON.stringify({ cookie, cart: [] }))
  const headers = { cookie: `connect.sid=${cookieOf('old', 's:')}` }
  const [first, again, visitor, forged] = await ask('connect-redis', 1, "app.get('/me', async request => ({ user: request.session.userId ?? null }))", [
    { url: '/me', headers }, { url: '/me', headers }, { url: '/me', headers: { cookie: `connect.sid=${cookieOf('visitor', 's:')}` } },
    { url: '/me', headers: { cookie: 'connect.sid=s%3Aold.forged' } }
  ])
  t.match(first, { status: 200, body: { user: 'ann' } })
  t.ok(first?.cookies.some(each => /^sid=\S+/.test(each)), 'the new cookie')
  t.ok(first?.cookies.some(each => /^connect\.sid=;.*Max-Age=0/.test(each)), 'the old one is cleared')
  for (const each of [again, visitor, forged]) t.match(each, { status: 200, body: { user: null } })
})

t.test('connect-redis: a session with another property, whose cookie keeps its name, is carried over, and its cookie is replaced', async t => {
  // As connect-redis 9 stores a session of @fastify/session 11.
  const cookie = { expires: null, originalMaxAge: null, sameSite: null, secure: false, path: '/', httpOnly: true, domain: null }
  await redis.client().set('shop:old', JSON.stringify({ cookie, user: { id: 'bob', name: 'Bob' }, cart: ['tea'] }))
  const headers = { cookie: `sessionId=${cookieOf('old')}` }
  const routes = "app.get('/me', async request => ({ user: request.session.user ?? null, cart: request.session.cart ?? null, sessions: (await app.sessions.list('bob')).length }))"
  const [first, again] = await ask('connect-redis', 2, routes, [{ url: '/me', headers }, { url: '/me', headers }])
  t.match(first, { status: 200, body: { user: { id: 'bob', name: 'Bob' }, cart: ['tea'], sessions: 1 } })
  t.equal(first?.cookies.length, 1, 'one cookie, so that the order of headers does not matter')
  t.match(again, { status: 200, body: { user: null } })
  const [renewed] = await ask('connect-redis', 2, routes, [{ url: '/me', headers: { cookie: first?.cookies[0]?.split(';')[0] ?? '' } }])
  t.match(renewed, { status: 200, body: { user: { id: 'bob' }, cart: ['tea'] }, cookies: [] })
})

t.test('caching: `public` is sent by the route that names it only; a page of one user is not stored by a CDN', async t => {
  const routes = `
app.get('/mine', { config: { cache: true } }, async request => ({ authorization: request.headers.authorization ?? null }))
app.get('/broken', { config: { cache: true } }, async (_request, reply) => { reply.code(500); return {} })`
  const [products, hit, me, mine, broken, missing] = await ask('caching', 0, routes, [
    { url: '/products' }, { url: '/products' }, { url: '/me' }, { url: '/mine', headers: { 'x-user': 'ann', authorization: 'Bearer a' } }, { url: '/broken' }, { url: '/none' }
  ])
  t.same([products, hit].map(answer => answer?.cacheControl), Array(2).fill('public, max-age=60, s-maxage=300'))
  t.same([me, broken, missing].map(answer => answer?.cacheControl), Array(3).fill('no-store'))
  t.notMatch(mine?.cacheControl, /public|s-maxage/)
})
