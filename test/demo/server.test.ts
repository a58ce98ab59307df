import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { readConfig } from '../../demo/config.js'
import { database } from '../../demo/database.js'
import { hashPassword, verifyPassword } from '../../demo/password.js'
import { seed } from '../../demo/seed.js'
import { TYPESCRIPT, TYPESCRIPT_ENV } from '../helpers/compiled/exec-argv.js'
import { DATABASE_SNAPSHOT } from '../helpers/demo/shop.js'
import { startRedis, until } from '../helpers/index.js'
import { clientOf, isRunning } from '../helpers/servers/inspect.js'
import { freePort } from '../../tools/servers/free-port.js'

const root = join(import.meta.dirname, '../..')
/** A process that a busy machine starts late has not failed. */
const START_MS = 120_000

t.test('without variables the configuration has its defaults', async t => {
  t.match(readConfig({}), { HOST: '127.0.0.1', PORT: 3000, LOG_LEVEL: 'info', RATE_LIMIT_MAX: 100, TRUST_PROXY: false, DRAIN_DELAY: 0, MAX_EVENT_LOOP_DELAY: 1000, isSecretTemporary: true, clusterNodes: undefined })
  t.not(readConfig({}).SESSION_SECRET, readConfig({}).SESSION_SECRET, 'each start makes its own secret')
})

t.test('variables are read, and an empty variable counts as unset', async t => {
  const config = readConfig({ PORT: '8080', TRUST_PROXY: 'true', REDIS_CLUSTER: 'a:7000, b.example:7001', SESSION_SECRET: 'x'.repeat(32), REDIS_URL: '', UNRELATED: '1' })
  t.match(config, { PORT: 8080, TRUST_PROXY: true, isSecretTemporary: false, clusterNodes: [{ host: 'a', port: 7000 }, { host: 'b.example', port: 7001 }] })
})

t.test('a wrong value is an error that names the variable', async t => {
  const wrong: NodeJS.ProcessEnv[] = [{ PORT: 'http' }, { PORT: '70000' }, { LOG_LEVEL: 'loud' }, { SESSION_SECRET: 'short' }, { REDIS_CLUSTER: 'localhost' },
    { RATE_LIMIT_MAX: '-1' }, { RATE_LIMIT_MAX: '100001' }, { METRICS_TOKEN: 'short' }, { TRUST_PROXY: 'perhaps' }]
  for (const env of wrong) t.throws(() => readConfig(env), { message: new RegExp(Object.keys(env)[0] ?? '') }, JSON.stringify(env))
  t.throws(() => readConfig({ REDIS_URL: 'redis://x', REDIS_CLUSTER: 'x:1' }), /not both/)
})

t.test('a password matches its own hash alone', async t => {
  const hash = await hashPassword('secret')
  t.equal(await verifyPassword('secret', hash), true)
  t.equal(await verifyPassword('Secret', hash), false)
  t.equal(await verifyPassword('secret', undefined), false)
  t.equal(await verifyPassword('', ':'), false)
})

t.test('a snapshot that is written twice at the same time is one file, with tables and rows up to then', async t => {
  const folder = t.testdir()
  const snapshot = join(folder, 'shop.tar')
  // Without it the database is filled first, which takes 5 s.
  if (existsSync(DATABASE_SNAPSHOT)) copyFileSync(DATABASE_SNAPSHOT, snapshot)
  const start = async () => {
    const app = Fastify({ pluginTimeout: 120_000 })
    t.teardown(() => app.close())
    await app.register(database, { url: undefined, snapshot })
    return app.db
  }
  const db = await start()
  await db.query('CREATE TABLE kept (id int)')
  await db.query('INSERT INTO kept VALUES (1)')
  await Promise.all([db.saveSnapshot?.(), db.saveSnapshot?.()])
  t.same(readdirSync(folder), ['shop.tar'])
  await db.query('INSERT INTO kept VALUES (2)')
  const later = await start()
  t.same(await later.query('SELECT id FROM kept'), [{ id: 1 }])
  t.same(await later.query('SELECT count(*)::int AS made FROM applied_schema'), [{ made: 1 }], 'the tables are not made again')
  t.match(await later.query('SELECT count(*) > 0 AS filled FROM order_items'), [{ filled: true }])
})

t.test('a DATABASE_SNAPSHOT that is not a snapshot is an error that names the file', async t => {
  const snapshot = join(t.testdir(), 'shop.tar')
  writeFileSync(snapshot, 'something else')
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => { await app.register(database, { url: undefined, snapshot }) }, /DATABASE_SNAPSHOT .*shop\.tar/)
})

