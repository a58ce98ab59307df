import { sleep, systemClock, type Clock } from '../../shared/plugin/clock.js'
import { throwOutage } from '../../shared/plugin/errors.js'
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
  createSentinel (options: object): unknown
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
  const { createClient, createCluster, createSentinel } = await importPackage('redis', 'redis', () => import('redis'))
  return { createClient, createCluster, createSentinel } as Library
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
  if (redis.sentinels !== undefined) return createSentinel(library, options, Object.assign(common, { database: db }))
  const client = library.createClient({
    ...url !== undefined && { url: tls === undefined ? url : url.replace(/^redis:/, 'rediss:') },
    ...db !== undefined && { database: db },
    ...common
  }) as NodeRedisClient
  portOf(client).onReadonly = reconnectOnReadonly({
    roleOfNew: () => roleOfNew(client),
    roleOfOwn: () => client.sendCommand(['ROLE']),
    // The server closes the connection after the replies to all commands before.
    reconnect () { client.sendCommand(['QUIT']).catch(() => {}) }
  }, options.clock)
  return client
}

/** @param ofMaster - the options of the client of the master */
function createSentinel (
  library: Library, { target: { redis }, connectTimeout }: ResolvedRedisOptions, ofMaster: { socket: object }
): NodeRedis {
  const { sentinels = [], name, natMap, sentinelUsername, sentinelPassword, sentinelTLS } = redis
  return library.createSentinel({
    name,
    sentinelRootNodes: sentinels.map(({ host = 'localhost', port = 26379 }) => ({ host, port })),
    ...natMap !== undefined && { nodeAddressMap: natMap },
    // The client itself looks for the master again where its connection cannot be replaced at once.
    nodeClientOptions: { ...ofMaster, socket: { ...ofMaster.socket, reconnectStrategy: reconnectOnce } },
    sentinelClientOptions: {
      username: sentinelUsername ?? undefined,
      password: sentinelPassword ?? undefined,
      // A Sentinel that accepts a connection and never replies is left for the next one, and keeps no closed app alive.
      pingInterval: Math.ceil(connectTimeout / 2),
      socket: {
        connectTimeout,
        socketTimeout: connectTimeout,
        ...sentinelTLS !== undefined && { ...sentinelTLS, tls: true }
      }
    },
    // Otherwise commands that are sent at the same time can wait for each other.
    reserveClient: true,
    masterPoolSize: 2,
    passthroughClientErrorEvents: true
  }) as NodeRedis
}

function reconnectOnce (retries: number): number | false {
  return retries === 0 && reconnectDelay(1)
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
  const client = detailed(given)
  if (isReady(client)) return await learnMaster(client)
  let lastError: Error | undefined
  const failure = (): Error => connectError(connectFailureOf(lastError), addressOf(client), lastError)
  let stop = (): void => {}
  const ready = new Promise<void>((resolve, reject) => {
    const onError = (error: unknown): void => {
      // A client of Sentinels also emits texts.
      if (!(error instanceof Error)) return
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

/**
 * Connects. A client of a Cluster gives up after an attempt with each of its first nodes, and one of Sentinels after 17
 * with all of them.
 */
async function open (client: ReturnType<typeof detailed>): Promise<void> {
  const isSingle = !('masters' in client || 'getMasterNode' in client)
  for (let attempt = 1; !closed.has(client); attempt++) {
    try {
      await client.connect()
      return await learnMaster(client)
    } catch (error) {
      if (isSingle) throw error
      destroy(client)
      // The attempts themselves take real time.
      await sleep(systemClock, reconnectDelay(attempt), { ref: false })
    }
  }
}

/** The port of a client of Sentinels knows its database, and reports its losses, after the first command. */
async function learnMaster (client: ReturnType<typeof detailed>): Promise<void> {
  if (!('getMasterNode' in client)) return
  await portOf(client).send('ping', []).catch(throwOutage)
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
