// The worked example of docs/operations/scaling.md, computed from the measurements.
import type { Carried } from './scale-connections.js'
import type { Figures } from './scale-measure.js'
import { bytesEach, group, megabytes, round, table } from './scale-page.js'

const INSTANCES = 20

/** The number of users or entries of each kind. */
const LIES: Record<string, number> = {
  sessions: 950_000,
  'sessions of the last hour': 50_000,
  'limits sliding-log': 50_000,
  'response cache': 100_000,
  idempotency: 5 * 86_400,
  stream: 100_000
}

/** The operations per second of each kind. */
const DONE: ReadonlyArray<[kind: string, what: string, rate: number]> = [
  ['sessions', 'a request that reads its session', 1900],
  ['sessions', 'a request that changes it', 100],
  ['sessions of the last hour', '`request.login`', 14],
  ['limits sliding-log', 'a decision', 2000],
  ['response cache', 'an L1 hit', 1200],
  ['response cache', 'a hit in Redis', 240],
  ['response cache', 'a miss', 60],
  ['idempotency', 'a request with a new key', 5],
  ['stream', 'an event appended and handled', 5]
]

export function exampleTable (all: readonly Figures[], carried: readonly Carried[]): string {
  const lies = Object.entries(LIES).map(([name, count]) => {
    const size = find(all, ({ kind }) => kind.name === name).sizes.at(-1)
    return { name, count, bytes: size === undefined ? NaN : bytesEach(size) * count }
  })
  const done = DONE.map(([of, what, rate]) => {
    const cost = find(find(all, ({ kind }) => kind.name === of).costs, ({ name }) => name === what)
    return { name: `${of}: ${what}`, rate, least: cost.togetherMicros * rate, most: cost.aloneMicros * rate }
  })
  const idle = (carried.at(-1)?.idle.micros ?? NaN) * INSTANCES
  done.push({ name: 'what instances with all plugins do by themselves', rate: INSTANCES, least: idle, most: idle })
  const sum = (values: number[]) => values.reduce((sum, value) => sum + value, 0)
  const ofACore = (micros: number) => `${round(micros / 10_000)} %`
  return [
    table(['lies in Redis', 'how many', 'memory'], [
      ...lies.map(({ name, count, bytes }) => [name, group(count), megabytes(bytes)]),
      ['**in all**', '', `**${megabytes(sum(lies.map(({ bytes }) => bytes)))}**`]
    ]),
    table(['is done', 'a second', 'of a core, 50 at a time', 'of a core, one at a time'], [
      ...done.map(({ name, rate, least, most }) => [name, group(rate), ofACore(least), ofACore(most)]),
      [
        '**in all**', '',
        ...[sum(done.map(({ least }) => least)), sum(done.map(({ most }) => most))].map(
          micros => `**${ofACore(micros)}**`
        )
      ]
    ])
  ].join('\n\n')
}

function find<T> (list: readonly T[], is: (item: T) => boolean): T {
  const found = list.find(is)
  if (found === undefined) throw new Error('the example uses a figure that was not measured')
  return found
}
