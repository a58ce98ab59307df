import UPlot from 'uplot'
import { colour, onThemeChange } from './theme.js'

/** The time that a chart covers; there is one sample a second. */
const SPAN_SECONDS = 120
/** The lower end of a logarithmic axis. */
const LOG_MIN = 0.1

export interface Series {
  label: string
  dashed?: boolean
  /** Whether the area below the line is filled. */
  filled?: boolean
  /** Whether the line is drawn across seconds without a value. */
  joined?: boolean
}

/** A chart of the last two minutes. */
export class Chart {
  readonly #target: HTMLElement
  readonly #series: readonly Series[]
  readonly #scale: number | 'log' | undefined
  readonly #rows: Array<Array<number | null>>
  #times: number[] = []
  #plot: UPlot

  /**
   * @param scale - the maximum of the vertical axis, or `log` for a logarithmic one; by default the axis fits the
   *   values
   */
  constructor (target: HTMLElement, lines: readonly Series[], scale?: number | 'log') {
    this.#target = target
    this.#series = lines
    this.#scale = scale
    this.#rows = lines.map(() => [])
    this.#plot = this.#draw()
    new ResizeObserver(() => this.#plot.setSize(this.#size)).observe(target)
    onThemeChange(() => {
      this.#plot.destroy()
      this.#plot = this.#draw()
    })
  }

  /** @param values - one per series; null for none */
  add (values: ReadonlyArray<number | null>): void {
    const now = Math.round(Date.now() / 1000)
    this.#times.push(now)
    for (const [i, row] of this.#rows.entries()) row.push(this.#drawable(values[i] ?? null))
    while ((this.#times[0] ?? now) < now - SPAN_SECONDS) {
      this.#times.shift()
      for (const row of this.#rows) row.shift()
    }
    this.#plot.setData(this.#data)
  }

  /** A logarithmic axis has no 0. */
  #drawable (value: number | null): number | null {
    return value !== null && this.#scale === 'log' ? Math.max(LOG_MIN, value) : value
  }

  get #data (): UPlot.AlignedData {
    return [this.#times, ...this.#rows]
  }

  get #size (): { width: number, height: number } {
    return { width: Math.max(100, this.#target.clientWidth), height: this.#target.clientHeight }
  }

  #draw (): UPlot {
    const accent = colour('accent')
    const axis = {
      stroke: colour('muted'),
      font: '11px system-ui, sans-serif',
      grid: { stroke: colour('line'), width: 1 },
      ticks: { show: false }
    }
    const end = () => this.#times.at(-1) ?? Math.round(Date.now() / 1000)
    return new UPlot({
      ...this.#size,
      padding: [6, 16, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: () => [end() - SPAN_SECONDS, end()] },
        y: this.#scale === 'log'
          ? { distr: 3, range: (_plot, _min, max) => [LOG_MIN, Math.max(10, 10 ** Math.ceil(Math.log10(max ?? 1)))] }
          : { range: (_plot, _min, max) => [0, Number(this.#scale ?? niceMax(max))] }
      },
      axes: [
        {
          ...axis,
          size: 24,
          gap: 7,
          grid: { show: false },
          splits: () => [-120, -60, 0].map(ago => end() + ago),
          values: (_plot, at) => at.map(time => agoOf(end() - time))
        },
        {
          ...axis,
          size: 38,
          gap: 6,
          splits: (_plot, _axis, min, max) => this.#scale === 'log' ? powers(min, max) : [min, (min + max) / 2, max],
          values: (_plot, values) => values.map(value => String(Number(value.toPrecision(3))))
        }
      ],
      series: [{}, ...this.#series.map(({ label, dashed, filled, joined }): UPlot.Series => ({
        label,
        stroke: dashed ? colour('text') : accent,
        width: dashed ? 1.5 : 2,
        ...dashed && { dash: [5, 4] },
        ...filled && { fill: colour('soft') },
        spanGaps: joined === true,
        points: { show: true, size: 5, filter: (_plot, series) => isolatedPoints(this.#rows[series - 1] ?? []) }
      }))]
    }, this.#data, this.#target)
  }
}

function powers (min: number, max: number): number[] {
  const first = Math.round(Math.log10(min))
  return Array.from({ length: Math.round(Math.log10(max)) - first + 1 }, (_, i) => 10 ** (first + i))
}

function agoOf (seconds: number): string {
  return seconds === 0 ? 'now' : seconds === 60 ? '1 min' : '2 min'
}

/** Returns the next 1, 2 or 5 times a power of ten above a value. */
function niceMax (max: number | null): number {
  if (max === null || max <= 0) return 1
  const power = 10 ** Math.floor(Math.log10(max))
  return [1, 2, 5, 10].map(step => step * power).find(step => step >= max * 1.02) ?? 20 * power
}

/** Returns the values without a neighbour, which are drawn as points because they form no line. */
function isolatedPoints (row: ReadonlyArray<number | null>): number[] {
  return [...row.keys()].filter(i => row[i] !== null && (row[i - 1] ?? null) === null && (row[i + 1] ?? null) === null)
}
