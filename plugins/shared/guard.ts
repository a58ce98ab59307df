import type { FastifyBaseLogger } from 'fastify'
import { Circuit, type CircuitStatus } from './circuit.js'
import type { RedisClient } from './client.js'
import { systemClock, type Clock } from './clock.js'
import { NodeDownError, watchNodes, type ClusterNodes } from './cluster-nodes.js'
import { withDeadline } from './deadline.js'
import { isOutage, pluginError, type PluginName } from './errors.js'
import { tracedRedis } from './trace.js'

/** The deadline of one operation on Redis, where a plugin is not told another. */
export const DEFAULT_TIMEOUT_MS = 150
const FAILURE_THRESHOLD = 5
const PROBE_INTERVAL_MS = 250
const FLAP_WINDOW_MS = 10_000
const STABLE_MS = 1000

/** Redis did not answer within the plugin's `timeout`. */
export const TimeoutError = pluginError('redis', 'TIMEOUT', 'no answer within %s ms', 503)
/** Redis failed several times in a row: it is not asked until a probe finds it back. */
export const CircuitOpenError = pluginError('redis', 'CIRCUIT_OPEN', 'not asked, as it is failing (%s)', 503)

/** Calls Redis for a plugin, by the one policy on failure that all plugins share. */
export interface RedisGuard {
  /**
   * Runs one operation, with a deadline. It rejects with what Redis said, a {@link TimeoutError}, or at once with
   * a {@link CircuitOpenError}; the caller then takes its fallback.
   */
  run<T> (operation: () => Promise<T>): Promise<T>
  readonly circuit: CircuitStatus
  /** Whether all of Redis can be asked: false where the circuit is open, or a master of a Cluster does not answer. */
  readonly isWhole: boolean
  /** See {@link Circuit.troubledAt}; of a Cluster also when a node came back last. */
  readonly troubledAt: number
}

interface Watched {
  circuit: Circuit
  /** Of a Cluster. */
  nodes: ClusterNodes | undefined
}

// One circuit a client: what one plugin learns of the server serves all of them, and the log says it once.
const watched = new WeakMap<RedisClient, Watched>()

/**
 * @param timeout - milliseconds that an operation may take
 * @param plugin - whose operations they are, for traces
 * @param clock - by which the deadline passes; the first plugin's is the circuit's
 */
export function guardRedis (
  client: RedisClient, log: FastifyBaseLogger, timeout = DEFAULT_TIMEOUT_MS, plugin: PluginName = 'redis', clock: Clock = systemClock
): RedisGuard {
  const { circuit, nodes } = watched.get(client) ?? watch(client, log, clock)
  const onTimeout = () => new TimeoutError(timeout)

  // Promises by hand, as every request passes here: an async function would cost it two more turns.
  function ask<T> (operation: () => Promise<T>): Promise<T> {
    if (circuit.isOpen) return Promise.reject(new CircuitOpenError(circuit.status.lastError?.message))
    return withDeadline(operation(), timeout, onTimeout, clock).then(
      result => { circuit.success(); return result },
      (error: unknown) => {
        if (error instanceof NodeDownError) throw error
        if (isOutage(error)) {
          circuit.failure(error)
          nodes?.suspect()
        } else if (isRefusal(error)) circuit.refusal()
        else circuit.success()
        if (isMoved(error)) nodes?.moved()
        throw error
      })
  }

  const run = <T>(operation: () => Promise<T>): Promise<T> => tracedRedis(plugin, operation, ask)

  return {
    run,
    get circuit () { return circuit.status },
    get isWhole () { return !circuit.isOpen && nodes?.isWhole !== false },
    get troubledAt () { return Math.max(circuit.troubledAt, nodes?.returnedAt ?? 0) }
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

function watch (client: RedisClient, log: FastifyBaseLogger, clock: Clock): Watched {
  const nodes = watchNodes(client, log, DEFAULT_TIMEOUT_MS, clock)
  const circuit = new Circuit({
    clock,
    threshold: FAILURE_THRESHOLD,
    probeInterval: PROBE_INTERVAL_MS,
    flapWindow: FLAP_WINDOW_MS,
    stableFor: STABLE_MS,
    probe: () => nodes === undefined ? probe(client) : nodes.check(),
    onChange: ({ state, opened, lastError }) => {
      // The message alone: an error of ioredis carries the command's arguments, which may be secret.
      const reason = lastError?.message
      if (state === 'open') log.warn({ plugin: 'redis', circuit: state, opened, reason }, 'redis: circuit open, plugins use their fallbacks')
      else log.info({ plugin: 'redis', circuit: state, opened }, 'redis: circuit closed, Redis is used again')
    }
  })
  client.on('ready', () => circuit.probeNow())
  client.on('close', () => circuit.disturbed())
  watched.set(client, { circuit, nodes })
  return { circuit, nodes }
}

/** Asks only over a connection that stands: a PING for one that does not would pile up in the client's queue. */
async function probe (client: RedisClient): Promise<void> {
  if (client.status !== 'ready') throw new Error(`connection is ${client.status}`)
  // Who may not ask so is answered.
  await client.ping().catch((error: unknown) => { if (isOutage(error)) throw error })
}

function isMoved (error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('MOVED ')
}

function isRefusal (error: unknown): boolean {
  return error instanceof Error && /^(READONLY|MISCONF|NOREPLICAS)\b/.test(error.message)
}
