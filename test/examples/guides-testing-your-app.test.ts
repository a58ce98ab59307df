import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { TYPESCRIPT } from '../helpers/compiled/exec-argv.js'
import { startRedis } from '../helpers/index.js'

const file = fileURLToPath(new URL('../../examples/guides/testing-your-app.tests.ts', import.meta.url))

/** Runs the tests of the example as a user does. */
async function run (env: Record<string, string>): Promise<{ code: unknown, output: string }> {
  const { NODE_OPTIONS: _ofTap, REDIS_URL: _url, NODE_TEST_CONTEXT: _context, ...rest } = process.env
  return await new Promise(resolve => {
    execFile(process.execPath, [...TYPESCRIPT, '--test-reporter=tap', file], { env: { ...rest, ...env }, timeout: 120_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : error.code ?? error.signal, output: stdout + stderr })
    })
  })
}

const totals = (output: string) => Object.fromEntries([...output.matchAll(/^# (pass|fail|skipped) (\d+)$/gm)].map(([, kind, count]) => [kind, Number(count)]))

t.test('the tests of the example pass without Redis, and need no service', async t => {
  const { code, output } = await run({})
  t.equal(code, 0, output)
  t.same(totals(output), { pass: 5, fail: 0, skipped: 1 })
})

t.test('on Redis all of them pass, also beside a second run on the same server', async t => {
  const { url } = await startRedis()
  const runs = await Promise.all([run({ REDIS_URL: url }), run({ REDIS_URL: url })])
  for (const { code, output } of runs) {
    t.equal(code, 0, output)
    t.same(totals(output), { pass: 6, fail: 0, skipped: 0 })
  }
})
