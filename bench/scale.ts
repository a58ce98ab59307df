// Measures keys, memory and Redis's CPU by users of each plugin, and connections:
// `npm run bench:scale [-- --users 1000000] [--only sessions,stream] [--quick]`. A whole run writes the tables of
// docs/operations/scaling.md; one with more users than the usual 100,000 writes the comparison with the projection.
import { parseArgs } from 'node:util'
import { stopAll } from '../tools/servers/registry.js'
import { QUICK_NOTE } from './frame/report.js'
import { bytesAConnection, connections } from './scale-connections.js'
import { exampleTable } from './scale-example.js'
import { KINDS } from './scale-kinds.js'
import { measure, type Figures } from './scale-measure.js'
import { connectionsTable, costsTable, group, projectionTable, sizesTable, writeTable } from './scale-page.js'

const { values: { users, only, quick = false } } = parseArgs({
  options: { users: { type: 'string' }, only: { type: 'string' }, quick: { type: 'boolean' } }
})
const COUNTS = quick ? [100, 500] : [10_000, 100_000]
const OPERATIONS = quick ? 200 : 6000
const CONNECTIONS = quick ? 50 : 1000

const names = only?.split(',')
const unknown = names?.filter(name => name !== 'connections' && !KINDS.some(kind => kind.name === name)) ?? []
if (unknown.length > 0) {
  throw new Error(
    `nothing is called ${unknown.join(', ')}; there are ${KINDS.map(({ name }) => name).join(', ')}, connections`
  )
}
const most = Number(users ?? COUNTS.at(-1))
if (!(most > (COUNTS[0] ?? 0))) throw new Error(`--users is a number above ${COUNTS[0]}`)
const isProjection = most > (COUNTS.at(-1) ?? 0)
const counts = [...COUNTS.filter(count => count < most), most]

const all: Figures[] = []
for (const kind of KINDS.filter(({ name }) => names?.includes(name) ?? true)) {
  const figures = await measure(kind, { counts, operations: isProjection ? 0 : OPERATIONS })
  console.log(kind.name, JSON.stringify({ sizes: figures.sizes, costs: figures.costs }))
  all.push(figures)
}
if (isProjection) {
  show('projection', projectionTable(all), true)
} else {
  const isWhole = names === undefined
  if (all.length > 0) {
    show('sizes', sizesTable(all), isWhole)
    show('costs', costsTable(all), isWhole)
  }
  if (isWhole || names.includes('connections')) {
    const carried = await connections()
    show('connections', connectionsTable(carried), true)
    console.log(`\na connection takes ${group(await bytesAConnection(CONNECTIONS))} bytes of Redis's memory`)
    if (isWhole) show('example', exampleTable(all, carried), true)
  }
}
await stopAll()
if (quick) console.log(`\n${QUICK_NOTE}`)

function show (name: string, text: string, isWhole: boolean): void {
  console.log(`\n${text}`)
  if (isWhole && !quick) writeTable(name, text)
}
