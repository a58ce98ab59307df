import fastifyRedis from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import { Cluster, Redis, type ClusterNode } from 'ioredis'
import { isCluster, type IoredisClient } from '../../shared/redis/clients/ioredis.js'
import { sleep, type Clock } from '../../shared/plugin/clock.js'
import { isReadonly } from '../../shared/plugin/errors.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { connectError, connectFailureOf, isDatabaseRefusal, isFinal } from '../errors.js'
import type { ResolvedRedisOptions } from '../options.js'
import type { Driver } from './driver.js'
import { reconnectOnReadonly } from './reconnect-on-readonly.js'

const CONNECTION_CLOSED = 'Connection is closed.'

/** Clients of ioredis, which `@fastify/redis` decorates the app with. */
export const ioredisDriver: Driver<IoredisClient> = {
  optionNames: Object.keys(Object(Reflect.get(Redis, 'defaultOptions'))),
  create,
  addressOf,
  waitUntilReady,
  close,
  disconnect,
  decorate
}

/** Creates a client, which does not connect yet. */
function create ({ target: { url, redis, cluster }, clock }: ResolvedRedisOptions): IoredisClient {
  if (cluster) {
    const client = pipelineWithoutWaiting(new Cluster(cluster.nodes, cluster.options))
    startupNodes.set(client, cluster.nodes.map(nodeAddress).join(', '))
    return client
  }
  const client = url === undefined ? new Redis(redis) : new Redis(url, redis)
  client.options.reconnectOnError ??= onReadonly(client, clock)
  refuseOtherDatabase(client)
  return pipelineWithoutWaiting(client)
}

/** @returns the option `reconnectOnError` of the client */
function onReadonly (client: Redis, clock: Clock): (error: Error) => false {
  const refused = reconnectOnReadonly({
    roleOfNew: () => roleOfNew(client),
    roleOfOwn: () => client.role(),
    reconnect () { if (client.status === 'ready') client.disconnect(true) }
  }, clock)
  return error => {
    if (isReadonly(error)) refused()
    return false
  }
}

async function roleOfNew (client: Redis): Promise<unknown> {
  const connection = client.duplicate({ lazyConnect: true, retryStrategy: () => null, reconnectOnError: null })
  // The client itself logs the errors of connections.
  connection.on('error', () => {})
  try {
    await connection.connect()
    return await connection.role()
  } finally {
    connection.disconnect()
  }
}

/**
 * Closes a connection whose database the server refuses: ioredis would use database 0, which has other data. The client
 * reconnects, as another server may have the database.
 */
function refuseOtherDatabase (client: Redis): void {
  client.on('error', (error: Error) => { if (isDatabaseRefusal(error)) client.stream.destroy() })
}

/**
 * Has ioredis send the commands of each turn of the event loop when the turn ends. Its automatic pipelines wait until
 * the replies to the last ones are there, so that most commands take two round trips. ioredis has no option for that,
 * only a private set of the pipelines in flight. A version without that set is left as it is.
 */
function pipelineWithoutWaiting<T extends IoredisClient> (client: T): T {
  const hasSet = client.options.enableAutoPipelining === true &&
    Reflect.get(client, '_runningAutoPipelines') instanceof Set
  if (hasSet) Reflect.set(client, '_runningAutoPipelines', new AlwaysEmptySet())
  return client
}

class AlwaysEmptySet extends Set<string> {
  override has (): boolean {
    return false
  }

  override add (): this {
    return this
  }
}

/**
 * Waits until the client is ready.
 *
 * @throws `FST_REDIS_SUITE_REDIS_CONNECT_<KIND>` after `timeout`, or at once if waiting cannot help
 */
