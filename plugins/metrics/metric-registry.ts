import { Counter, Gauge, type Registry } from 'prom-client'
import type { Clock } from '../shared/plugin/clock.js'
import { withDeadline } from '../shared/redis/deadline.js'
import { InWords, invalidOptionError } from '../shared/plugin/errors.js'
import { FastHistogram } from './histogram.js'
import { METRICS, type Aggregator, type Definition, type SourceKind } from './names.js'

/** One value: the metric without its prefix, its labels. */
export type Sample = readonly [name: string, value: number, labels?: Readonly<Record<string, string>>]

/** What is asked when the registry is. */
export interface Source {
  kind: SourceKind
  read (): Sample[] | Promise<Sample[]>
  /** Ends what it listens to. */
  stop? (): void
}

interface Deadline {
  /** Milliseconds that a source may take. */
  timeout: number
  clock: Clock
}

interface Entered {
  source: Source
  prefix: string
  deadline: Deadline
  users: number
}

interface Sampled {
  name: string
  value: number
  labels: Readonly<Record<string, string>>
}

const COMBINE: Readonly<Record<Aggregator, (a: number, b: number) => number>> = { sum: (a, b) => a + b, min: Math.min, max: Math.max }
const registries = new WeakMap<Registry, MetricRegistry>()

/** What the plugin has put in one registry, which several apps may share. */
export class MetricRegistry {
  readonly registry: Registry
  readonly #metrics = new Map<string, Counter | Gauge | FastHistogram>()
  // By what they tell of: two registrations that see the same cache count it once.
  readonly #sources = new Map<object, Entered>()
  readonly #atTheEnd: Array<() => void> = []
  #users = 0
  #reading: Promise<Sampled[]> | undefined

  static of (registry: Registry): MetricRegistry {
    const present = registries.get(registry) ?? new MetricRegistry(registry)
    registries.set(registry, present)
    return present
  }

  private constructor (registry: Registry) {
    this.registry = registry
  }

  /** Another registration uses it. @returns what takes away all that the last one of them leaves behind */
  enter (): () => void {
    this.#users++
    return () => {
      if (--this.#users > 0) return
      for (const step of this.#atTheEnd.splice(0)) step()
      for (const name of this.#metrics.keys()) this.registry.removeSingleMetric(name)
      this.#metrics.clear()
    }
  }

  /** Does it when the last registration has left. */
  atTheEnd (step: () => void): void {
    this.#atTheEnd.push(step)
  }

  /** @throws `FST_REDIS_SUITE_METRICS_INVALID_OPTION` where somebody else has put one of this name in the registry */
  requireFree (names: readonly string[]): void {
    const taken = names.find(name => !this.#metrics.has(name) && this.registry.getSingleMetric(name) !== undefined)
    if (taken !== undefined) throw invalidOptionError('metrics', 'registry', new InWords(`one that has another metric ${taken}`), 'a registry in which this name is free, or another prefix')
  }

  histogram (name: string, help: string, labelNames: string[], buckets: number[]): FastHistogram {
    const present = this.#metrics.get(name)
    if (present instanceof FastHistogram) return present
    const made = new FastHistogram({ name, help, labelNames, buckets, registers: [this.registry] })
    this.#metrics.set(name, made)
    return made
  }

  /**
   * @param of - what the source tells of
   * @param make - called where nobody has added it yet
   * @returns a function that takes it out
   */
  add (of: object, make: () => Source, prefix: string, deadline: Deadline): () => void {
    const entered = this.#sources.get(of) ?? { source: make(), prefix, deadline, users: 0 }
    this.#sources.set(of, entered)
    entered.users++
    for (const kind of [entered.source.kind, 'scrape'] as const) {
      for (const [name, definition] of Object.entries(METRICS[kind])) this.#define(prefix + name, definition)
    }
    return () => {
      if (--entered.users > 0) return
      this.#sources.delete(of)
      entered.source.stop?.()
    }
  }

  #define (name: string, { type, help, labels, aggregator }: Definition): void {
    if (this.#metrics.has(name)) return
    const combine = COMBINE[aggregator]
    const collect = async (): Promise<void> => {
      const merged = new Map<string, Sampled>()
      for (const sample of await this.#samples()) {
        // One that prom-client refuses would fail the whole scrape.
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

  /** All metrics are collected in one turn: each source is asked once for all of them. */
  #samples (): Promise<Sampled[]> {
    this.#reading ??= this.#read().finally(() => { this.#reading = undefined })
    return this.#reading
  }

  async #read (): Promise<Sampled[]> {
    const lists = await Promise.all([...this.#sources.values()].map(async ({ source, prefix, deadline: { timeout, clock } }) => {
      const read = Promise.resolve().then(() => source.read())
      const samples = await withDeadline(read, timeout, () => new Error('no answer in time'), clock).catch(() => undefined)
      const up: Sample = ['metrics_source_up', samples === undefined ? 0 : 1, { source: source.kind }]
      return [...samples ?? [], up].map(([name, value, labels = {}]) => ({ name: prefix + name, value, labels }))
    }))
    return lists.flat()
  }
}
