import t from 'tap'
import type { Redis } from 'ioredis'
import { KINDS } from '../../bench/scale-kinds.js'
import { measure } from '../../bench/scale-measure.js'
import { keysOf } from '../../bench/scale-page.js'
import { readPage } from '../helpers/doc-blocks.js'

const COUNTS = [100, 500]
/** What was acknowledged does not expire: the one exception. */
const ENDLESS = /^shop:cache:behind:\{orders\.\d\}:stream$/

const [, sizes = ''] = /<!-- measured: sizes -->\n(.*?)<!-- end -->/s.exec(readPage('docs/scaling.md')) ?? []
const rows = new Map(sizes.split('\n').map(row => row.split('|').map(cell => cell.trim())).map(([, name = '', , each, besides]) => [name, { each: Number(each), besides: Number(besides) }]))

for (const kind of KINDS) {
  t.test(`${kind.name}: 500 users have as many keys as docs/scaling.md says, each with an end`, async t => {
    const endless: string[] = []
    const { sizes } = await measure(kind, { counts: COUNTS, operations: 0, inspect: async admin => { endless.push(...await keysWithoutEnd(admin)) } })
    t.same(keysOf(sizes), rows.get(kind.name))
    t.same(endless.filter(key => !ENDLESS.test(key)), [])
  })
}

async function keysWithoutEnd (admin: Redis): Promise<string[]> {
  const keys = await admin.keys('*')
  const ttls = await Promise.all(keys.map(key => admin.pttl(key)))
  return keys.filter((_, i) => ttls[i] === -1)
}
