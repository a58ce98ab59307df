import { Redis } from 'ioredis'
import t from 'tap'
import { portOf } from '../../plugins/shared/redis/client.js'
import { MicroBatch, turnPipelineOf, type MicroBatchOptions, type TurnPipeline } from '../../plugins/shared/redis/micro-batch.js'
import { newPrefix, sharedRedis } from '../helpers/index.js'

const server = await sharedRedis()
const prefix = newPrefix()
const [text, other, n, orderKey] = ['text', 'other', 'n', 'order'].map(name => `${prefix}:${name}`) as [string, string, string, string]
const client = new Redis(server.url)
t.teardown(() => client.disconnect())
const port = portOf(client)
await client.ping()

const call = (pipeline: TurnPipeline, key: string, ...command: string[]) => pipeline.send(key, 'eval', ['return redis.call(unpack(ARGV))', 0, ...command])

/** How often the client writes to its socket meanwhile. */
async function writesOf (work: () => Promise<unknown>): Promise<number> {
  const stream = client.stream as unknown as Record<'_write' | '_writev', (...args: unknown[]) => unknown>
  let writes = 0
  for (const method of ['_write', '_writev'] as const) {
    const write = stream[method]
    stream[method] = function (...args) {
      writes++
      return Reflect.apply(write, this, args)
    }
  }
  await work()
  for (const method of ['_write', '_writev'] as const) Reflect.deleteProperty(stream, method)
  return writes
}

