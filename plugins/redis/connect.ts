import { Cluster, Redis, type ClusterNode } from 'ioredis'
import { isCluster, type RedisClient } from '../shared/redis/client.js'
import { sleep, type Clock } from '../shared/plugin/clock.js'
import { withDeadline } from '../shared/redis/deadline.js'
import { sendEachTurn } from './each-turn.js'
import { connectError, connectFailureOf, isDatabaseRefusal, isFinal } from './errors.js'
import { followMaster } from './reconnect-on-readonly.js'
import type { ResolvedRedisOptions } from './options.js'

const CONNECTION_CLOSED = 'Connection is closed.'

/** Makes a client that has not begun to connect. */
export function createClient ({ target: { url, redis, cluster }, clock }: Pick<ResolvedRedisOptions, 'target' | 'clock'>): RedisClient {
  if (cluster) return sendEachTurn(new Cluster(cluster.nodes, cluster.options))
  const client = url === undefined ? new Redis(redis) : new Redis(url, redis)
  client.options.reconnectOnError ??= followMaster(client, clock)
  refuseOtherDatabase(client)
  return sendEachTurn(client)
}

/**
 * ioredis goes on where the server refuses the database of a new connection, and would then use database 0, where other data is. So the
 * connection is given up, and nothing is sent over it; it is made anew, as another server may have that database.
 */
function refuseOtherDatabase (client: Redis): void {
  client.on('error', (error: Error) => { if (isDatabaseRefusal(error)) client.stream.destroy() })
}

/**
 * Waits until the client is ready.
 *
 * @throws `FST_REDIS_SUITE_REDIS_CONNECT_<KIND>` after `timeout` milliseconds, or at once where waiting cannot help
 */
export async function waitUntilReady (client: RedisClient, timeout: number, clock: Clock): Promise<void> {
  if (client.status === 'ready') return
  if (client.status === 'end') throw connectError('ENDED', addressOf(client), undefined)
  let lastError: Error | undefined
  let stop = () => {}
  const failure = () => connectError(connectFailureOf(lastError), addressOf(client), lastError)

  const ready = new Promise<void>((resolve, reject) => {
    let asked = false
    const fail = () => { reject(failure()) }
    const onError = (error: Error) => {
      // That a connection is closed only follows from what was told before.
      if (lastError === undefined || error.message !== CONNECTION_CLOSED) lastError = error
      if (isFinal(connectFailureOf(lastError))) fail()
    }
    const onNodeError = (error: Error, address: string) => {
      onError(error)
      if (asked || !isCluster(client)) return
      asked = true
      askNode(client, address).then(onError, () => {})
    }
    // A Cluster's own errors only sum its nodes' errors up.
    const onSummary = isCluster(client) ? () => {} : onError
    client.on('ready', resolve).on('error', onSummary).on('node error', onNodeError).on('end', fail)
    stop = () => { client.off('ready', resolve).off('error', onSummary).off('node error', onNodeError).off('end', fail) }
  })
  // An app that is busy while it boots does not take its own delay for that of Redis.
  await withDeadline(ready, timeout, failure, clock).finally(stop)
}

/** A Cluster tells of a node only that its connection is closed. A connection of our own says why. */
function askNode (cluster: Cluster, address: string): Promise<Error> {
  const at = address.lastIndexOf(':')
  const node = new Redis({
    ...cluster.options.redisOptions,
    host: address.slice(0, at),
    port: Number(address.slice(at + 1)),
    lazyConnect: true,
    retryStrategy: () => null
  })
  return new Promise((resolve, reject) => {
    node.on('error', resolve).once('end', reject)
    node.connect().then(() => { node.disconnect() }, () => {})
  })
}

/** Begins to connect; the outcome is told by the client's events. */
export function beginConnecting (client: RedisClient): void {
  if (client.status === 'wait') client.connect().catch(() => {})
}

/** Sends what is queued, waits for the answers, then closes; after `timeout` milliseconds the connection is cut. */
export async function closeClient (client: RedisClient, timeout: number, clock: Clock): Promise<void> {
  if (client.status !== 'ready') return client.disconnect()
  const giveUp = new AbortController()
  try {
    await withDeadline(quit(client, giveUp.signal, clock), timeout, () => new Error('no answer in time'), clock)
  } catch {
    giveUp.abort()
    // Not where the connection has ended: ioredis would wait for that once more, and the process with it.
    client.disconnect()
  }
}

async function quit (client: RedisClient, signal: AbortSignal, clock: Clock): Promise<void> {
  const ended = new Promise<void>(resolve => client.once('end', resolve))
  // QUIT would overtake the commands that wait for their pipeline.
  while (client.autoPipelineQueueSize > 0 && !signal.aborted) await sleep(clock, 2)
  await client.quit().catch(() => {})
  await ended
}

/** Where the client connects to, without user and password. */
export function addressOf (client: RedisClient): string {
  if (isCluster(client)) return `cluster at ${clusterNodes(client)}`
  const { sentinels, name, path, host, port } = client.options
  if (sentinels) return `master "${name}" of the Sentinels at ${sentinels.map(s => `${s.host}:${s.port}`).join(', ')}`
  return path ?? `${host}:${port}`
}

const startupNodes = new WeakMap<Cluster, string>()

export function rememberNodes (client: RedisClient, nodes: readonly ClusterNode[] | undefined): void {
  if (isCluster(client) && nodes) startupNodes.set(client, nodes.map(nodeAddress).join(', '))
}

function clusterNodes (cluster: Cluster): string {
  return startupNodes.get(cluster) ?? cluster.nodes('all').map(node => `${node.options.host}:${node.options.port}`).join(', ')
}

function nodeAddress (node: ClusterNode): string {
  if (typeof node === 'number') return `localhost:${node}`
  if (typeof node === 'object') return `${node.host ?? 'localhost'}:${node.port ?? 6379}`
  // Without user and password, whatever else the text is.
  return node.replace(/^\w+:\/\//, '').replace(/^.*@/, '').replace(/[/?#].*$/, '')
}
