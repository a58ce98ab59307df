// The table at the end of `npm run bench`, and its place in the docs.
import { GOALS, type Goal } from './goals.js'
import { markdown, short, type Row } from './markdown.js'
import type { Result, Round, Variant } from './results.js'
import { median, medianRatio } from './statistics.js'

type Figure = 'throughput' | 'cpu' | 'bytes'

/** Returns a row for each goal whose variants were measured. */
export function goalRows (results: readonly Result[], goals: readonly Goal[] = GOALS): Row[] {
  return goals.flatMap(goal => {
    const variants = results.find(({ title }) => title === goal.title)?.variants ?? []
    const ours = variants.find(({ variant }) => variant === goal.ours)
    const peers = variants.filter(({ variant }) => goal.beside.includes(variant))
    return ours === undefined || peers.length === 0 ? [] : [rowOf(goal, ours, peers)]
  })
}

function rowOf (goal: Goal, ours: Variant, peers: readonly Variant[]): Row {
  const figures: Figure[] = goal.mostBytes === undefined ? ['throughput', 'cpu'] : ['bytes']
  const bests = figures.map(figure => bestOf(figure, ours, peers))
  const names = [...new Set(bests.map(({ peer }) => peer))]
  const ratioOf = (figure: Figure) => {
    const ratio = bests.find(best => best.figure === figure)?.ratio
    return ratio === undefined || Number.isNaN(ratio) ? '–' : `${ratio.toFixed(2)} ×`
  }
  return {
    row: goal.row,
    'this suite': figures.map(figure => textOf(figure, ours)).join(', '),
    beside: names.map(peer => `\`${peer.variant}\`: ${figures.map(figure => textOf(figure, peer)).join(', ')}`)
      .join('; by CPU '),
    'by throughput': ratioOf('throughput'),
    'by CPU': ratioOf('cpu'),
    goal: goalOf(goal),
    '': stateOf(goal, bests.map(({ ratio }) => ratio), median(valuesOf('bytes', ours)))
  }
}

interface Best { figure: Figure, peer: Variant, ratio: number }

/** Returns the peer with the smallest ratio by a figure; a ratio above 1 means that this suite is better. */
function bestOf (figure: Figure, ours: Variant, peers: readonly Variant[]): Best {
  const [best] = peers.map(peer => ({ figure, peer, ratio: ratioBy(figure, ours, peer) }))
    .sort((a, b) => (Number.isNaN(a.ratio) ? Infinity : a.ratio) - (Number.isNaN(b.ratio) ? Infinity : b.ratio))
  if (best === undefined) throw new Error('a goal needs a peer')
  return best
}

/** Rounded down, so that no ratio is printed, or judged, as better than it is. */
function ratioBy (figure: Figure, ours: Variant, peer: Variant): number {
  const [own, other] = [valuesOf(figure, ours), valuesOf(figure, peer)]
  const ratio = figure === 'throughput' ? medianRatio(own, other) : medianRatio(other, own)
  return Math.floor(ratio * 100 + 1e-9) / 100
}

function valuesOf (figure: Figure, { rounds }: Variant): number[] {
  return rounds.map((round: Round) => round[figure] ?? NaN)
}

function textOf (figure: Figure, variant: Variant): string {
  const value = short(median(valuesOf(figure, variant)))
  return { throughput: `${value} a second`, cpu: `${value} µs`, bytes: `${value} bytes` }[figure]
}

function goalOf ({ atLeast, mostBytes }: Goal): string {
  if (mostBytes !== undefined) return `≤ ${short(mostBytes)} bytes`
  return atLeast === undefined ? '' : `≥ ${atLeast}`
}

/** Marks a row in which a peer is ahead, or the goal is not reached. A ratio that is missing counts as both. */
function stateOf ({ atLeast, mostBytes, beside }: Goal, ratios: readonly number[], bytes: number): string {
  const isBehind = !beside.every(name => name.startsWith('bare')) && !ratios.every(ratio => ratio >= 1)
  const isReached = mostBytes === undefined ? ratios.every(ratio => ratio >= (atLeast ?? 0)) : bytes <= mostBytes
  const marks = [...isBehind ? ['**behind**'] : [], ...isReached ? [] : ['below the goal']]
  return marks.join(', ')
}

const [BEGIN, END] = ['<!-- goals: written by WRITE_DOCS=true npm run bench -->', '<!-- end of goals -->']

/** Returns the page with a new table and the machine on which it was measured. */
export function withGoals (page: string, machine: string, rows: readonly Row[]): string {
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)]
  if (begin === -1 || end < begin) throw new Error(`the page has no place for the table: ${BEGIN} and ${END}`)
  return `${page.slice(0, begin + BEGIN.length)}\n\n${machine}\n\n${markdown(rows)}\n\n${page.slice(end)}`
}
