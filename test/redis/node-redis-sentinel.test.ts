import { EventEmitter } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { createSentinel, ErrorReply, type RedisSentinelType } from 'redis'
import t, { type Test } from 'tap'
import { cache } from '../../plugins/cache/index.js'
import { events } from '../../plugins/events/index.js'
import { lock } from '../../plugins/lock/index.js'
import { callRedis, redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { SentinelPort } from '../../plugins/shared/redis/clients/node-redis/sentinel.js'
import type { Subscriber } from '../../plugins/shared/redis/port.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { newPrefix, startProxy, startRedis, startSentinel, until } from '../helpers/index.js'

const set = await startSentinel()
const addresses = set.sentinels.map(({ host, port }) => ({ host, port }))
const made: RedisPluginOptions = { driver: 'node-redis', sentinels: addresses, name: set.name }

async function boot (t: Test, options: RedisPluginOptions, log = collectLog()): Promise<FastifyInstance> {
  const app = Fastify({ loggerInstance: log.logger as never }) as never as FastifyInstance
  t.teardown(() => app.close())
  await app.register(redis, { prefix: newPrefix(), ...options })
  return app
}

async function open (t: Test, options = {}): Promise<RedisSentinelType> {
  const client = createSentinel({ sentinelRootNodes: addresses, name: set.name, reserveClient: true, masterPoolSize: 2, ...options })
  client.on('error', () => {})
  await client.connect()
  t.teardown(async () => { if (client.isOpen) await client.destroy() })
  return client as RedisSentinelType
}

const write = async (app: FastifyInstance, key: string) =>
  await callRedis(app, (client: RedisSentinelType) => client.set(key, 'value'), { timeout: '5s' })

const channelsOf = async (): Promise<string[]> => (await set.master()).client().pubsub('CHANNELS', '*') as Promise<string[]>

t.teardown(() => set.stop())

t.test('the plugin makes a client that is led to the master, and closes it with the app', async t => {
  const app = await boot(t, made)
  const key = newPrefix()
  t.equal(await write(app, key), 'OK')
  t.equal(await (await set.master()).client().get(key), 'value')
  await app.close()
  t.equal((app.redis as never as RedisSentinelType).isOpen, false)
})

t.test('a given client is used by all plugins, and left open', async t => {
  const client = await open(t)
  for (const options of [{ client }, undefined]) {
    const app = Fastify()
    const given = options ? {} : { redis: client }
    if (options) await app.register(redis, options)
    await app.register(cache, { ...given, prefix: newPrefix() })
    await app.register(lock, { ...given, prefix: newPrefix() })
    await app.register(events, { ...given, prefix: newPrefix() })
    const heard: unknown[] = []
    await app.events.subscribe('news', message => { heard.push(message) })
    await app.cache.set('key', 'value', { ttl: '1m' })
    t.equal(await app.cache.get('key'), 'value')
    t.equal(await app.locks.using('a', () => 'inside'), 'inside')
    await app.events.publish('news', 'hello')
    await until('the message arrives', () => heard.length === 1)
    await app.close()
    t.equal(await client.ping(), 'PONG')
  }
})

t.test('commands of the app and of the plugins do not wait for each other, also where the client lends one connection', async t => {
  const client = await open(t, { reserveClient: false, masterPoolSize: 1 })
  const app = await boot(t, { client })
  await app.register(cache, { l1: false, timeout: '5s' })
  const turn = async (i: number) => {
    await app.cache.set(`k${i}`, i, { ttl: '1m' })
    return await app.cache.get(`k${i}`)
  }
  const numbers = Array.from({ length: 300 }, (_, i) => i)
  const [values, replies] = await Promise.all([
    Promise.all(numbers.map(turn)), Promise.all(numbers.map(() => client.ping()))
  ])
  t.same(values, numbers)
  t.same(new Set(replies), new Set(['PONG']))
})

t.test('another database than 0 is known with a reserved connection, or if the plugin redis has the client, and is refused otherwise', async t => {
  const inDatabase = { nodeClientOptions: { database: 1 } }
  t.equal(portOf(await open(t, inDatabase)).database, 1)
  const notReserved = { ...inDatabase, reserveClient: false, masterPoolSize: 1 }
  const app = await boot(t, { client: await open(t, notReserved) })
  await app.register(events)
  await app.events.subscribe('news', () => {})
  await until('the channel has the database', async () => (await channelsOf()).some(channel => channel.includes('@1')))
  const port = portOf(await open(t, notReserved))
  t.equal(port.database, 0)
  const refusal = { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION', message: /option "client" must be given to the plugin redis.*, but was one of createSentinel with database 1/ }
  await t.rejects(port.send('ping', []), refusal)
  await t.rejects(port.send('ping', []), refusal)
})

t.test('connections that the client lends in turn are one server: subscriptions stay, and listeners do not pile up', async t => {
  const client = await open(t, { reserveClient: false, masterPoolSize: 2 })
  const port = portOf(client)
  await port.send('ping', [])
  let ended = 0
  const subscriber = await new Promise<Subscriber>(resolve => {
    const opened = port.subscriber({ ready: () => resolve(opened!), message () {}, ended: () => { ended++ } })
  })
  t.teardown(() => subscriber.close())
  const used = new Set<object>()
  const { socket, received } = port
  for (let i = 0; i < 30; i++) {
    await port.send('ping', [])
    await new Promise(resolve => setImmediate(resolve))
    if (i % 2 === 0) await client._execute(false, async master => { used.add(master) })
  }
  t.equal(used.size, 2)
  t.same([...used].map(each => (each as EventEmitter).listenerCount('reconnecting') <= 2), [true, true])
  t.equal(port.socket, socket)
  t.equal(port.received, received + 30)
  t.equal(ended, 0)
  t.ok(subscriber.isReady)
})

t.test('a lent connection that has given up reconnecting is connected again, while another one to the master is ready', async t => {
  const app = await boot(t, { ...made, connectionName: 'lent' })
  const port = portOf(app.redis)
  await port.send('echo', ['hello'])
  const server = (await set.master()).client()
  const clients = String(await server.call('CLIENT', 'LIST')).trim().split('\n')
  const lent = clients.find(line => line.includes('name=lent ') && line.includes('cmd=echo'))!
  let giveUps = 0
  const client = app.redis as never as RedisSentinelType
  client.on('error', error => { if (String(error).includes('max number of clients')) giveUps++ })
  await server.config('SET', 'maxclients', clients.length - 1)
  await server.call('CLIENT', 'KILL', 'ID', /id=(\d+)/.exec(lent)![1]!)
  await until('it gives up', () => giveUps > 0)
  await server.config('SET', 'maxclients', 10_000)
  await until('commands are sent again', async () => await port.send('ping', []).catch(() => undefined) === 'PONG')
  await app.close()
  await until('none is left', async () => !String(await server.call('CLIENT', 'LIST')).includes('name=lent '))
})

t.test('a client that has not connected yet has not ended for the plugins', async t => {
  const port = portOf(createSentinel({ sentinelRootNodes: addresses, name: set.name }))
  port.on('end', () => t.fail('ended'))
  await t.rejects(port.send('ping', []), { message: /no master/ })
  t.equal(port.status, 'wait')
})

t.test('a command that was refused by a replica is rejected in time if the Sentinels do not reply', async t => {
  const master = Object.assign(new EventEmitter(), { isOpen: true, isReady: true, sendCommand: async () => { throw new ErrorReply('READONLY') } })
  const client = Object.assign(new EventEmitter(), {
    isOpen: true,
    getMasterNode: () => undefined,
    _execute: async (_isReadonly: boolean, call: (lent: unknown) => Promise<unknown>) => {
      await call(master).catch(() => {})
      await new Promise(() => {})
    }
  })
  await t.rejects(new SentinelPort(client as never).send('set', ['key', 'value']), { message: /no master/ })
})

t.test('an unknown name, a wrong password of the Sentinels, and none that listens fail the boot', async t => {
  const locked = await startRedis({ password: 'a-password' })
  const cases: Array<[options: RedisPluginOptions, kind: string]> = [
    [{ ...made, name: 'another', connectTimeout: 500 }, 'FAILED'],
    [{ ...made, sentinels: [{ host: '127.0.0.1', port: 1 }], connectTimeout: 500 }, 'REFUSED'],
    [{ ...made, sentinels: [{ host: '127.0.0.1', port: locked.port }], sentinelPassword: 'wrong', connectTimeout: '1m' }, 'AUTH']
  ]
  for (const [options, kind] of cases) {
    await t.rejects(boot(t, options), { code: `FST_REDIS_SUITE_REDIS_CONNECT_${kind}` }, kind)
  }
})

t.test('an app that boots without Sentinels uses them when they come', async t => {
  const proxy = await startProxy(1)
  const log = collectLog()
  const app = await boot(t, { ...made, sentinels: [{ host: proxy.host, port: proxy.port }], required: false, connectTimeout: 100 }, log)
  t.equal((app.redis as never as RedisSentinelType).isReady, false)
  proxy.target(addresses[0]!.port)
  await until('the master is used', async () => await write(app, newPrefix()).catch(() => undefined) === 'OK')
  t.same(log.lines.map(line => String(line['msg'])).filter(msg => msg.includes('connect')), ['redis: cannot connect, trying again until it can', 'redis: connected'])
})

t.test('a client that its owner closes is not reported as a lost connection', async t => {
  for (const how of ['close', 'destroy'] as const) {
    const log = collectLog()
    const client = await open(t)
    await boot(t, { client }, log)
    const ended = new Promise<void>(resolve => portOf(client).on('end', resolve))
    await client[how]()
    await t.rejects(portOf(client).send('ping', []))
    await ended
    await new Promise(resolve => setTimeout(resolve, 150))
    t.same(log.lines.map(line => line['msg']).filter(msg => String(msg).includes('connection lost')), [], how)
  }
})

t.test('an app that closes while a Sentinel accepts connections and never replies keeps none of them', async t => {
  const sockets = new Set<Socket>()
  const hung = createServer(socket => { sockets.add(socket.resume().on('close', () => sockets.delete(socket)).on('error', () => {})) })
  await new Promise<void>(resolve => hung.listen(0, '127.0.0.1', resolve))
  t.teardown(() => { hung.close(); for (const socket of sockets) socket.destroy() })
  const app = await boot(t, {
    ...made, sentinels: [{ host: '127.0.0.1', port: (hung.address() as AddressInfo).port }], required: false, connectTimeout: 400
  })
  await until('it is asked', () => sockets.size > 0)
  await app.close()
  const client = app.redis as never as RedisSentinelType
  await until('the client is closed', () => !client.isOpen && sockets.size === 0, 4000)
  t.equal(client.isOpen, false)
})

t.test('after a failover, and after the death of a master, commands and messages reach the new one', async t => {
  const log = collectLog()
  const apps = await Promise.all([boot(t, { ...made, prefix: 'failover' }, log), boot(t, { client: await open(t), prefix: 'failover' })])
  const heard: unknown[] = []
  for (const app of apps) {
    await app.register(events)
    await app.register(lock)
    await app.events.subscribe('news', message => { heard.push(message) })
  }
  const isServed = async (app: FastifyInstance) => {
    const master = await set.master()
    const key = newPrefix()
    if (await write(app, key).catch(() => undefined) !== 'OK' || await master.client().get(key) !== 'value') return false
    heard.length = 0
    await app.events.publish('news', key).catch(() => {})
    await until('both hear it', () => heard.length === apps.length, 2000).catch(() => {})
    return heard.length === apps.length
  }
  const old = await set.failover()
  for (const app of apps) {
    await until('the new master serves', () => isServed(app), 20_000)
    t.equal(await app.locks.using('a', () => 'inside'), 'inside')
  }
  await old.kill()
  await until('a replica is the master', async () => await set.master() !== old, 20_000)
  for (const app of apps) await until('the next master serves', () => isServed(app), 20_000)
  const said = log.lines.map(line => String(line['msg']))
  t.ok(said.includes('redis: connection lost, reconnecting'))
  t.equal(said.at(-1), 'redis: connected')
})
