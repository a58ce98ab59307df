import { Counter, Gauge, type Registry } from 'prom-client'
import type { Clock } from '../shared/plugin/clock.js'
import { InWords, invalidOptionError } from '../shared/plugin/errors.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import { withDeadline } from '../shared/redis/deadline.js'
import { FastHistogram } from './histogram.js'
import { METRICS, type Aggregator, type MetricDefinition, type SourceKind } from './names.js'

/** A value of a metric. @property name - without the prefix */
export type Sample = readonly [name: string, value: number, labels?: Readonly<Record<string, string>>]

/** A source of samples, which each scrape reads. */
export interface MetricSource {
  kind: SourceKind
  read (): Sample[] | Promise<Sample[]>
  /** Removes its listeners. */
  stop? (): void
}

interface ReadOptions {
  /** The prefix of the metrics' names. */
  prefix: string
  /** How long a source may take. */
  timeout: Milliseconds
  clock: Clock
}

interface RegisteredSource extends ReadOptions {
  source: MetricSource
  users: number
}

/** A sample with its full name. */
interface NamedSample {
  name: string
  value: number
  labels: Readonly<Record<string, string>>
}

const COMBINE: Readonly<Record<Aggregator, (a: number, b: number) => number>> = {
  sum: (a, b) => a + b, min: Math.min, max: Math.max
}
const registries = new WeakMap<Registry, MetricRegistry>()

/** An object of the app with what reads it. */
export interface FoundSource {
  observed: object
  create: () => MetricSource
}

/** The metrics of the suite in one registry of prom-client, which several apps may share. */
export class MetricRegistry {
  readonly registry: Registry
  readonly #metrics = new Map<string, Counter | Gauge | FastHistogram>()
  // By the observed object: a cache that two registrations observe counts once.
  readonly #sources = new Map<object, RegisteredSource>()
  readonly #cleanups: Array<() => void> = []
  #users = 0
  #reading: Promise<NamedSample[]> | undefined

  static of (registry: Registry): MetricRegistry {
    const present = registries.get(registry) ?? new MetricRegistry(registry)
    registries.set(registry, present)
    return present
  }

  private constructor (registry: Registry) {
    this.registry = registry
  }

  /** Counts a registration of the plugin. @returns a function that ends it; the last one removes all metrics */
  retain (): () => void {
    this.#users++
    return () => {
      if (--this.#users > 0) return
      for (const cleanUp of this.#cleanups.splice(0)) cleanUp()
      for (const name of this.#metrics.keys()) this.registry.removeSingleMetric(name)
      this.#metrics.clear()
    }
  }

  /** Calls `cleanUp` when the last registration has ended. */
  onLastRelease (cleanUp: () => void): void {
    this.#cleanups.push(cleanUp)
  }

  /** @throws `FST_REDIS_SUITE_METRICS_INVALID_OPTION` if the registry has a foreign metric of one of these names */
  requireFree (names: readonly string[]): void {
    const taken = names.find(name => !this.#metrics.has(name) && this.registry.getSingleMetric(name) !== undefined)
    if (taken !== undefined) {
      throw invalidOptionError(
        'metrics', 'registry', new InWords(`a registry with another metric ${taken}`),
        'a registry without a metric of this name, or another prefix'
      )
    }
  }

  histogram (name: string, help: string, labelNames: string[], buckets: number[]): FastHistogram {
    const present = this.#metrics.get(name)
    if (present instanceof FastHistogram) return present
    const histogram = new FastHistogram({ name, help, labelNames, buckets, registers: [this.registry] })
    this.#metrics.set(name, histogram)
    return histogram
  }

  /**
   * Adds a source, unless the object that it observes has one.
   *
   * @returns a function that removes it
   */
  add ({ observed, create }: FoundSource, options: ReadOptions): () => void {
    const { prefix, timeout, clock } = options
    const registered = this.#sources.get(observed) ?? { source: create(), prefix, timeout, clock, users: 0 }
    this.#sources.set(observed, registered)
    registered.users++
    for (const kind of [registered.source.kind, 'scrape'] as const) {
      for (const [name, definition] of Object.entries(METRICS[kind])) this.#define(prefix + name, definition)
    }
    return () => {
      if (--registered.users > 0) return
      this.#sources.delete(observed)
      registered.source.stop?.()
    }
  }

  #define (name: string, { type, help, labels, aggregator }: MetricDefinition): void {
    if (this.#metrics.has(name)) return
    const combine = COMBINE[aggregator]
    const collect = async (): Promise<void> => {
      const merged = new Map<string, NamedSample>()
      for (const sample of await this.#samples()) {
        // A value that prom-client refuses would fail the whole scrape.
        if (sample.name !== name || !Number.isFinite(sample.value) || (type === 'counter' && sample.value < 0)) continue
        const key = JSON.stringify(sample.labels)
        const first = merged.get(key)
        merged.set(key, first === undefined ? sample : { ...sample, value: combine(first.value, sample.value) })
      }
      metric.reset()
      for (const { labels, value } of merged.values()) metric.inc(labels, value)
    }
    const config = { name, help, labelNames: [...labels], registers: [this.registry], aggregator, collect }
    const metric: Counter | Gauge = type === 'counter' ? new Counter(config) : new Gauge(config)
    this.#metrics.set(name, metric)
  }

  /** Reads each source once a scrape, as prom-client collects all metrics at the same time. */
  #samples (): Promise<NamedSample[]> {
    this.#reading ??= this.#read().finally(() => { this.#reading = undefined })
    return this.#reading
  }

  async #read (): Promise<NamedSample[]> {
    const lists = await Promise.all([...this.#sources.values()].map(async ({ source, prefix, timeout, clock }) => {
      const read = Promise.resolve().then(() => source.read())
      const samples = await withDeadline(
        read, timeout, () => new Error('no reply in time'), clock
      ).catch(() => undefined)
      const up: Sample = ['metrics_source_up', samples === undefined ? 0 : 1, { source: source.kind }]
      return [...samples ?? [], up].map(([name, value, labels = {}]) => ({ name: prefix + name, value, labels }))
    }))
    return lists.flat()
  }
}
