/** How values with equal labels are combined, of apps that share a registry and of prom-client's cluster workers. */
export type Aggregator = 'sum' | 'min' | 'max'

/** A counter or gauge of the suite. Its two histograms are defined in `index.ts`. */
export interface MetricDefinition {
  readonly type: 'counter' | 'gauge'
  readonly help: string
  readonly labels: readonly string[]
  readonly aggregator: Aggregator
}

const counter = (help: string, ...labels: string[]): MetricDefinition =>
  ({ type: 'counter', help, labels, aggregator: 'sum' })
const gauge = (help: string, ...labels: string[]): MetricDefinition =>
  ({ type: 'gauge', help, labels, aggregator: 'sum' })
/** A gauge of health: the worst value counts. */
const lowest = (help: string, ...labels: string[]): MetricDefinition =>
  ({ type: 'gauge', help, labels, aggregator: 'min' })
/** A gauge of trouble, or one that all instances read from Redis: the highest value counts. */
const highest = (help: string, ...labels: string[]): MetricDefinition =>
  ({ type: 'gauge', help, labels, aggregator: 'max' })

/** All counters and gauges, by source and by name without the prefix. */
export const METRICS = {
  scrape: {
    metrics_source_up: lowest('Whether the source replied to this scrape in time', 'source')
  },
  cache: {
    cache_requests_total: counter('Look-ups by result, hits also by tier', 'name', 'result', 'tier'),
    cache_coalesced_total: counter(
      'Look-ups that were coalesced with another one of the same key in this process', 'name'
    ),
    cache_stored_total: counter('Entries stored', 'name'),
    cache_stored_bytes_total: counter('Bytes stored', 'name'),
    cache_l1_entries: gauge('Entries in L1', 'name'),
    cache_l1_bytes: gauge('Bytes in L1', 'name'),
    cache_l1_evicted_total: counter('Entries that L1 evicted', 'name'),
    cache_invalidations_total: counter('Invalidations requested'),
    cache_store_errors_total: counter('Failed operations on the store')
  },
  writeBehind: {
    cache_write_behind_backlog: highest(
      'Accepted writes of all instances that are neither written nor dead letters', 'name'
    ),
    cache_write_behind_dead_letters: highest('Dead letters of all instances', 'name'),
    cache_write_behind_oldest_seconds: highest('Age of the oldest write in the backlog', 'name'),
    cache_write_behind_writes_total: counter('Writes that this process handled, by result', 'name', 'result')
  },
  rateLimit: {
    rate_limit_decisions_total: counter('Decisions by scope and result', 'scope', 'result'),
    rate_limit_store_errors_total: counter('Decisions made while the store was unavailable')
  },
  session: {
    session_created_total: counter('Sessions created'),
    session_destroyed_total: counter('Sessions destroyed, without those that expired'),
    session_active: gauge('Sessions used within about the last minute, each counted on one instance')
  },
  redis: {
    redis_up: lowest('Whether the connection is ready', 'client'),
    redis_reconnects_total: counter('Reconnections', 'client'),
    redis_command_errors_total: counter('Failed commands', 'client', 'command'),
    redis_circuit_open: highest('Whether the circuit is open and plugins use their fallbacks', 'client'),
    redis_circuit_opened_total: counter('Times that the circuit opened', 'client')
  },
  events: {
    events_stream_lag: highest('Entries not delivered to the group yet', 'stream', 'group'),
    events_stream_pending: highest('Entries delivered to the group and not acknowledged', 'stream', 'group'),
    events_stream_dead_letters: highest('Dead letters of the group', 'stream', 'group')
  },
  health: {
    health_check_status: lowest('Status of the check: 1 pass, 0.5 warn, 0 fail', 'check')
  }
} as const satisfies Record<string, Record<string, MetricDefinition>>

export type SourceKind = keyof typeof METRICS
export const HTTP_DURATION = 'http_request_duration_seconds'
export const REDIS_DURATION = 'redis_command_duration_seconds'
/** The value of the label `route` for requests that no route matches. */
export const UNMATCHED = 'unmatched'
