// Helpers for tests: they stop what they start when the tests of the file have ended. Other scripts import the files themselves. With a
// teardown, tap considers a file finished when no test is running, so there is no await at the top level after the first t.test(): start servers
// before it or in a test.
import t from 'tap'
import { endFile } from './app/end-file.js'

t.teardown(endFile)

export { advanceUntil, advanceWhile, closeApp, createTestApp, SECRET } from './app/test-app.js'
export type { TestApp, TestAppOptions } from './app/test-app.js'
export { openClient, openPort } from './app/driver.js'
export { ageKeys, forEachStore, mastersOf, newPrefix, openStore } from './app/store.js'
export type { StoreName, TestStore } from './app/store.js'
export { until } from './app/until.js'
export { startProxy } from '../../tools/servers/proxy.js'
export type { Proxy } from '../../tools/servers/proxy.js'
export { startCluster } from './servers/redis-cluster.js'
export type { ClusterNode, RedisCluster, RedisClusterOptions } from './servers/redis-cluster.js'
export { startSentinel } from './servers/redis-sentinel.js'
export type { RedisSentinel, RedisSentinelOptions, SentinelNode } from './servers/redis-sentinel.js'
export { startRedis } from './servers/redis-server.js'
export type { RedisServer, RedisServerOptions } from './servers/redis-server.js'
export { sharedCluster, sharedRedis } from './servers/shared.js'
export type { SharedCluster, SharedRedis } from './servers/shared.js'
