import t, { type Test } from 'tap'
import type { Redis } from 'ioredis'
import { KINDS } from '../../bench/scale-kinds.js'
import { measure } from '../../bench/scale-measure.js'
import { readPage } from '../helpers/docs/doc-blocks.js'
import { until } from '../helpers/index.js'

const USERS = 500
/** The one exception: accepted writes do not expire. */
const ENDLESS = /^shop:cache:behind:\{orders\.\d\}:stream$/

const [, sizes = ''] = /<!-- measured: sizes -->\n(.*?)<!-- end -->/s.exec(readPage('docs/operations/scaling.md')) ?? []
const rows = new Map(sizes.split('\n').map(row => row.split('|').map(cell => cell.trim())).map(([, name = '', , each, besides]) => [name, Number(each) * USERS + Number(besides)]))

for (const kind of KINDS) {
  t.test(`${kind.name}: 500 users have as many keys as docs/operations/scaling.md states, each with a TTL`, async t => {
    await measure(kind, { counts: [USERS], operations: 0, inspect: async admin => await look(t, admin, rows.get(kind.name)) })
  })
}

async function look (t: Test, admin: Redis, expected: number | undefined): Promise<void> {
  // A lease may have just expired, and is acquired again.
  await until(`there are ${expected} keys`, async () => await admin.dbsize() === expected).catch(() => {})
  t.equal(await admin.dbsize(), expected)
  t.same((await keysWithoutEnd(admin)).filter(key => !ENDLESS.test(key)), [])
}

async function keysWithoutEnd (admin: Redis): Promise<string[]> {
  const keys = await admin.keys('*')
  const ttls = await Promise.all(keys.map(key => admin.pttl(key)))
  return keys.filter((_, i) => ttls[i] === -1)
}
