import { execFile } from 'node:child_process'
import { join } from 'node:path'
import type { Redis } from 'ioredis'
import t from 'tap'
import { KINDS } from '../../bench/scale-kinds.js'
import { measure } from '../../bench/scale-measure.js'
import { TYPESCRIPT, TYPESCRIPT_ENV } from '../helpers/compiled/exec-argv.js'
import { root } from '../helpers/docs/doc-blocks.js'

/** Acknowledged writes do not expire: the one exception. */
const ENDLESS = /^shop:cache:behind:\{orders\.\d\}:stream$/

for (const kind of KINDS) {
  t.test(`${kind.name}: each key of 20 users has a TTL`, async t => {
    let keys: string[] = []
    let endless: string[] = []
    await measure(kind, {
      counts: [20],
      operations: 0,
      inspect: async admin => {
        keys = await admin.keys('*')
        endless = await keysWithoutTtl(admin, keys)
      }
    })
    t.same(endless.filter(key => !ENDLESS.test(key)), [], `of ${keys.length} keys`)
  })
}

async function keysWithoutTtl (admin: Redis, keys: string[]): Promise<string[]> {
  const ttls = await Promise.all(keys.map(key => admin.pttl(key)))
  return keys.filter((_, i) => ttls[i] === -1)
}

t.test('the load without a demo reports that it does not answer, and exits with 1', async t => {
  const args = [...TYPESCRIPT, join(root, 'bench/load.ts'), '--url', 'http://127.0.0.1:1']
  const [exitCode, output] = await new Promise<[unknown, string]>(resolve => {
    execFile(process.execPath, args, { cwd: root, env: { ...TYPESCRIPT_ENV, PATH: process.env['PATH'] } }, (error, stdout, stderr) => resolve([error?.code ?? 0, stdout + stderr]))
  })
  t.equal(exitCode, 1)
  t.match(output, /does not answer/)
})
