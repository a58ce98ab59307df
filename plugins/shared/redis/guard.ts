import type { FastifyBaseLogger } from 'fastify'
import { CircuitBreaker, type CircuitStatus } from './circuit-breaker.js'
import { isCluster, type RedisClient } from './client.js'
import { systemClock, type Clock } from '../plugin/clock.js'
import { nodeAsked, NodeDownError, watchNodes, type ClusterNodes } from './cluster-nodes.js'
import { withDeadline } from './deadline.js'
import { isOutage, pluginError, type PluginName } from '../plugin/errors.js'
import { Impatience, Patience, ProbeWatch, type ConnectionOf } from './patience.js'
import { Progress } from './progress.js'
import { tracedRedis } from '../plugin/tracing.js'

/** The deadline of one operation on Redis, where a plugin is not told another. */
export const DEFAULT_TIMEOUT_MS = 150
const FAILURE_THRESHOLD = 5
const PROBE_INTERVAL_MS = 250
const FLAP_WINDOW_MS = 10_000
const STABLE_MS = 1000
/** How long after the circuit has opened a patient operation waits for the first probe. */
const FRESH_MS = 250
/** How often a patient operation is repeated that the client's own `commandTimeout` ended. */
const MAX_REPEATS = 2

/** Redis did not answer within the plugin's `timeout`. */
export const TimeoutError = pluginError('redis', 'TIMEOUT', 'no answer within %s ms', 503)
/** Redis failed several times in a row: it is not asked until a probe finds it back. */
export const CircuitOpenError = pluginError('redis', 'CIRCUIT_OPEN', 'not asked, as it is failing (%s)', 503)

/** Somebody has closed the client, which does not connect again by itself. */
export const ClientEndedError = pluginError('redis', 'CLIENT_ENDED', 'the client was closed, by quit() or disconnect(), while plugins still use it', 503)

/** Calls Redis for a plugin, by the one policy on failure that all plugins share. */
export interface RedisGuard {
  /**
   * Runs one operation, with a deadline. It rejects with what Redis said, a {@link TimeoutError}, or at once with
   * a {@link CircuitOpenError}; the caller then takes its fallback.
   */
  run<T> (operation: () => Promise<T>): Promise<T>
  /** As `run`, for an operation that is not to be repeated: one whose reply would be another one the second time. */
  runOnce<T> (operation: () => Promise<T>): Promise<T>
  readonly circuit: CircuitStatus
  /** Whether all of Redis can be asked: false where the circuit is not closed, or a master of a Cluster does not answer. */
  readonly isWhole: boolean
  /** See {@link CircuitBreaker.troubledAt}; of a Cluster also when a node came back last. */
  readonly troubledAt: number
  /**
   * How often a connection was lost. The client sends again what was under way, so a reply after that may be the reply to a command that was
   * executed before.
   */
  readonly losses: number
}

export interface GuardOptions {
  /**
   * For a plugin that fails closed: while Redis is late, and not away, its operations wait longer than the deadline, and are repeated
   * where the client itself has given them up. @default false
   */
  isPatient?: boolean
}

interface Watched {
  circuit: CircuitBreaker
  progress: Progress
  /** Of a Cluster. */
  nodes: ClusterNodes | undefined
  losses: number
}

// One circuit a client: what one plugin learns of the server serves all of them, and the log says it once.
const watched = new WeakMap<RedisClient, Watched>()

/**
 * @param timeout - milliseconds that an operation may take
 * @param plugin - whose operations they are, for traces
 * @param clock - by which the deadline passes; the first plugin's is the circuit's
 */
