import t from 'tap'
import { cursorOf, parseCursor } from '../../plugins/events/stream/cursor.js'
import type { StoredEvent } from '../../plugins/events/stream/store.js'
import { Tail } from '../../plugins/events/stream/tail.js'
import { upTo } from '../helpers/events/streams.js'

const event = (n: number, size = 1): StoredEvent => ({ id: `${n}-0`, n, key: undefined, value: Buffer.alloc(size) })

function createLog (size?: number) {
  const log: StoredEvent[] = []
  const asked: Array<[after: string, count: number]> = []
  let most = Infinity
  return {
    asked,
    add: (count: number) => { log.push(...upTo(count).map(i => event(log.length + i + 1, size))) },
    fewAtATime: (count: number) => { most = count },
    async range (after: string, count: number) {
      asked.push([after, count])
      await new Promise(resolve => setImmediate(resolve))
      if (count > most) throw new Error('too much')
      const from = Number.parseInt(after, 10)
      return log.slice(from, from + count)
    }
  }
}

t.test('who is at the end shares one question, and who is behind asks alone', async t => {
  const log = createLog()
  log.add(10)
  const tail = new Tail(log.range, '10-0')
  t.same(await Promise.all(upTo(5).map(() => tail.after('10-0'))), upTo(5).map(() => []))
  t.same(log.asked, [['10-0', 100]])
  log.add(2)
  tail.touch()
  const found = await Promise.all(upTo(5).map(() => tail.after('10-0')))
  t.same(found.map(events => events.map(({ n }) => n)), upTo(5).map(() => [11, 12]))
  t.equal(log.asked.length, 2)
  t.equal((await tail.after('3-0')).length, 9)
  t.same(log.asked[2], ['3-0', 100])
})

t.test('no more than a number of events and bytes is kept, and nobody misses what went', async t => {
  const log = createLog(10_000)
  const tail = new Tail(log.range, '0-0')
  log.add(500)
  tail.touch()
  const seen: number[] = []
  for (let after = '0-0'; ;) {
    const events = await tail.after(after)
    seen.push(...events.map(({ n }) => n))
    const last = events.at(-1)
    if (last === undefined) break
    after = last.id
  }
  t.same(seen, upTo(500).map(i => i + 1))
})

t.test('where many are too much to come in time, fewer are asked for', async t => {
  const log = createLog()
  log.add(50)
  log.fewAtATime(10)
  const tail = new Tail(log.range, '0-0')
  let failures = 0
  let count = 0
  for (let after = '0-0'; count < 50 && failures < 100;) {
    const events = await tail.after(after).catch(() => { failures++; return [] })
    count += events.length
    after = events.at(-1)?.id ?? after
  }
  t.equal(count, 50)
})

t.test('a cursor is what it was made of', t => {
  const positions = [{ id: '1700000000000-0', n: 7 }, { id: '0-0', n: undefined }, { id: '1699999999999-18446744073709551615', n: undefined }]
  t.same(parseCursor(cursorOf(positions), 3), positions)
  t.same(parseCursor('0', 2), [{ id: '0-0', n: undefined }, { id: '0-0', n: undefined }])
  t.same(parseCursor('5-1.3@1', 2), [{ id: '4-18446744073709551615', n: undefined }, { id: '5-1', n: 3 }])
  t.end()
})
