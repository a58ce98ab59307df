import { Cluster } from 'ioredis'
import t from 'tap'
import { startCluster, startRedis } from '../helpers/index.js'
import { connect } from '../helpers/lock/lock-app.js'
import { testLocks } from '../helpers/lock/lock-contract.js'

const cluster = await startCluster()
const nodes = await Promise.all([startRedis(), startRedis(), startRedis()])

testLocks(t, 'Cluster', t => {
  const client = new Cluster(cluster.startupNodes)
  t.teardown(() => client.disconnect())
  return { redis: client }
})
testLocks(t, 'quorum', t => ({ nodes: nodes.map(node => connect(t, node.url)) }))
