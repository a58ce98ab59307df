import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { startRedis, until } from '../helpers/index.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

const root = join(import.meta.dirname, '../..')
const server = await startRedis()
const app = await buildApp(shopConfig({ REDIS_URL: server.url }))
await app.listen({ port: 0, host: '127.0.0.1' })
t.teardown(() => app.close())

function run (t: Test, ...args: string[]) {
  const child = spawn(process.execPath, ['--import', 'tsx', join(root, 'bench/load.ts'), ...args], { cwd: root, env: { PATH: process.env['PATH'] } })
  t.teardown(() => { child.kill('SIGKILL') })
  let output = ''
  child.stdout.on('data', chunk => { output += chunk })
  child.stderr.on('data', chunk => { output += chunk })
  return { child, output: () => output, exit: once(child, 'exit').then(([code]) => code as number | null) }
}

t.test('the load has hits, orders, and a burst that is limited, and nothing fails', async t => {
  const { port } = app.server.address() as AddressInfo
  const { span } = await startHeartbeat(t)
  const kinds = ['product', 'search', 'leaderboard', 'login', 'cart', 'order']
  let load = span()
  let output = ''
  // On a busy machine few requests are sent.
  for (const seconds of ['3', '10', '30']) {
    load = span()
    const { output: printed, exit } = run(t, '--url', `http://127.0.0.1:${port}`, '--duration', seconds, '--rate', '50')
    t.equal(await exit, 0, printed())
    output = printed()
    const all = output.split('all of ')[1] ?? ''
    if (kinds.every(kind => new RegExp(`^ *${kind} `, 'm').test(all))) break
  }
  // Only time that the machine withheld excuses a failure: a command may take 1 s. Blocking this process does not.
  const { stalled } = await load.judge()
  const [, total = ''] = output.split('all of ')
  const rows = new Map(total.split('\n').slice(2).map(line => {
    const [kind = '', ...cells] = line.split(/ {2,}/)
    return [kind, cells]
  }))
  for (const kind of kinds) {
    const [perSecond, , , , limited, failed] = rows.get(kind) ?? []
    t.ok(Number(perSecond) > 0, `${kind}: ${perSecond} a second`)
    t.equal(limited, '0', `${kind} is not limited`)
    // The ordered products may be out of stock.
    if (kind !== 'order') t.ok(failed === '0' || stalled > 1000, `no ${kind} fails: ${failed}, and the machine stalled for ${Math.round(stalled)} ms: ${output}`)
  }
  t.ok(Number.parseInt(rows.get('product')?.[3] ?? '') > 0, 'products are hits')
  t.ok(Number(rows.get('burst')?.[4]) >= 50, 'the burst is limited')
})

t.test('Ctrl-C stops it cleanly', async t => {
  const { port } = app.server.address() as AddressInfo
  const { child, output, exit } = run(t, '--url', `http://127.0.0.1:${port}`, '--duration', '60', '--rate', '20')
  await until('there is a table', () => output().includes('requests/s'))
  child.kill('SIGINT')
  t.equal(await exit, 0)
  t.match(output(), /all of \d/)
})