async function waitUntilReady (client: IoredisClient, timeout: Milliseconds, clock: Clock): Promise<void> {
  if (client.status === 'ready') return
  if (client.status === 'wait') client.connect().catch(() => {})
  if (client.status === 'end') throw connectError('ENDED', addressOf(client), undefined)
  let lastError: Error | undefined
  let stop = () => {}
  const failure = () => connectError(connectFailureOf(lastError), addressOf(client), lastError)

  const ready = new Promise<void>((resolve, reject) => {
    let hasAsked = false
    const fail = () => { reject(failure()) }
    const onError = (error: Error) => {
      // A closed connection is a consequence of an error before.
      if (lastError === undefined || error.message !== CONNECTION_CLOSED) lastError = error
      if (isFinal(connectFailureOf(lastError))) fail()
    }
    const onNodeError = (error: Error, address: string) => {
      onError(error)
      if (hasAsked || !isCluster(client)) return
      hasAsked = true
      errorOfNode(client, address).then(onError, () => {})
    }
    // The errors of a Cluster only summarize those of its nodes.
    const onSummary = isCluster(client) ? () => {} : onError
    client.on('ready', resolve).on('error', onSummary).on('node error', onNodeError).on('end', fail)
    stop = () => {
      client.off('ready', resolve).off('error', onSummary).off('node error', onNodeError).off('end', fail)
    }
  })
  // The delay of an app that is busy while it boots does not count as one of Redis.
  await withDeadline(ready, timeout, failure, clock).finally(stop)
}

/** Connects to a node to find out why a Cluster has lost it: the Cluster reports only that the connection is closed. */
function errorOfNode (cluster: Cluster, address: string): Promise<Error> {
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

/**
 * Sends the commands that are queued, waits for their replies, and closes the connection, at the latest after
 * `timeout`.
 */
async function close (client: IoredisClient, timeout: Milliseconds, clock: Clock): Promise<void> {
  if (client.status !== 'ready') return disconnect(client)
  const giveUp = new AbortController()
  try {
    await withDeadline(quit(client, giveUp.signal, clock), timeout, () => new Error('no answer in time'), clock)
  } catch {
    giveUp.abort()
    // Only here: for a connection that has ended ioredis would wait once more, and keep the process alive.
    client.disconnect()
  }
}

/**
 * Closes the connection at once. A Cluster that is about to be ready would become so after it was closed, and its timer
 * would keep the process alive.
 */
function disconnect (client: IoredisClient): void {
  if (isCluster(client) && client.status !== 'ready') client.once('ready', () => client.disconnect())
  client.disconnect()
}

async function quit (client: IoredisClient, signal: AbortSignal, clock: Clock): Promise<void> {
  const ended = new Promise<void>(resolve => client.once('end', resolve))
  // QUIT would overtake the commands that wait in a pipeline.
  while (client.autoPipelineQueueSize > 0 && !signal.aborted) await sleep(clock, 2)
  await client.quit().catch(() => {})
  await ended
}

/** Returns the address that the client connects to, without user and password. */
function addressOf (client: IoredisClient): string {
  if (isCluster(client)) return `cluster at ${clusterNodes(client)}`
  const { sentinels, name, path, host, port } = client.options
  if (sentinels) return `master "${name}" of the Sentinels at ${sentinels.map(s => `${s.host}:${s.port}`).join(', ')}`
  return path ?? `${host}:${port}`
}

const startupNodes = new WeakMap<Cluster, string>()

function clusterNodes (cluster: Cluster): string {
  return startupNodes.get(cluster) ??
    cluster.nodes('all').map(node => `${node.options.host}:${node.options.port}`).join(', ')
}

function nodeAddress (node: ClusterNode): string {
  if (typeof node === 'number') return `localhost:${node}`
  if (typeof node === 'object') return `${node.host ?? 'localhost'}:${node.port ?? 6379}`
  // User and password are removed from any text.
  return node.replace(/^\w+:\/\//, '').replace(/^.*@/, '').replace(/[/?#].*$/, '')
}

/** @param client - `@fastify/redis` would wait for one that is not ready until the boot times out */
async function decorate (
  fastify: FastifyInstance, client: IoredisClient, namespace: string | undefined
): Promise<boolean> {
  if (client.status !== 'ready') return false
  await fastify.register(fastifyRedis, { client, namespace } as object)
  return true
}