export function guardRedis (
  client: RedisClient, log: FastifyBaseLogger, timeout = DEFAULT_TIMEOUT_MS, plugin: PluginName = 'redis', clock: Clock = systemClock,
  { isPatient = false }: GuardOptions = {}
): RedisGuard {
  const about = watched.get(client) ?? watch(client, log, clock)
  const { circuit, progress, nodes } = about
  const onTimeout = () => new TimeoutError(timeout)
  const refuse = () => new CircuitOpenError(circuit.lastError?.message)
  const itself = isCluster(client) ? undefined : () => client
  const impatience = itself && new Impatience(progress, itself)

  // Promises by hand, as every request passes here: an async function would cost it two more turns.
  function ask<T> (operation: () => Promise<T>, repeats: number, before?: Patience): Promise<T> {
    if (!circuit.isClosed) {
      if (!isPatient) return Promise.reject(refuse())
      if (circuit.state === 'open') return circuit.age < FRESH_MS ? askWhenBack(operation, repeats) : Promise.reject(refuse())
    }
    const answered = operation()
    const connectionOf = itself ?? nodeAsked(client)
    const wait = isPatient ? new Patience(progress, circuit, connectionOf, before) : impatience ?? new Impatience(progress, connectionOf)
    return withDeadline(answered, timeout, onTimeout, clock, wait).then(
      result => {
        if (wait.isExtended) circuit.lateSuccess()
        else circuit.success()
        return result
      },
      (error: unknown) => {
        if (error instanceof NodeDownError) throw error
        if (wait instanceof Patience && repeats > 0 && isGivenUp(error) && !wait.isUsedUp && circuit.state !== 'open') return ask(operation, repeats - 1, wait)
        const reason = client.status === 'end' && isOutage(error) ? new ClientEndedError() : error
        judge(reason, connectionOf, wait.isUsedUp || (wait.isExtended && isGivenUp(error)))
        throw reason
      })
  }

  function judge (error: unknown, connectionOf: ConnectionOf, isInVain: boolean): void {
    if (isOutage(error)) {
      progress.fail(connectionOf())
      if (isInVain) circuit.waitedInVain()
      circuit.failure(error)
      nodes?.suspect()
    } else if (isRefusal(error)) circuit.refusal()
    else circuit.success()
    if (isMoved(error)) nodes?.moved()
  }

  /** What has just opened the circuit may be over with the first probe. */
  async function askWhenBack<T> (operation: () => Promise<T>, repeats: number): Promise<T> {
    await withDeadline(circuit.whenBack(), Math.min(timeout, DEFAULT_TIMEOUT_MS), refuse, clock)
    return await ask(operation, repeats)
  }

  return {
    run: operation => tracedRedis(plugin, operation, traced => ask(traced, MAX_REPEATS)),
    runOnce: operation => tracedRedis(plugin, operation, traced => ask(traced, 0)),
    get circuit () { return circuit.status },
    get isWhole () { return circuit.isClosed && nodes?.isWhole !== false },
    get troubledAt () { return Math.max(circuit.troubledAt, nodes?.returnedAt ?? -Infinity) },
    get losses () { return about.losses }
  }
}

/** The state of a client's circuit, or undefined where no plugin has used the client yet. */
export function circuitOf (client: RedisClient): CircuitStatus | undefined {
  return watched.get(client)?.circuit.status
}

/** Ends the probing of a client that is about to be closed. */
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

function watch (client: RedisClient, log: FastifyBaseLogger, clock: Clock): Watched {
  const progress = new Progress(clock)
  const nodes = watchNodes(client, log, DEFAULT_TIMEOUT_MS, progress, clock)
  const circuit = new CircuitBreaker({
    clock,
    threshold: FAILURE_THRESHOLD,
    probeInterval: PROBE_INTERVAL_MS,
    flapWindow: FLAP_WINDOW_MS,
    stableFor: STABLE_MS,
    probe: async () => await probe(client, made, clock),
    isStall: error => isLate(error) && client.status === 'ready' && progress.isAlive,
    onChange: ({ state, opened, lastError }) => {
      // The message alone: an error of ioredis carries the command's arguments, which may be secret.
      const about = { plugin: 'redis', circuit: state, opened }
      if (state === 'closed') log.info(about, MESSAGES.closed)
      else log.warn({ ...about, reason: lastError?.message }, MESSAGES[state])
    }
  })
  const made: Watched = { circuit, progress, nodes, losses: 0 }
  let isUp = client.status === 'ready'
  client.on('ready', () => {
    isUp = true
    circuit.probeNow()
  })
  client.on('close', () => {
    // An attempt to connect that fails is no second loss.
    if (isUp) made.losses++
    isUp = false
    circuit.disturbed()
  })
  if (isCluster(client)) client.on('-node', () => { made.losses++ })
  watched.set(client, made)
  return made
}

/**
 * Asks only over a connection that stands: a PING for one that does not would pile up in the client's queue.
 *
 * @returns whether it answered in time; a late answer counts as one
 */
async function probe (client: RedisClient, { circuit, progress, nodes }: Watched, clock: Clock): Promise<boolean> {
  if (client.status === 'end') throw new ClientEndedError()
  if (client.status !== 'ready') throw new Error(`the connection is not ready (state "${client.status}")`)
  if (isCluster(client)) {
    await nodes?.check()
    return true
  }
  // Who may not ask so is answered.
  const answered = client.ping().catch((error: unknown) => { if (isOutage(error)) throw error })
  const wait = new ProbeWatch(progress, circuit, client)
  await withDeadline(answered, DEFAULT_TIMEOUT_MS, () => new TimeoutError(DEFAULT_TIMEOUT_MS), clock, wait).catch(() => {})
  await answered
  return !wait.isLate
}

/** Whether no answer came, as from a server that is late or hangs: not that a connection was lost, or that Redis cannot serve. */
function isLate (error: unknown): boolean {
  return error instanceof TimeoutError || isGivenUp(error)
}

/** By the `commandTimeout` of the client, which counts a stall of this process as well. */
function isGivenUp (error: unknown): boolean {
  return error instanceof Error && error.message === 'Command timed out'
}

function isMoved (error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('MOVED ')
}

function isRefusal (error: unknown): boolean {
  return error instanceof Error && /^(READONLY|MISCONF|NOREPLICAS)\b/.test(error.message)
}
