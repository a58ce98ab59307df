import t from 'tap'
import { backlogOf, judge, openFolder, startInstance } from '../helpers/cache/behind-children.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const TOTAL = 10_000
const KEYS_EACH = 17
const INSTANCES = 3
const KILLS = 4

t.test(`${INSTANCES} instances that are killed at random lose none of ${TOTAL} accepted writes, and keep the order of each key`, async t => {
  const { folder, linesOf } = openFolder(t)
  const round = (name: number, turn: number) => startInstance(t, server, 'kill', folder, `i${name}`, KEYS_EACH, turn * 1_000_000, 1_000_000)
  const children = Array.from({ length: INSTANCES }, (_, name) => round(name, 0))
  for (let kill = 1; kill <= KILLS; kill++) {
    await until('more writes are accepted', () => linesOf('accepted').length >= TOTAL / (KILLS + 1) * kill, 20_000)
    const victim = Math.floor(Math.random() * INSTANCES)
    const child = await children[victim]
    child?.kill('SIGKILL')
    children[victim] = round(victim, kill)
  }
  await until('all writes are accepted', () => linesOf('accepted').length >= TOTAL, 20_000)
  // A later instance writes the rest.
  for (const child of await Promise.all(children)) child.kill('SIGKILL')
  await startInstance(t, server, 'kill', folder, 'last')
  await until('the backlog is empty', async () => await backlogOf(server, 'kill') === 0, 30_000)

  const { lost, duplicates, outOfOrder, keys } = judge(linesOf('written'), linesOf('accepted'))
  t.equal(lost, 0, 'none is lost')
  t.equal(outOfOrder, 0, 'none is out of order')
  t.equal(keys, INSTANCES * KEYS_EACH)
  t.ok(linesOf('accepted').length >= TOTAL)
  t.comment(`${linesOf('accepted').length} accepted, ${linesOf('written').length} written, ${duplicates} twice, ${KILLS + INSTANCES} kills`)
})
