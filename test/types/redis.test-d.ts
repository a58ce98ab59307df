import Fastify from 'fastify'
import { Redis, type Cluster } from 'ioredis'
import * as suite from 'fastify-redis-suite'
import redis, { circuitOf, clusterOf, type RedisPluginOptions } from 'fastify-redis-suite/redis'
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
