import { parseArgs } from 'node:util'

/** How much a benchmark measures: `--quick`, `--rounds 9`, `--only load,races`, `--variants 'bare;this suite'`. */
export interface Options {
  isQuick: boolean
  rounds: number
  /** The number of processes a variant, because two of one variant differ. */
  processes: number
  /** The duration of a round. */
  seconds: number
  parts: ReadonlySet<string>
  variants: readonly string[] | undefined
}

/**
 * Reads the command line of a benchmark.
 *
 * @param parts - what `--only` accepts @param quick - the parts of `--quick`, by default all
 * @throws for an unknown option or part
 */
export function readOptions (
  parts: readonly string[], quick: readonly string[] = parts, args: readonly string[] = process.argv.slice(2)
): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      only: { type: 'string' },
      variants: { type: 'string' }
    }
  })
  const isQuick = values.quick
  const chosen = values.only?.split(',') ?? (isQuick ? quick : parts)
  const unknown = chosen.find(part => !parts.includes(part))
  if (unknown !== undefined) throw new Error(`there is no "${unknown}"; --only takes some of ${parts.join(', ')}`)
  const rounds = Number(values.rounds ?? (isQuick ? 2 : 5))
  if (!(Number.isInteger(rounds) && rounds > 0)) throw new Error('--rounds takes a whole number > 0')
  return {
    isQuick,
    rounds,
    processes: isQuick ? 1 : 2,
    seconds: isQuick ? 1 : 2,
    parts: new Set(chosen),
    variants: values.variants?.split(';')
  }
}
