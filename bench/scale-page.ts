// Writes the tables of docs/operations/scaling.md between `<!-- measured: name -->` and `<!-- end -->`, for
// `bench/scale.ts`.
import { readFileSync, writeFileSync } from 'node:fs'
import type { Carried } from './scale-connections.js'
import type { Figures, Size } from './scale-measure.js'

const PAGE = new URL('../docs/operations/scaling.md', import.meta.url)
const MILLION = 1_000_000

/** @throws if the page has no such place */
export function writeTable (name: string, table: string): void {
  const place = new RegExp(`(<!-- measured: ${name} -->\n).*?(<!-- end -->)`, 's')
  const text = readFileSync(PAGE, 'utf8')
  if (!place.test(text)) throw new Error(`docs/operations/scaling.md has no place for ${name}`)
  writeFileSync(PAGE, text.replace(place, (_, begin: string, end: string) => `${begin}${table}\n${end}`))
}

/** Returns the number of keys per user, and the constant number, from the last two sizes. */
export function keysOf (sizes: readonly Size[]): { each: number, besides: number } {
  const [fewer, more] = sizes.slice(-2)
  if (fewer === undefined || more === undefined) throw new Error('two sizes are needed')
  const each = (more.keys - fewer.keys) / (more.users - fewer.users)
  return { each, besides: more.keys - each * more.users }
}

export function sizesTable (all: readonly Figures[]): string {
  const [first = 0, last = 0] = all[0]?.sizes.map(({ users }) => users) ?? []
  return table([
    '', 'of each user', 'keys a user', 'and besides', `bytes a user of ${group(first)}`, `of ${group(last)}`,
    'a million users'
  ], all.map(({ kind, sizes }) => {
    const { each, besides } = keysOf(sizes)
    const [fewer = 0, more = 0] = sizes.map(bytesEach)
    return [
      kind.name, kind.leaves, each, besides,
      ...each + besides === 0 ? [0, 0, 0] : [group(fewer), group(more), megabytes(more * MILLION)]
    ]
  }))
}

export function costsTable (all: readonly Figures[]): string {
  const heads = [
    '', 'what is done', 'commands', 'Redis CPU µs: one at a time', '50 at a time', 'of a core at 1,000 a second',
    'a second, with half a core'
  ]
  return table(heads, all.flatMap(({ kind, costs }) => costs.map(({ name, commands, aloneMicros, togetherMicros }) => {
    const [least, most] = [Math.min(aloneMicros, togetherMicros), Math.max(aloneMicros, togetherMicros)]
    return [
      kind.name, name, round(commands), round(aloneMicros), round(togetherMicros),
      `${round(least / 10)}–${round(most / 10)} %`,
      `${group(roughly(500_000 / most))}–${group(roughly(500_000 / least))}`
    ]
  })))
}

/** Compares the projection of the smaller sizes with the largest one. */
export function projectionTable (all: readonly Figures[]): string {
  return table([
    '', 'users', 'keys', 'projected', 'MB', 'projected', 'off by', 'µs to make, of each before', 'of the rest'
  ], all.map(({ kind, sizes }) => {
    const [base, real] = sizes.slice(-2)
    if (base === undefined || real === undefined) throw new Error('two sizes are needed')
    const { each, besides } = keysOf(sizes.slice(0, -1))
    const projected = bytesEach(base) * real.users
    const off = (projected / real.bytes - 1) * 100
    return [
      kind.name, group(real.users), group(real.keys), group(each * real.users + besides), megabytes(real.bytes),
      megabytes(projected), `${off > 0 ? '+' : ''}${off.toFixed(1)} %`, round(base.micros), round(real.micros)
    ]
  }))
}

export function connectionsTable (carried: readonly Carried[]): string {
  const heads = [
    'an instance with', 'one server', 'Cluster of 3 masters with a replica each: in all', 'most on one node',
    'idle, one server: commands a second', 'Redis CPU µs a second'
  ]
  return table(heads, carried.map(({ name, single, cluster, idle }) =>
    [
      name, single, cluster.reduce((sum, count) => sum + count, 0), Math.max(...cluster), round(idle.commands),
      round(idle.micros)
    ]))
}

export function bytesEach ({ bytes, users }: Size): number {
  return bytes / users
}

export function table (heads: readonly string[], rows: ReadonlyArray<ReadonlyArray<string | number>>): string {
  const line = (cells: ReadonlyArray<string | number>) => `| ${cells.join(' | ')} |`
  return [line(heads), line(heads.map(() => '---')), ...rows.map(line)].join('\n')
}

export function group (value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

export function megabytes (bytes: number): string {
  return `${group(bytes / MILLION)} MB`
}

export function round (value: number): string {
  return value >= 10 ? group(value) : value.toFixed(value >= 1 ? 1 : 2)
}

/** Rounds to two digits. */
function roughly (value: number): number {
  return Number(value.toPrecision(2))
}
