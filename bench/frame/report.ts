import { goalRows } from './goals-table.js'
import { markdown, short, type Row } from './markdown.js'
import { exitCodeOf, failedOf, failuresOf, type Result, type Round, type Variant } from './results.js'
import { median, medianRatio } from './statistics.js'

export const QUICK_NOTE = 'A quick run, to see that the benchmark works: its figures are not to be quoted.'

/** Prints what a benchmark measured, and passes it to `bench/all.ts` if that runs the benchmark. */
export class Report {
  readonly #isQuick: boolean
  readonly #results: Result[] = []

  constructor (isQuick: boolean) {
    this.#isQuick = isQuick
    this.#noteIfQuick()
  }

  table (title: string, rows: readonly Row[]): void {
    console.log(`\n${title}\n\n${markdown(rows)}`)
  }

  /** Prints throughput and CPU of variants, and their ratios to others. @param columns - the other columns of a row */
  compare<R extends Round> (
    title: string, variants: Array<Variant<R>>, beside: readonly string[], columns: (one: Variant<R>) => Row
  ): void {
    this.add(title, variants)
    this.table(title, variants.map(one => ({ ...speedOf(one, variants, beside), ...columns(one) })))
  }

  /** Takes a result that has a table of its own, or none. */
  add (title: string, variants: Variant[]): void {
    this.#results.push({ title, variants })
  }

  /** Ends the benchmark: prints the goals and the failures, and sets the exit code. */
  end (): void {
    const rows = goalRows(this.#results)
    if (rows.length > 0) this.table('Goals', rows)
    for (const failure of this.#results.flatMap(failuresOf)) console.log(`\n${failure}`)
    this.#noteIfQuick()
    process.send?.(this.#results)
    process.exitCode = exitCodeOf(this.#results)
  }

  #noteIfQuick (): void {
    if (this.#isQuick) console.log(`\n${QUICK_NOTE}`)
  }
}

function speedOf (one: Variant, variants: readonly Variant[], beside: readonly string[]): Row {
  const values = ({ rounds }: Variant, figure: 'throughput' | 'cpu') => rounds.map(round => round[figure] ?? NaN)
  const others = beside.flatMap(name => variants.filter(({ variant }) => variant === name))
  const ratios = others.map(other => {
    const faster = medianRatio(values(one, 'throughput'), values(other, 'throughput'))
    const cheaper = medianRatio(values(other, 'cpu'), values(one, 'cpu'))
    return [`of ${other.variant}; by CPU`, `${faster.toFixed(2)}; ${cheaper.toFixed(2)}`]
  })
  return {
    variant: one.variant,
    'a second': short(median(values(one, 'throughput'))),
    'CPU µs': short(median(values(one, 'cpu'))),
    ...Object.fromEntries(ratios),
    failed: failedOf(one)
  }
}
