import Fastify from 'fastify'
import { Redis, type Cluster } from 'ioredis'
import * as suite from 'fastify-redis-suite'
import redis, { callRedis, circuitOf, clusterOf, defineScript, runScript, systemClock, type IoredisClient, type RedisPluginOptions } from 'fastify-redis-suite/redis'
import { expectError, expectType } from 'tsd'

const app = Fastify()

// A subpath's default export and the name in the main one are the same.
expectType<typeof suite.redis>(redis)

app.register(redis, { url: 'redis://localhost', prefix: 'shop', connectTimeout: '2s', commandTimeout: 500 })
// As a variable of the environment is.
app.register(redis, { url: process.env['REDIS_URL'] })
app.register(redis, { cluster: { nodes: [{ host: 'a', port: 7000 }] }, namespace: 'second' })
// What ioredis takes, its types say.
app.register(redis, { sentinels: [{ host: 'a', port: 26379 }], name: 'mymaster', tls: {} })
app.register(redis, { client: new Redis({ lazyConnect: true }), closeClient: true })

expectError(app.register(redis, { uri: 'redis://localhost' }))
expectError(app.register(redis, { cluster: 'redis://localhost' }))
expectError(app.register(redis, { required: 'yes' }))
expectError<RedisPluginOptions>({ connectTimeout: new Date() })

expectType<Promise<string | null>>(app.redis.get('key'))
expectType<Cluster | undefined>(clusterOf(app.redis))
circuitOf(app.redis)

expectType<Promise<string | null>>(callRedis(app, redis => redis.get('key')))
expectType<Promise<number>>(callRedis(app, redis => { expectType<IoredisClient>(redis); return redis.incr('key') }, { timeout: '50ms', patient: true, nodeOf: 'key', clock: systemClock }))
expectType<Promise<'OK'>>(callRedis(app, redis => redis.set('key', 'value', 'EX', 60), { client: app.redis.second }))
callRedis(Fastify({ http2: true }), redis => redis.ping())
app.get('/', async request => await callRedis(request.server, redis => redis.get('key')))
expectError(callRedis(app, redis => redis.get('key'), { timeOut: 50 }))
expectError(callRedis(app.redis, redis => redis.get('key')))

const takeStock = defineScript({
  keys: ['stock'],
  args: { amount: 'number', buyer: 'string' },
  lua: "return redis.call('DECRBY', stock, amount)",
  reply: left => left === null ? undefined : Number(left)
})
expectType<Promise<number | undefined>>(runScript(app, takeStock, { stock: 'stock:7' }, { amount: 2, buyer: 'ann' }))
runScript(app, takeStock, { stock: 'stock:7' }, { amount: 2, buyer: Buffer.of(1) }, { timeout: 50 })
// Each key and argument of the definition, and no other one, of its type.
expectError(runScript(app, takeStock, {}, { amount: 2, buyer: 'ann' }))
expectError(runScript(app, takeStock, { stock: 'stock:7', other: 'x' }, { amount: 2, buyer: 'ann' }))
expectError(runScript(app, takeStock, { stock: 'stock:7' }))
expectError(runScript(app, takeStock, { stock: 'stock:7' }, { amount: 2 }))
expectError(runScript(app, takeStock, { stock: 'stock:7' }, { amount: '2', buyer: 'ann' }))
expectError(runScript(app, takeStock, { stock: 'stock:7' }, { amount: 2, buyer: 'ann', count: 1 }))
// A script without arguments and without a conversion of its reply.
const count = defineScript({ keys: ['counter'], lua: "return redis.call('INCR', counter)", time: true })
expectType<Promise<unknown>>(runScript(app, count, { counter: 'visits' }))
runScript(app, count, { counter: 'visits' }, {}, { timeout: '50ms' })
expectError(defineScript({ keys: [], lua: 'return 1' }))
expectError(defineScript({ keys: ['a'], args: { b: 'integer' }, lua: 'return 1' }))
expectError(defineScript({ keys: ['a'] }))
