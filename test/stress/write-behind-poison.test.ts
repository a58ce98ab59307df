import t from 'tap'
import { createWriteBehinds } from '../../plugins/cache/data/write-behind/write-behind.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { guardRedis } from '../../plugins/shared/redis/guard.js'
import { backlogOf, openFolder, startInstance } from '../helpers/cache/behind-children.js'
import { startRedis } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

const server = await startRedis()
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

t.test('a write that kills the process becomes a dead letter, and no other write does', async t => {
  const { folder, linesOf } = openFolder(t)
  const { logger } = collectLog()
  const client = portOf(server.client())
  const { run } = guardRedis(client, logger, 2000)
  // It adds writes, and dies before it writes them.
  const adder = createWriteBehinds({ client, prefix: 'poison', run, log: logger })
  const behind = adder.writeBehind<number | string>('orders', { write: () => { throw new Error('not here') }, flushEvery: '1h', retries: 1000, isOutage: () => true })
  for (let value = 0; value < 10; value++) {
    for (const key of 'abcdefgh') await behind.add(key, value === 5 && key === 'c' ? 'poison' : value)
  }
  await adder.close()

  let kills = 0
  const starts = async () => {
    const child = await startInstance(t, server, 'poison', folder, 'x')
    child.once('exit', () => { kills++ })
    return child
  }
  for (let child = await starts(); await backlogOf(server, 'poison') > 0;) {
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
  t.match(all[0]?.join(), /^k,c,v,"poison",id,.*,reason,delivered 3 times without an outcome,given,3$/)
})
