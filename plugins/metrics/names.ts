/** How values with equal labels are combined: of two apps that share a registry, and of the workers of a Node.js cluster by prom-client's `AggregatorRegistry`. */
export type Aggregator = 'sum' | 'min' | 'max'

/** A metric of the suite, beside the two histograms of `http.ts` and `redis.ts`. */
export interface Definition {
  readonly type: 'counter' | 'gauge'
  readonly help: string
  readonly labels: readonly string[]
  readonly aggregator: Aggregator
}

const counter = (help: string, ...labels: string[]): Definition => ({ type: 'counter', help, labels, aggregator: 'sum' })
const gauge = (help: string, ...labels: string[]): Definition => ({ type: 'gauge', help, labels, aggregator: 'sum' })
/** Of what is good: as bad as the worst. */
const worst = (help: string, ...labels: string[]): Definition => ({ type: 'gauge', help, labels, aggregator: 'min' })
/** Of what is bad, or is the same seen from each side. */
const most = (help: string, ...labels: string[]): Definition => ({ type: 'gauge', help, labels, aggregator: 'max' })

/** By what is asked for it, and by name without the prefix. */
export const METRICS = {
  scrape: {
    metrics_source_up: worst('Whether what the label names answered this scrape in time', 'source')
  },
  cache: {
    cache_requests_total: counter('Look-ups by result, and of hits by tier', 'name', 'result', 'tier'),
    cache_coalesced_total: counter('Look-ups that waited for another one of the same key in this process', 'name'),
    cache_stored_total: counter('Entries stored', 'name'),
    cache_stored_bytes_total: counter('Bytes stored', 'name'),
    cache_l1_entries: gauge('Entries in the first tier', 'name'),
    cache_l1_bytes: gauge('Bytes in the first tier', 'name'),
    cache_l1_evicted_total: counter('Entries that the first tier dropped for want of room', 'name'),
    cache_invalidations_total: counter('Invalidations asked for'),
    cache_store_errors_total: counter('Operations on the store that failed')
  },
  writeBehind: {
    cache_write_behind_backlog: most('Accepted writes that are neither written nor dead, of all instances', 'name'),
    cache_write_behind_dead_letters: most('Dead letters, of all instances', 'name'),
    cache_write_behind_oldest_seconds: most('Age of the oldest write of the backlog', 'name'),
    cache_write_behind_writes_total: counter('What this process did with writes', 'name', 'result')
  },
  rateLimit: {
    rate_limit_decisions_total: counter('Decisions by what is counted for and result', 'scope', 'result'),
    rate_limit_store_errors_total: counter('Decisions for which the store could not be asked')
  },
  session: {
    session_created_total: counter('Sessions stored for the first time'),
    session_destroyed_total: counter('Sessions destroyed, without those that ended by time'),
    session_active: gauge('Sessions used in about the last minute; each counts on one instance')
  },
  redis: {
    redis_up: worst('Whether the connection is ready', 'client'),
    redis_reconnects_total: counter('How often the connection was made again', 'client'),
    redis_command_errors_total: counter('Commands that failed', 'client', 'command'),
    redis_circuit_open: most('Whether the circuit is open, so that plugins use their fallbacks', 'client'),
    redis_circuit_opened_total: counter('How often the circuit has opened', 'client')
  },
  events: {
    events_stream_lag: most('Entries that the group has not been given yet', 'stream', 'group'),
    events_stream_pending: most('Entries given to the group and not acknowledged', 'stream', 'group'),
    events_stream_dead_letters: most('Dead letters of the group', 'stream', 'group')
  },
  health: {
    health_check_status: worst('1: pass, 0.5: warn, 0: fail', 'check')
  }
} as const satisfies Record<string, Record<string, Definition>>

export type SourceKind = keyof typeof METRICS
export const HTTP_DURATION = 'http_request_duration_seconds'
export const REDIS_DURATION = 'redis_command_duration_seconds'
/** The label of requests that no route matches. */
export const UNMATCHED = 'unmatched'
