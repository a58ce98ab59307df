import { sleep, systemClock, type Clock } from '../../shared/plugin/clock.js'
import { importPackage } from '../../shared/plugin/optional-packages.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { destroy, detailed, type NodeRedis, type NodeRedisClient } from '../../shared/redis/clients/node-redis/index.js'
import { portOf } from '../../shared/redis/client.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { connectError, connectFailureOf, isFinal } from '../errors.js'
import { reconnectDelay, type ResolvedRedisOptions } from '../options.js'
import type { Driver } from './driver.js'
import { reconnectOnReadonly } from './reconnect-on-readonly.js'

/** The functions of the package `redis` that are used. */
interface Library {
  createClient (options: object): unknown
  createCluster (options: object): unknown
}

/**
 * Loads the driver of node-redis.
 *
 * @param creates - whether a client is to be created, for which the package is needed
 * @throws `FST_REDIS_SUITE_REDIS_MISSING_PACKAGE`
 */
export async function loadNodeRedisDriver (creates: boolean): Promise<Driver<NodeRedis>> {
  const library = creates ? await load() : undefined
  return {
    optionNames: [],
    create: options => create(library!, options),
    addressOf,
    waitUntilReady,
    close,
    disconnect,
    decorate: async () => false
  }
}

async function load (): Promise<Library> {
  const { createClient, createCluster } = await importPackage('redis', 'redis', () => import('redis'))
  return { createClient, createCluster } as Library
}

function create (library: Library, options: ResolvedRedisOptions): NodeRedis {
  const { target: { url, redis, cluster }, commandTimeout, connectTimeout, clientOptions } = options
  const { host, port, path, tls, family, username, password, db, connectionName } = redis
  const pingInterval = Math.max(connectTimeout, 2 * commandTimeout)
  const common = {
    username,
    password,
    name: connectionName,
    commandOptions: { timeout: commandTimeout },
    pingInterval,
    ...clientOptions,
    socket: {
      ...host !== undefined && { host },
      ...port !== undefined && { port },
      ...path !== undefined && { path },
      ...family !== undefined && { family },
      ...tls !== undefined && { ...tls, tls: true },
      connectTimeout,
      // A connection without replies (half-open, or a hung server) is replaced: a PING keeps an idle one busy.
      socketTimeout: 2 * pingInterval,
      reconnectStrategy: (retries: number) => reconnectDelay(retries + 1),
      ...Object(clientOptions?.['socket'])
    }
  }
  if (cluster !== undefined) {
    return library.createCluster({
      rootNodes: cluster.nodes.map(node => ({ url: urlOf(node) })), defaults: common
    }) as NodeRedis
  }
  const client = library.createClient({
    ...url !== undefined && { url: tls === undefined ? url : url.replace(/^redis:/, 'rediss:') },
    ...db !== undefined && { database: db },
    ...common
  }) as NodeRedisClient
  portOf(client).onReadonly = reconnectOnReadonly({
    roleOfNew: () => roleOfNew(client),
    // The server closes the connection after the replies to all commands before.
    reconnect () { client.sendCommand(['QUIT']).catch(() => {}) }
  }, options.clock)
  return client
}

async function roleOfNew (client: NodeRedisClient): Promise<unknown> {
  const socket = { ...client.options?.socket, reconnectStrategy: false }
  const connection = client.duplicate({ socket, pingInterval: undefined })
  // The client itself logs the errors of connections.
  connection.on('error', () => {})
  try {
    await connection.connect()
    return await connection.sendCommand(['ROLE'])
  } finally {
    destroy(connection)
  }
}

function urlOf (node: unknown): string {
  if (typeof node === 'string') return node.includes('://') ? node : `redis://${node}`
  if (typeof node === 'number') return `redis://localhost:${node}`
  const { host = 'localhost', port = 6379 } = node as { host?: string, port?: number }
  return `redis://${host.includes(':') ? `[${host}]` : host}:${port}`
}

function addressOf (client: NodeRedis): string {
  const { address, topology } = portOf(client)
  return topology === undefined ? address : `cluster at ${address}`
}

function isReady (client: NodeRedis): boolean {
  return portOf(client).status === 'ready'
}

async function waitUntilReady (given: NodeRedis, timeout: Milliseconds, clock: Clock): Promise<void> {
  if (isReady(given)) return
  const client = detailed(given)
  let lastError: Error | undefined
  const failure = (): Error => connectError(connectFailureOf(lastError), addressOf(client), lastError)
  let stop = (): void => {}
  const ready = new Promise<void>((resolve, reject) => {
    const onError = (error: Error): void => {
      lastError = error
      if (isFinal(connectFailureOf(error))) reject(failure())
    }
    client.on('ready', resolve).on('error', onError)
    stop = () => { client.off('ready', resolve).off('error', onError) }
    if (!client.isOpen) open(client).then(resolve, onError)
  })
  await withDeadline(ready, timeout, failure, clock).finally(stop)
}

/** Clients that are closed for good. */
const closed = new WeakSet<object>()

/** Connects. A client of a Cluster itself gives up after an attempt with each of its first nodes. */
async function open (client: ReturnType<typeof detailed>): Promise<void> {
  for (let attempt = 1; !closed.has(client); attempt++) {
    try {
      await client.connect()
      return
    } catch (error) {
      if (portOf(client).topology === undefined) throw error
      await sleep(systemClock, reconnectDelay(attempt), { ref: false })
    }
  }
}

async function close (given: NodeRedis, timeout: Milliseconds, clock: Clock): Promise<void> {
  const client = detailed(given)
  closed.add(client)
  if (!client.isOpen) return
  if (!isReady(client)) return disconnect(client)
  await withDeadline(client.close(), timeout, () => new Error('no answer in time'), clock)
    .catch(() => disconnect(client))
}

function disconnect (client: NodeRedis): void {
  closed.add(client)
  destroy(detailed(client))
}
