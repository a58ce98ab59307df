// For tests: whatever they start is stopped when the file's tests are over. Other scripts import the files themselves.
// With a teardown tap takes the file to be over when no test is under way, so there is no awaiting at the top level
// after the first t.test(): start servers before it or in a test.
import t from 'tap'
import { stopAll } from './registry.js'

t.teardown(stopAll)

export { startProxy } from './proxy.js'
export type { Proxy } from './proxy.js'
export { startCluster } from './redis-cluster.js'
export type { ClusterNode, RedisCluster, RedisClusterOptions } from './redis-cluster.js'
export { startSentinel } from './redis-sentinel.js'
export type { RedisSentinel, RedisSentinelOptions, SentinelNode } from './redis-sentinel.js'
export { startRedis } from './redis-server.js'
export type { RedisServer, RedisServerOptions } from './redis-server.js'
export { until } from './until.js'
