import { Redis } from 'ioredis'
import t from 'tap'
import { microBatchOf } from '../../plugins/shared/redis/micro-batch.js'
import { newPrefix, sharedRedis } from '../helpers/index.js'

const server = await sharedRedis()
const prefix = newPrefix()
const [text, other, n, orderKey] = ['text', 'other', 'n', 'order'].map(name => `${prefix}:${name}`) as [string, string, string, string]
const client = new Redis(server.url)
t.teardown(() => client.disconnect())
await client.ping()

const call = (on: Parameters<Parameters<ReturnType<typeof microBatchOf>['ask']>[0]>[0], ...command: string[]) => on.eval('return redis.call(unpack(ARGV))', 0, ...command)

/** How often the client writes to its socket meanwhile. */
async function writesOf (work: () => Promise<unknown>): Promise<number> {
  const { stream } = client
  const write = stream.write
  let writes = 0
  stream.write = function (...args: unknown[]) {
    writes++
    return Reflect.apply(write, this, args)
  }
  await work()
  stream.write = write
  return writes
}

t.test('commands that several callers add at the end of a turn are one write, and each caller gets its own reply or error', async t => {
  const turn = microBatchOf(client)
  t.equal(microBatchOf(client), turn)
  const ask = (name: string, ...args: string[]) => new Promise((resolve, reject) => {
    turn.atEnd(() => { turn.ask(on => call(on, name, ...args)).then(resolve, reject) })
  })
  await client.set(text, 'x')
  let results: unknown[] = []
  t.equal(await writesOf(async () => {
    results = await Promise.allSettled([ask('GET', text), ask('HGET', text, 'field'), ask('SET', other, '1'), ask('NONSENSE')])
  }), 1)
  t.match(results, [{ value: 'x' }, { reason: { message: /WRONGTYPE/ } }, { value: 'OK' }, { reason: { message: /unknown.* command/i } }])
  t.equal(await client.get(other), '1')
})

t.test('a command outside of the end of a turn is sent at once and in order, and an end without commands writes nothing', async t => {
  const turn = microBatchOf(client)
  t.equal(await writesOf(async () => {
    turn.atEnd(() => {})
    await new Promise(resolve => setImmediate(resolve))
  }), 0)
  t.same(await Promise.all([turn.ask(on => call(on, 'SET', n, '1')), turn.ask(on => call(on, 'INCR', n)), turn.ask(on => call(on, 'GET', n))]), ['OK', 2, '2'])
})

t.test('commands that wait in the auto-pipeline of the client are not overtaken', async t => {
  const pipelined = new Redis(server.url, { enableAutoPipelining: true })
  t.teardown(() => pipelined.disconnect())
  const turn = microBatchOf(pipelined)
  const seen: unknown[] = []
  for (let i = 0; i < 50; i++) {
    const order = [() => pipelined.set(orderKey, i), () => new Promise<void>(resolve => {
      turn.atEnd(() => { turn.ask(on => on.mgetBuffer([orderKey])).then(reply => { seen.push(Number(String(reply))); resolve() }) })
    })]
    // Whichever was asked first: at the turn's end both are there.
    await Promise.all((i % 2 === 0 ? order : order.reverse()).map(ask => ask()))
  }
  t.same(seen, Array.from({ length: 50 }, (_, i) => i))
})

t.test('commands are rejected where no server can be reached', async t => {
  const gone = new Redis({ port: 1, retryStrategy: () => null, maxRetriesPerRequest: 0 })
  gone.on('error', () => {})
  const turn = microBatchOf(gone)
  const results = await Promise.allSettled([turn.ask(on => call(on, 'GET', 'a')), new Promise((resolve, reject) => turn.atEnd(() => { turn.ask(on => call(on, 'GET', 'b')).then(resolve, reject) }))])
  t.match(results, [{ status: 'rejected' }, { status: 'rejected' }])
})
