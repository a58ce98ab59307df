import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { createWriteBehinds } from '../../plugins/cache/behind.js'
import { guardRedis } from '../../plugins/shared/guard.js'
import { startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/log-lines.js'

const server = await startRedis()
const TOTAL = 10_000
const KEYS_EACH = 17
const INSTANCES = 3
const KILLS = 4
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

function openFolder (t: Test) {
  const folder = t.testdir({ written: '', accepted: '' })
  const linesOf = (file: 'written' | 'accepted') => readFileSync(`${folder}/${file}`, 'utf8').split('\n').slice(0, -1).map(line => line.split(' '))
  return { folder, linesOf }
}

async function start (t: Test, prefix: string, folder: string, ...args: Array<string | number>): Promise<ChildProcess> {
  const child = fork(new URL('../fixtures/behind-instance.ts', import.meta.url), [server.url, prefix, folder, ...args.map(String)], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill('SIGKILL') })
  await once(child, 'message')
  return child
}

async function backlogOf (prefix: string): Promise<number> {
  const counts = await Promise.all([0, 1, 2, 3].map(partition => server.client().xlen(`${prefix}:cache:behind:{orders.${partition}}:stream`)))
  return counts.reduce((sum, count) => sum + count, 0)
}

t.test(`${INSTANCES} instances that are killed at random lose none of ${TOTAL} accepted writes, and keep the order of each key`, async t => {
  const { folder, linesOf } = openFolder(t)
  const round = (name: number, turn: number) => start(t, 'kill', folder, `i${name}`, KEYS_EACH, turn * 1_000_000, 1_000_000)
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
  await start(t, 'kill', folder, 'last')
  await until('nothing waits', async () => await backlogOf('kill') === 0, 30_000)

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

t.test('a write that kills the process becomes a dead letter, and takes no other with it', async t => {
  const { folder, linesOf } = openFolder(t)
  const { logger } = collectLog()
  const { run } = guardRedis(server.client(), logger, 2000)
  // It adds, and is gone before it writes.
  const adder = createWriteBehinds({ client: server.client(), prefix: 'poison', run, log: logger })
  const behind = adder.writeBehind<number | string>('orders', { write: () => { throw new Error('not here') }, flushEvery: '1h', retries: 1000, isOutage: () => true })
  for (let value = 0; value < 10; value++) {
    for (const key of 'abcdefgh') await behind.add(key, value === 5 && key === 'c' ? 'poison' : value)
  }
  await adder.close()

  let kills = 0
  const starts = async () => {
    const child = await start(t, 'poison', folder, 'x')
    child.once('exit', () => { kills++ })
    return child
  }
  for (let child = await starts(); await backlogOf('poison') > 0;) {
    if (child.signalCode !== null) child = await starts()
    await wait(20)
  }
  const values = (key: string) => linesOf('written').filter(line => line[0] === key).map(([, value]) => Number(value))
  for (const key of 'abdefgh') t.same([...new Set(values(key))], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], key)
  t.same([...new Set(values('c'))], [0, 1, 2, 3, 4, 6, 7, 8, 9])
  t.ok(kills >= 2 && kills <= 4, `killed ${kills} times`)

  const letters = await server.client().xrange('poison:cache:behind:{orders.0}:dead', '-', '+')
  const others = await Promise.all([1, 2, 3].map(partition => server.client().xrange(`poison:cache:behind:{orders.${partition}}:dead`, '-', '+')))
  const all = [...letters, ...others.flat()].map(([, fields]) => fields)
  t.equal(all.length, 1)
  t.match(all[0]?.join(), /^k,c,v,"poison",id,.*,reason,given 3 times without an outcome,given,3$/)
})
