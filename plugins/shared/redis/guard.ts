import type { FastifyBaseLogger } from 'fastify'
import { CircuitBreaker, type CircuitStatus } from './circuit-breaker.js'
import type { RedisClient } from './client.js'
import { systemClock, type Clock } from '../plugin/clock.js'
import { NodeDownError, watchNodes, type ClusterNodes } from './cluster-nodes.js'
import { withDeadline } from './deadline.js'
import { isOutage, isReadonly, isWriteRefusal, pluginError, throwOutage, type PluginName } from '../plugin/errors.js'
import { Impatience, Patience, ProbeWatch, type ConnectionOf } from './patience.js'
import type { RedisPort } from './port.js'
import { Progress } from './progress.js'
import { tracedRedis } from '../plugin/tracing.js'
import type { Milliseconds } from '../plugin/units.js'

/** The deadline of one operation on Redis, unless a plugin has another. */
export const DEFAULT_TIMEOUT_MS = 150
/** The same over HTTP, where a first request makes a connection with TLS. */
const HTTP_TIMEOUT_MS = 1000
const FAILURE_THRESHOLD = 5
const PROBE_INTERVAL_MS = 250
const FLAP_WINDOW_MS = 10_000
const STABLE_MS = 1000
/** While the circuit is open for no longer, a patient operation waits for the first probe. */
const FIRST_PROBE_MS = 250
/** How often a patient operation is repeated after the client's own `commandTimeout`. */
const MAX_REPEATS = 2

/** Redis did not reply within the plugin's `timeout`. */
export const TimeoutError = pluginError('redis', 'TIMEOUT', 'no answer within %s ms', 503)
/** Redis failed several times in a row: the plugins use their fallbacks until a probe succeeds. */
export const CircuitOpenError = pluginError('redis', 'CIRCUIT_OPEN', 'not sent, as Redis is failing (%s)', 503)
/** The client was closed, and does not reconnect by itself. */
const ClientEndedError = pluginError('redis', 'CLIENT_ENDED',
  'the client was closed, by quit() or disconnect(), while plugins still use it', 503)

/**
 * Calls Redis for a plugin. All plugins share one policy on failure: a deadline for each operation, and a circuit
 * breaker for each client.
 */
export interface RedisGuard {
  /**
   * Runs an operation within the deadline. The caller uses its fallback if it rejects.
   *
   * @throws Redis's own error, `FST_REDIS_SUITE_REDIS_TIMEOUT`, or at once `FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN`
   */
  run<T> (operation: () => Promise<T>): Promise<T>
  /** Runs an operation that must not be repeated, as its second reply would differ. */
  runOnce<T> (operation: () => Promise<T>): Promise<T>
  readonly circuit: CircuitStatus
  /** Whether all keys are available: the circuit is closed, and each master of a Cluster is up. */
  readonly isWhole: boolean
  /** The last {@link CircuitBreaker.troubledAt}, or of a Cluster the last return of a master, if that was later. */
  readonly troubledAt: number
  /**
   * The number of connections lost. The client sends the commands in flight again, so that a later reply may be that of
   * a command which had been executed already.
   */
  readonly losses: number
}

export interface GuardOptions {
  /**
   * For a plugin that fails closed: while Redis is late but reachable, its operations wait longer than the deadline,
   * and are repeated after the client's own time-out. @default false
   */
  isPatient?: boolean
}

interface WatchedClient {
  circuit: CircuitBreaker
  progress: Progress
  /** Undefined for a single node. */
  nodes: ClusterNodes | undefined
  losses: number
}

// The plugins share the circuit of a client: each failure counts for all of them, and the log reports it once.
const watched = new WeakMap<RedisClient, WatchedClient>()

/** Returns the deadline of an operation, unless a plugin has another. */
export function defaultTimeout (client: RedisPort): Milliseconds {
  return client.isHttp ? HTTP_TIMEOUT_MS : DEFAULT_TIMEOUT_MS
}

/**
 * @param timeout - the deadline of an operation
 * @param plugin - for traces
 * @param clock - the clock of the deadline; the first plugin's is that of the circuit
 */