t.test('commands that several callers send at the end of a turn are one write, and each caller gets its own reply or error', async t => {
  const pipeline = turnPipelineOf(port)
  t.equal(turnPipelineOf(port), pipeline)
  const ask = (name: string, ...args: string[]) => new Promise((resolve, reject) => {
    pipeline.onTurnEnd(() => { call(pipeline, n, name, ...args).then(resolve, reject) })
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
  const pipeline = turnPipelineOf(port)
  t.equal(await writesOf(async () => {
    pipeline.onTurnEnd(() => {})
    await new Promise(resolve => setImmediate(resolve))
  }), 0)
  t.same(await Promise.all([call(pipeline, n, 'SET', n, '1'), call(pipeline, n, 'INCR', n), call(pipeline, n, 'GET', n)]), ['OK', 2, '2'])
})

t.test('commands that wait in the auto-pipeline of the client are not overtaken', async t => {
  const pipelined = new Redis(server.url, { enableAutoPipelining: true })
  t.teardown(() => pipelined.disconnect())
  const pipeline = turnPipelineOf(portOf(pipelined))
  const values: unknown[] = []
  for (let i = 0; i < 50; i++) {
    const order = [() => pipelined.set(orderKey, i), () => new Promise<void>(resolve => {
      pipeline.onTurnEnd(() => { pipeline.send(orderKey, 'mget', [orderKey], true).then(reply => { values.push(Number(String(reply))); resolve() }) })
    })]
    // Both are there when the turn ends, in either order.
    await Promise.all((i % 2 === 0 ? order : order.reverse()).map(ask => ask()))
  }
  t.same(values, Array.from({ length: 50 }, (_, i) => i))
})

t.test('commands are rejected where no server can be reached', async t => {
  const gone = new Redis({ port: 1, retryStrategy: () => null, maxRetriesPerRequest: 0 })
  gone.on('error', () => {})
  const pipeline = turnPipelineOf(portOf(gone))
  const results = await Promise.allSettled([call(pipeline, 'a', 'GET', 'a'), new Promise((resolve, reject) => pipeline.onTurnEnd(() => { call(pipeline, 'b', 'GET', 'b').then(resolve, reject) }))])
  t.match(results, [{ status: 'rejected' }, { status: 'rejected' }])
})

// Batches. This one upper-cases texts, and has no server.

interface Sent { together: string[][], apart: string[][] }

function upperCase (sent: Sent, change: Partial<MicroBatchOptions<string, string>> = {}): MicroBatch<string, string> {
  return new MicroBatch<string, string>({
    client: port,
    maxSize: 3,
    async sendTogether (batch) {
      sent.together.push(batch.map(({ request }) => request))
      return batch.map(({ request }) => request.toUpperCase())
    },
    sendApart (batch) {
      sent.apart.push(batch.map(({ request }) => request))
      return batch.map(async ({ request }) => { if (request === 'lost') throw new Error('lost'); return [request.toUpperCase()] })
    },
    parse: (reply, batch) => (reply as string[]).flatMap((text, i) => Array.from({ length: batch[i]?.callers.length ?? 0 }, () => text)),
    ...change
  })
}

const nextTurn = () => new Promise(resolve => setImmediate(resolve))

t.test('the requests of one turn are one batch, up to its size, and equal ones with an id are sent once', async t => {
  const sent: Sent = { together: [], apart: [] }
  const batch = upperCase(sent)
  t.same(await Promise.all([batch.add('a'), batch.add('b'), batch.add('a')]), ['A', 'B', 'A'])
  t.same(await Promise.all([batch.add('c', 'c'), batch.add('c', 'c'), batch.add('d', 'd')]), ['C', 'C', 'D'])
  t.same(await Promise.all([batch.add('e'), batch.add('large', undefined, 3), batch.add('f')]), ['E', 'LARGE', 'F'])
  t.same(sent, { together: [['a', 'b', 'a'], ['c', 'd'], ['e'], ['large'], ['f']], apart: [] })
})

t.test('requests with one id that are not equal are each sent', async t => {
  const sent: Sent = { together: [], apart: [] }
  const batch = upperCase(sent, { areEqual: (a, b) => a === b })
  t.same(await Promise.all([batch.add('a', 'id'), batch.add('b', 'id'), batch.add('b', 'id')]), ['A', 'B', 'B'])
  t.same(sent.together, [['a', 'b']])
})

t.test('each request is sent alone after the server has refused a batch, and one that fails rejects its caller only', async t => {
  for (const refusal of ["CROSSSLOT Keys in request don't hash to the same slot", 'NOPERM User x has no permissions', 'ERR unknown command']) {
    const sent: Sent = { together: [], apart: [] }
    let refusals = 0
    const batch = upperCase(sent, { sendTogether: async () => { refusals++; throw new Error(refusal) } })
    for (const round of ['first', 'second']) {
      const results = await Promise.allSettled([batch.add('a'), batch.add('lost'), batch.add('b')])
      t.match(results, [{ value: 'A' }, { reason: { message: 'lost' } }, { value: 'B' }], `${refusal}, ${round} batch`)
    }
    t.equal(refusals, 1)
    t.same(sent.apart, [['a', 'lost', 'b'], ['a', 'lost', 'b']])
  }
})

t.test('a batch that fails rejects each caller, as do a reply that cannot be parsed and one that is too short', async t => {
  const failing: Array<[Partial<MicroBatchOptions<string, string>>, RegExp]> = [
    [{ sendTogether: async () => { throw new Error('gone') } }, /gone/],
    [{ parse: () => { throw new Error('odd') } }, /odd/],
    [{ parse: () => [] }, /unexpected reply/],
    [{ parse: () => [new Error('refused'), new Error('refused')] }, /refused/]
  ]
  for (const [change, message] of failing) {
    const batch = upperCase({ together: [], apart: [] }, change)
    t.match(await Promise.allSettled([batch.add('a'), batch.add('b')]), [{ reason: { message } }, { reason: { message } }])
  }
})

t.test('shared work is done once a turn for each id, and again in the next turn', async t => {
  const batch = upperCase({ together: [], apart: [] })
  const done: string[] = []
  const get = (id: string) => batch.share(id, async () => `${id}${done.push(id)}`)
  t.same([await Promise.all([get('a'), get('b'), get('a')]), done], [['a1', 'b2', 'a1'], ['a', 'b']])
  await nextTurn()
  t.same(await Promise.all([get('a'), get('a')]), ['a3', 'a3'])
})

t.test('shared work that fails rejects all callers of its turn, and no others', async t => {
  const batch = upperCase({ together: [], apart: [] })
  let fails = true
  const get = () => batch.share('a', async () => { if (fails) throw new Error('lost'); return 'a' })
  const results = await Promise.allSettled([get(), get()])
  t.same(results.map(({ status }) => status), ['rejected', 'rejected'])
  fails = false
  await nextTurn()
  t.equal(await get(), 'a')
})

t.test('a caller never gets a reply to what was sent before its call, even within one turn', async t => {
  let sent = 0
  const batch = upperCase({ together: [], apart: [] }, { async sendTogether () { return [String(++sent)] } })
  const get = () => batch.share('a', () => batch.add('a'))
  const early = get()
  t.equal(get(), early)
  batch.flush()
  t.same(await Promise.all([early, get()]), ['1', '2'])
})
