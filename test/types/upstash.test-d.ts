import { Redis } from '@upstash/redis'
import Fastify from 'fastify'
import { cache, events, redis } from 'fastify-redis-suite'
import { callRedis } from 'fastify-redis-suite/redis'
import { fromUpstash, type UpstashClient, type UpstashOptions } from 'fastify-redis-suite/upstash'
import { expectAssignable, expectError, expectNotAssignable, expectType } from 'tsd'

const app = Fastify()
const client = fromUpstash({ url: 'https://example.com', token: 'a', requestTimeout: '2s', enableTelemetry: false })

expectAssignable<Redis>(client)
expectAssignable<UpstashClient>(client)
expectType<Promise<number>>(client.incr('a'))
expectError(fromUpstash({ url: 'https://example.com' }))
expectError(fromUpstash())
expectNotAssignable<UpstashOptions>({ url: 'https://example.com', token: 'a', requestTimeout: true })

app.register(redis, { client })
app.register(cache, { redis: client, l1: { maxAge: '2s' } })
app.register(cache, { redis: client, l1: { maxAge: '2s', maxSize: 1024 ** 2 } })
app.register(cache, { redis: client, l1: false })
expectError(app.register(cache, { redis: client, l1: { maxSize: 1024 ** 2 } }))
app.register(events, { redis: client, subscriptions: false })
expectError(app.register(events, { redis: client, subscriptions: 'none' }))
expectType<Promise<number>>(callRedis(app, (redis: Redis) => redis.incr('a'), { client }))
