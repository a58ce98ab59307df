// Two instances under load while Redis, or one of them, fails; see test/faults. `npm run test:faults` runs all rows.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { scaled } from '../helpers/stress/scale.js'

const ROWS = ['killed', 'instance killed', 'hung', 'severed', 'full'].slice(0, 1 + scaled(4))
const run = fileURLToPath(new URL('../faults/run.ts', import.meta.url))

t.test(`an app under load survives these faults without a crash, a 500, a lost session or a key without a TTL: ${ROWS.join(', ')}`, async t => {
  const child = spawn(process.execPath, ['--import', 'tsx', run, '--gate', '--hold', '2', '--only', ROWS.join()], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill())
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  const [code] = await once(child, 'close')
  t.equal(code, 0, output)
  for (const row of ROWS) t.match(output, new RegExp(`^${row} \\{`, 'm'), `${row} was run`)
})