t.test('the progress of a long start is logged while it blocks the event loop', async t => {
  const file = join(t.testdir(), 'end')
  const child = spawn(process.execPath, [...TYPESCRIPT, join(root, 'test/helpers/fixtures/blocked-progress.ts'), file], { cwd: root, env: { ...TYPESCRIPT_ENV, PATH: process.env['PATH'] } })
  t.teardown(() => { child.kill('SIGKILL') })
  let output = ''
  child.stdout.on('data', chunk => { output += chunk })
  const exited = once(child, 'exit')
  await until('the second line is logged', () => output.split('\n').length > 2, START_MS)
  t.notMatch(output, 'unblocked')
  for (const line of output.trim().split('\n')) t.match(JSON.parse(line), { level: 30, time: Number, pid: child.pid, msg: /^database: 40 %, doing something long \(\d+ s\)$/ })
  writeFileSync(file, '')
  t.same(await exited, [0, null])
  t.match(output, /unblocked\n$/, 'no line follows')
})

t.test('the percentages of the seed rise', async t => {
  const steps: Array<[number, string]> = []
  await seed(async () => [], (percent, step) => { steps.push([percent, step]) })
  t.same(steps.map(([percent]) => percent), steps.map(([percent]) => percent).sort((a, b) => a - b))
  t.ok(steps.length >= 5 && steps.every(([percent, step]) => percent > 0 && percent < 100 && step !== ''))
})

/** Runs server.ts as `npm start` does; a busy machine is no reason for it to refuse requests. */
async function run (t: Test, env: Record<string, string>): Promise<{ child: ChildProcess, port: number, output: () => string, exit: Promise<number | null> }> {
  const port = await freePort()
  // Without what the test runner puts into the environment for its own processes.
  const child = spawn(process.execPath, [...TYPESCRIPT, join(root, 'server.ts')], { cwd: root, env: { ...TYPESCRIPT_ENV, PATH: process.env['PATH'], PORT: String(port), DATABASE_SNAPSHOT, MAX_EVENT_LOOP_DELAY: '0', ...env } })
  let output = ''
  child.stdout.on('data', chunk => { output += chunk })
  child.stderr.on('data', chunk => { output += chunk })
  const exit = once(child, 'exit').then(([code]) => code as number | null)
  t.teardown(() => { child.kill('SIGKILL') })
  return { child, port, output: () => output, exit }
}

t.test('on SIGTERM the server fails readiness, finishes requests in flight and exits with 0', async t => {
  const redis = await startRedis({ password: 'not-to-be-logged' })
  const { child, port, output, exit } = await run(t, { REDIS_URL: redis.url, DRAIN_DELAY: '5000', SESSION_SECRET: 'x'.repeat(32) })
  const get = (path: string) => fetch(`http://127.0.0.1:${port}${path}`)
  await until('the server listens', async () => (await get('/health/ready')).ok, START_MS)
  t.equal((await get('/products/1')).headers.get('x-cache'), 'MISS')

  child.kill('SIGTERM')
  await until('readiness fails', async () => (await get('/health/ready')).status === 503)
  t.equal((await get('/products/2')).status, 200, 'requests are still answered while it drains')
  const report = get('/reports/sales').then(response => response.status)
  t.equal(await report, 200)
  t.equal(await exit, 0)
  t.notMatch(output(), 'not-to-be-logged')
})

t.test('with START_REDIS the server starts a Redis of its own, logs its address, and ends with it, also if a signal kills the server', async t => {
  for (const signal of ['SIGINT', 'SIGKILL'] as const) {
    const { child, port, output, exit } = await run(t, { START_REDIS: 'true', SESSION_SECRET: 'x'.repeat(32) })
    await until('the server listens', async () => (await fetch(`http://127.0.0.1:${port}/health/ready`)).ok, START_MS)
    const url = /started a Redis at (redis:\/\/127\.0\.0\.1:\d+)/.exec(output())?.[1] ?? ''
    const redis = clientOf(t, url)
    t.match(await redis.keys('shop:*'), [/^shop:/], 'the shop uses it')
    const pid = Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1])
    t.ok(isRunning(pid))
    child.kill(signal)
    t.equal(await exit, signal === 'SIGINT' ? 0 : null)
    await until('its Redis has ended', () => !isRunning(pid))
  }
})

t.test('npm runs the server without a shell in between, so that a SIGTERM to npm start reaches the server', async t => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const file = join(t.testdir({ 'server.mjs': "process.on('SIGTERM', () => process.exit(7)); setInterval(() => {}, 1000); console.log('ready')" }), 'server.mjs')
  // npm runs a script by `sh -c`, and passes signals on to that process alone.
  const child = spawn('sh', ['-c', scripts.start.replace('dist/server.js', file)])
  t.teardown(() => { child.kill('SIGKILL') })
  await once(child.stdout, 'data')
  child.kill('SIGTERM')
  const [code] = await once(child, 'exit')
  t.equal(code, 7)
})

t.test('with a wrong configuration the server prints the reason in one line, without the password, and exits with 1', async t => {
  for (const [env, reason] of [[{ LOG_LEVEL: 'loud' }, /^cannot start: .*LOG_LEVEL/], [{ REDIS_URL: 'redis://:secret-one@127.0.0.1:1' }, /^cannot start: .*127\.0\.0\.1:1: connection refused/]] as const) {
    const { output, exit } = await run(t, env)
    t.equal(await exit, 1)
    t.match(output().trim().split('\n').at(-1), reason)
    t.notMatch(output(), 'secret-one')
  }
})
