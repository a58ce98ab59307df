import { once } from 'node:events'
import t from 'tap'
import { backlogOf, openFolder, startInstance } from '../helpers/behind-children.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const TOTAL = 10_000
const KEYS_EACH = 17
const INSTANCES = 3
const KILLS = 4
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

t.test(`${INSTANCES} instances that are killed at random lose none of ${TOTAL} accepted writes, and keep the order of each key`, async t => {
  const { folder, linesOf } = openFolder(t)
  const round = (name: number, turn: number) => startInstance(t, server, 'kill', folder, `i${name}`, KEYS_EACH, turn * 1_000_000, 1_000_000)
  const children = await Promise.all(Array.from({ length: INSTANCES }, (_, name) => round(name, 0)))
  for (let kill = 1; kill <= KILLS; kill++) {
    await until('writes go on', () => linesOf('accepted').length >= TOTAL / (KILLS + 1) * kill, 20_000)
    const victim = Math.floor(Math.random() * INSTANCES)
    const exited = once(children[victim]!, 'exit')
    children[victim]!.kill('SIGKILL')
    await exited
    await wait(Math.random() * 300)
    children[victim] = await round(victim, kill)
  }
  await until('all are accepted', () => linesOf('accepted').length >= TOTAL, 20_000)
  // The rest is for one that comes after all of them.
  for (const child of children) child.kill('SIGKILL')
  await startInstance(t, server, 'kill', folder, 'last')
  await until('nothing waits', async () => await backlogOf(server, 'kill') === 0, 30_000)

  const written = new Map<string, Array<{ value: number, fence: number }>>()
  for (const [key = '', value, fence] of linesOf('written')) {
    written.set(key, [...written.get(key) ?? [], { value: Number(value), fence: Number(fence) }])
  }
  const accepted = linesOf('accepted')
  const lost = accepted.filter(([key = '', value]) => !written.get(key)?.some(each => each.value === Number(value)))
  t.equal(lost.length, 0, 'none is lost')
  let duplicates = 0
  let outOfOrder = 0
  for (const writes of written.values()) {
    let newest = -1
    const seen = new Set<number>()
    writes.forEach(({ value, fence }, i) => {
      const before = writes[i - 1]
      const isAgain = seen.has(value)
      if (isAgain) duplicates++
      // A writer's successor may write again what was written last, from there on in order.
      if (!isAgain && value < newest) outOfOrder++
      if (before !== undefined && (fence < before.fence || (fence === before.fence && value <= before.value))) outOfOrder++
      newest = Math.max(newest, value)
      seen.add(value)
    })
  }
  t.equal(outOfOrder, 0, 'none is out of order')
  t.equal(written.size, INSTANCES * KEYS_EACH)
  t.ok(accepted.length >= TOTAL)
  t.comment(`${accepted.length} accepted, ${linesOf('written').length} written, ${duplicates} twice, ${KILLS + INSTANCES} kills`)
})
