import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { freePort } from './helpers/servers/free-port.js'
import { startRedis, until } from './helpers/index.js'
import { DATABASE_SNAPSHOT } from './helpers/demo/shop.js'

const root = join(import.meta.dirname, '..')

/** Runs server.ts as `npm start` does. That this machine has other things to do is no pressure of requests. */
async function run (t: Test, env: Record<string, string>): Promise<{ child: ChildProcess, port: number, output: () => string, exit: Promise<number | null> }> {
  const port = await freePort()
  // Without what the test runner puts into the environment for its own processes.
  const child = spawn(process.execPath, ['--import', 'tsx', join(root, 'server.ts')], { cwd: root, env: { PATH: process.env['PATH'], PORT: String(port), DATABASE_SNAPSHOT, MAX_EVENT_LOOP_DELAY: '60000', ...env } })
  let output = ''
  child.stdout.on('data', chunk => { output += chunk })
  child.stderr.on('data', chunk => { output += chunk })
  const exit = once(child, 'exit').then(([code]) => code as number | null)
  t.teardown(() => { child.kill('SIGKILL') })
  return { child, port, output: () => output, exit }
}

t.test('it answers, and on SIGTERM it turns readiness red, finishes what is under way and exits with 0', async t => {
  const redis = await startRedis({ password: 'not-to-be-logged' })
  const { child, port, output, exit } = await run(t, { REDIS_URL: redis.url, DRAIN_DELAY: '400', SESSION_SECRET: 'x'.repeat(32) })
  const get = (path: string) => fetch(`http://127.0.0.1:${port}${path}`)
  await until('it listens', async () => (await get('/health/ready')).ok, 30_000)
  t.equal((await get('/products/1')).headers.get('x-cache'), 'MISS')

  child.kill('SIGTERM')
  await until('readiness is red', async () => (await get('/health/ready')).status === 503)
  t.equal((await get('/products/2')).status, 200, 'requests are still answered while it drains')
  const report = get('/reports/sales').then(response => response.status)
  t.equal(await report, 200)
  t.equal(await exit, 0)
  t.notMatch(output(), 'not-to-be-logged')
})

t.test('with a wrong configuration it says in one line why, and exits with 1', async t => {
  for (const [env, reason] of [[{ LOG_LEVEL: 'loud' }, /LOG_LEVEL/], [{ REDIS_URL: 'redis://:secret-one@127.0.0.1:1' }, /127\.0\.0\.1:1: connection refused/]] as const) {
    const { output, exit } = await run(t, env)
    t.equal(await exit, 1)
    t.match(output().trim().split('\n').at(-1), /^cannot start: /)
    t.match(output(), reason)
    t.notMatch(output(), 'secret-one')
  }
})