export function guardRedis (
  client: RedisPort, log: FastifyBaseLogger, timeout: Milliseconds = defaultTimeout(client),
  plugin: PluginName = 'redis', clock: Clock = systemClock, { isPatient = false }: GuardOptions = {}
): RedisGuard {
  const shared = watched.get(client.client) ?? watch(client, log, clock)
  const { circuit, progress, nodes } = shared
  const onTimeout = () => new TimeoutError(timeout)
  const refuse = () => new CircuitOpenError(circuit.lastError?.message)
  const ownConnection: ConnectionOf = () => client.topology === undefined ? client : undefined
  const impatience = nodes === undefined ? new Impatience(progress, ownConnection) : undefined

  // Each request calls it. An async function would cost two more microtasks.
  function ask<T> (operation: () => Promise<T>, repeats: number, before?: Patience): Promise<T> {
    if (!circuit.isClosed) {
      if (!isPatient) return Promise.reject(refuse())
      if (circuit.state === 'open') {
        return circuit.age < FIRST_PROBE_MS ? askWhenBack(operation, repeats) : Promise.reject(refuse())
      }
    }
    const observed = nodes?.observe(operation)
    const reply = observed?.reply ?? operation()
    const connectionOf = observed?.connectionOf ?? ownConnection
    const wait = isPatient
      ? new Patience(progress, circuit, connectionOf, before)
      : impatience ?? new Impatience(progress, connectionOf)
    return withDeadline(reply, timeout, onTimeout, clock, wait).then(
      result => {
        if (wait.isExtended) circuit.lateSuccess()
        else circuit.success()
        return result
      },
      (error: unknown) => {
        if (error instanceof NodeDownError) throw error
        if (wait instanceof Patience && repeats > 0 && isCommandTimeout(error) && !wait.isUsedUp &&
          circuit.state !== 'open') {
          return ask(operation, repeats - 1, wait)
        }
        const reason = client.status === 'end' && isOutage(error) ? new ClientEndedError() : error
        judge(reason, connectionOf, wait.isUsedUp || (wait.isExtended && isCommandTimeout(error)))
        throw reason
      })
  }

  function judge (error: unknown, connectionOf: ConnectionOf, isInVain: boolean): void {
    if (isOutage(error)) {
      progress.fail(connectionOf())
      if (isInVain) circuit.waitedInVain()
      circuit.failure(error)
      nodes?.suspect()
    } else if (isWriteRefusal(error)) circuit.refusal()
    else circuit.success()
    if (isMoved(error)) nodes?.moved()
    if (isReadonly(error)) client.onReadonly?.()
  }

  /** The failure that has just opened the circuit may be over with the first probe. */
  async function askWhenBack<T> (operation: () => Promise<T>, repeats: number): Promise<T> {
    await withDeadline(circuit.whenBack(), Math.min(timeout, defaultTimeout(client)), refuse, clock)
    return await ask(operation, repeats)
  }

  return {
    run: operation => tracedRedis(plugin, operation, traced => ask(traced, MAX_REPEATS)),
    runOnce: operation => tracedRedis(plugin, operation, traced => ask(traced, 0)),
    get circuit () { return circuit.status },
    get isWhole () { return circuit.isClosed && nodes?.isWhole !== false },
    get troubledAt () { return Math.max(circuit.troubledAt, nodes?.returnedAt ?? -Infinity) },
    get losses () { return shared.losses }
  }
}

/** Returns the state of a client's circuit; undefined if no plugin has used the client yet. */
export function circuitOf (client: RedisClient): CircuitStatus | undefined {
  return watched.get(client)?.circuit.status
}

/** Ends the probes of a client that is about to be closed. */
export function releaseCircuit (client: RedisClient): void {
  const { circuit, nodes } = watched.get(client) ?? {}
  circuit?.stop()
  nodes?.stop()
  watched.delete(client)
}

const MESSAGES = {
  closed: 'redis: circuit closed, Redis is used again',
  late: 'redis: replies are late, plugins that fail open use their fallbacks, those that fail closed wait longer',
  open: 'redis: circuit open, plugins use their fallbacks'
}

function watch (client: RedisPort, log: FastifyBaseLogger, clock: Clock): WatchedClient {
  const progress = new Progress(clock)
  const nodes = watchNodes(client, log, DEFAULT_TIMEOUT_MS, progress, clock)
  const circuit = new CircuitBreaker({
    clock,
    threshold: FAILURE_THRESHOLD,
    probeInterval: PROBE_INTERVAL_MS,
    flapWindow: FLAP_WINDOW_MS,
    stableFor: STABLE_MS,
    probe: async () => await probe(client, watchedClient, clock),
    isStall: error => isLate(error) && client.status === 'ready' && progress.isAlive,
    onChange: ({ state, opened, lastError }) => {
      // Not the error itself: an error of ioredis has the command's arguments, which may be secret.
      const fields = { plugin: 'redis', circuit: state, opened }
      if (state === 'closed') log.info(fields, MESSAGES.closed)
      else log.warn({ ...fields, reason: lastError?.message }, MESSAGES[state])
    }
  })
  const watchedClient: WatchedClient = { circuit, progress, nodes, losses: 0 }
  let isUp = client.status === 'ready'
  client.on('ready', () => {
    isUp = true
    circuit.probeNow()
  })
  client.on('close', () => {
    // A failed attempt to reconnect is not a second loss.
    if (isUp) watchedClient.losses++
    isUp = false
    circuit.disturbed()
  })
  client.on('nodeRemoved', () => { watchedClient.losses++ })
  watched.set(client.client, watchedClient)
  return watchedClient
}

/**
 * Sends a PING, if the connection is ready: otherwise PINGs would pile up in the client's queue.
 *
 * @returns whether the reply was in time. A late reply succeeds as well
 */
async function probe (
  client: RedisPort, { circuit, progress, nodes }: WatchedClient, clock: Clock
): Promise<boolean> {
  if (client.status === 'end') throw new ClientEndedError()
  if (client.status !== 'ready') throw new Error(`the connection is not ready (state "${client.status}")`)
  if (client.topology !== undefined) {
    await nodes?.check()
    return true
  }
  // A refusal (ACL) is a reply.
  const reply = client.send('ping', []).catch(throwOutage)
  const wait = new ProbeWatch(progress, circuit, client)
  const timeout = defaultTimeout(client)
  await withDeadline(reply, timeout, () => new TimeoutError(timeout), clock, wait).catch(() => {})
  await reply
  return !wait.isLate
}

/** Whether no reply arrived, as from a server that is late or hangs. A lost connection is another failure. */
function isLate (error: unknown): boolean {
  return error instanceof TimeoutError || isCommandTimeout(error)
}

/** Whether the client's `commandTimeout` ended a command. It counts a stall of this process as well. */
function isCommandTimeout (error: unknown): boolean {
  return error instanceof Error && error.message === 'Command timed out'
}

function isMoved (error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('MOVED ')
}
