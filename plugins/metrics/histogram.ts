import {
  Histogram, type HistogramConfiguration, type MetricObjectWithValues, type MetricValueWithName
} from 'prom-client'
import { OTHER } from './labels.js'

/** All further combinations of labels share one series. */
const MAX_SERIES = 5000

/** The observations of one combination of labels. */
export class Series {
  readonly labels: Readonly<Record<string, string>>
  readonly counts: number[]
  readonly #bounds: readonly number[]
  sum = 0
  count = 0

  constructor (labels: Readonly<Record<string, string>>, bounds: readonly number[]) {
    this.labels = labels
    this.#bounds = bounds
    this.counts = bounds.map(() => 0)
  }

  reset (): void {
    this.counts.fill(0)
    this.sum = 0
    this.count = 0
  }

  observe (seconds: number): void {
    const bounds = this.#bounds
    this.sum += seconds
    this.count++
    for (let at = 0; at < bounds.length; at++) {
      if (seconds <= (bounds[at] as number)) {
        (this.counts[at] as number)++
        return
      }
    }
  }
}

/**
 * A histogram with cheap observations: each is a few additions. prom-client's own histogram validates and joins the
 * labels each time, which costs sixty times as much.
 */
export class FastHistogram extends Histogram {
  readonly #config: HistogramConfiguration<string>
  readonly #bounds: readonly number[]
  readonly #series = new Map<string, Series>()
  #other: Series | undefined

  constructor (config: HistogramConfiguration<string> & { buckets: number[] }) {
    super(config)
    this.#config = config
    this.#bounds = config.buckets
  }

  /** Returns the series of these label values. Callers keep it, as the look-up is slow. */
  series (...values: string[]): Series {
    const key = JSON.stringify(values)
    const present = this.#series.get(key)
    if (present !== undefined) return present
    const names = this.#config.labelNames ?? []
    if (this.#series.size >= MAX_SERIES) {
      this.#other ??= new Series(Object.fromEntries(names.map(name => [name, OTHER])), this.#bounds)
      return this.#other
    }
    const series = new Series(Object.fromEntries(names.map((name, at) => [name, values[at] ?? ''])), this.#bounds)
    this.#series.set(key, series)
    return series
  }

  override reset (): void {
    // The constructor of the base class calls this before the fields exist.
    if (!(#series in this)) return
    // The series stay, as callers keep them.
    for (const series of this.#all) series.reset()
  }

  override async get (): Promise<MetricObjectWithValues<MetricValueWithName<string>>> {
    const { name, help } = this.#config
    const values = this.#all.flatMap(series => this.#valuesOf(series))
    // prom-client's type has a number as `type`, and a method that its own histograms leave out.
    return {
      name, help, type: 'histogram', aggregator: 'sum', values
    } as unknown as MetricObjectWithValues<MetricValueWithName<string>>
  }

  /** prom-client's registry calls this in place of `get`. */
  getForPromString (): Promise<MetricObjectWithValues<MetricValueWithName<string>>> {
    return this.get()
  }

  get #all (): Series[] {
    return [...this.#series.values(), ...this.#other === undefined ? [] : [this.#other]]
  }

  #valuesOf ({ labels, counts, sum, count }: Series): Array<MetricValueWithName<string>> {
    const { name } = this.#config
    let below = 0
    const buckets = this.#bounds.map((le, at) => {
      below += counts[at] ?? 0
      return { metricName: `${name}_bucket`, labels: { le, ...labels }, value: below }
    })
    return [
      ...buckets,
      { metricName: `${name}_bucket`, labels: { le: '+Inf', ...labels }, value: count },
      { metricName: `${name}_sum`, labels, value: sum },
      { metricName: `${name}_count`, labels, value: count }
    ]
  }
}
