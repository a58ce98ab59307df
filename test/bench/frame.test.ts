import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { alternate } from '../../bench/frame/alternate.js'
import { GOALS, type Goal } from '../../bench/frame/goals.js'
import { goalRows, withGoals } from '../../bench/frame/goals-table.js'
import { markdown, short } from '../../bench/frame/markdown.js'
import { readOptions } from '../../bench/frame/options.js'
import { workEach } from '../../bench/frame/redis-work.js'
import { exitCodeOf, failuresOf, type Result, type Variant } from '../../bench/frame/results.js'
import { median, medianRatio, quantile } from '../../bench/frame/statistics.js'
import { TYPESCRIPT, TYPESCRIPT_ENV } from '../helpers/compiled/exec-argv.js'
import { root } from '../helpers/docs/doc-blocks.js'

const variantOf = (variant: string, rounds: Array<[throughput: number, cpu: number]>, failed = 0): Variant =>
  ({ variant, rounds: rounds.map(([throughput, cpu]) => ({ throughput, cpu, failed })) })
const resultOf = (...variants: Variant[]): Result => ({ title: 'Load', variants })
const goal: Goal = { row: 'a row', title: 'Load', ours: 'this suite', beside: ['a', 'b'], atLeast: 1 }

t.test('a median ignores what was not measured, and is between the middle two of an even number', async t => {
  t.equal(median([3, 1, 2]), 2)
  t.equal(median([4, 1, 2, 3]), 2.5)
  t.equal(median([3, NaN, 1, 2]), 2)
  t.ok(Number.isNaN(median([])))
  t.equal(quantile([5, 1, 2, 3, 4], 0.25), 2)
  t.equal(quantile([7], 0.99), 7)
})

t.test('a ratio compares rounds that ran beside each other, so a machine that becomes slower does not change it', async t => {
  t.equal(medianRatio([100, 50, 10], [50, 25, 5]), 2)
  t.equal(medianRatio([100, 10, 50], [50, NaN, 25]), 2, 'a round that is missing is left out')
  t.ok(Number.isNaN(medianRatio([100], [])))
})

t.test('variants alternate in each round, forward and backward', async t => {
  const order: string[] = []
  await alternate(['a', 'b', 'c'], 3, async item => order.push(item))
  t.equal(order.join(''), 'abccbaabc')
})

t.test('a row has the best peer by throughput and by CPU, each with its ratio', async t => {
  const results = [resultOf(
    variantOf('this suite', [[200, 10], [220, 11], [180, 9]]),
    variantOf('a', [[100, 15], [110, 16], [90, 14]]),
    variantOf('b', [[50, 5], [55, 5.5], [45, 4.5]])
  )]
  t.same(goalRows(results, [goal]), [{
    row: 'a row',
    'this suite': '200 a second, 10 µs',
    beside: '`a`: 100 a second, 15 µs; by CPU `b`: 50 a second, 5 µs',
    'by throughput': '2.00 ×',
    'by CPU': '0.50 ×',
    goal: '≥ 1',
    '': '**behind**, below the goal'
  }])
})

/** The mark of a row by what this suite reaches beside one peer of 100 a second and 10 µs. */
function markOf (throughput: number, cpu: number, changed: Partial<Goal> = {}): unknown {
  const results = [resultOf(variantOf('this suite', [[throughput, cpu]]), variantOf('a', [[100, 10]]), variantOf('bare', [[100, 10]]))]
  return goalRows(results, [{ ...goal, ...changed }])[0]?.['']
}

t.test('a row in which a peer is ahead is marked, also by a hundredth, by one of the two ratios, or if one is missing', async t => {
  t.equal(markOf(100, 10), '')
  t.equal(markOf(99.9, 10), '**behind**, below the goal')
  t.equal(markOf(100, 10.01), '**behind**, below the goal')
  t.equal(markOf(200, NaN), '**behind**, below the goal')
  t.equal(markOf(60, 16, { atLeast: 0.5 }), '**behind**', 'the goal is reached')
  t.equal(markOf(110, 9, { atLeast: 2 }), 'below the goal')
  t.equal(markOf(110, 9, { beside: ['bare'], atLeast: 0.95 }), '')
  t.equal(markOf(96, 10.2, { beside: ['bare'], atLeast: 0.95 }), '', 'a bare route is no peer')
  t.equal(markOf(90, 10, { beside: ['bare'], atLeast: 0.95 }), 'below the goal')
})

t.test('a row without a goal is marked only if a peer is ahead', async t => {
  const { atLeast, ...withoutGoal } = goal
  const rowOf = (throughput: number) => goalRows([resultOf(variantOf('this suite', [[throughput, 10]]), variantOf('a', [[100, 10]]))], [withoutGoal])[0]
  t.match(rowOf(110), { goal: '', '': '' })
  t.match(rowOf(90), { goal: '', '': '**behind**' })
})

t.test('no ratio is printed as better than it is', async t => {
  const [row] = goalRows([resultOf(variantOf('this suite', [[1299, 10]]), variantOf('a', [[1000, 10]]))], [{ ...goal, atLeast: 1.3 }])
  t.match(row, { 'by throughput': '1.29 ×', 'by CPU': '1.00 ×', '': 'below the goal' })
  t.match(goalRows([resultOf(variantOf('this suite', [[115, 10]]), variantOf('a', [[100, 10]]))], [{ ...goal, atLeast: 1.15, beside: ['a'] }])[0], { 'by throughput': '1.15 ×' })
})

t.test('a row of memory has bytes, and is behind a peer that needs fewer', async t => {
  const rowOf = (ours: number, theirs: number) => goalRows([{
    title: 'Load', variants: [{ variant: 'this suite', rounds: [{ bytes: ours, failed: 0 }] }, { variant: 'a', rounds: [{ bytes: theirs, failed: 0 }] }]
  }], [{ row: 'memory', title: 'Load', ours: 'this suite', beside: ['a'], mostBytes: 900 }])[0]
  t.match(rowOf(1884, 2000), { 'this suite': '1,884 bytes', beside: '`a`: 2,000 bytes', goal: '≤ 900 bytes', '': 'below the goal' })
  t.match(rowOf(800, 700), { '': '**behind**' })
  t.match(rowOf(800, 900), { '': '' })
})

t.test('what was not measured has no row', async t => {
  t.same(goalRows([]), [])
  t.same(goalRows([resultOf(variantOf('this suite', [[1, 1]]))], [goal]), [])
})

t.test('a benchmark fails if this suite failed requests, or has no rounds, and not for a peer', async t => {
  const passed = resultOf(variantOf('this suite', [[1, 1]]), variantOf('a', [[1, 1]]))
  const failed = resultOf(variantOf('this suite, early', [[1, 1], [1, 1]], 2))
  t.equal(exitCodeOf([passed]), 0)
  t.equal(exitCodeOf([passed, failed]), 1)
  t.equal(exitCodeOf([resultOf({ variant: 'this suite', rounds: [] })]), 1)
  t.equal(exitCodeOf([resultOf(variantOf('a', [[1, 1]], 5))]), 0)
  t.same(failuresOf(failed), ['Load: this suite, early: 4 failed (no reason)'])
  const rounds = [['status 503'], ['status 503', 'status 500'], []].map(reasons => ({ failed: reasons.length, reasons }))
  t.same(failuresOf(resultOf({ variant: 'this suite', rounds })), ['Load: this suite: 3 failed (status 503, status 500)'])
})

t.test('the command line: a whole run, a quick one, some parts, and what is refused', async t => {
  const read = (...args: string[]) => readOptions(['races', 'load'], ['load'], args)
  t.match(read(), { isQuick: false, rounds: 5, parts: new Set(['races', 'load']) })
  t.match(read('--quick'), { isQuick: true, rounds: 2, processes: 1, seconds: 1, parts: new Set(['load']) })
  t.same([...read('--quick', '--only', 'races').parts], ['races'])
  t.same(read('--variants', 'bare;this suite').variants, ['bare', 'this suite'])
  t.equal(read('--rounds=9').rounds, 9)
  t.throws(() => read('--only', 'laod'), /no "laod"; --only takes some of races, load/)
  t.throws(() => read('--rounds', '0'), /whole number > 0/)
  t.throws(() => read('--fast'), /Unknown option '--fast'/)
})

t.test('the work of Redis is that between two readings, for each operation', async t => {
  const before = { bytesIn: 100, bytesOut: 0, micros: 50, commands: { GET: 10 } }
  const after = { bytesIn: 300, bytesOut: 40, micros: 90, commands: { GET: 30, SET: 4 } }
  t.same(workEach(before, after, 4), { bytesIn: 50, bytesOut: 10, micros: 10, commands: { GET: 5, SET: 1 } })
})

t.test('numbers have at least three digits, and groups of thousands', async t => {
  t.same([1234567.8, 123.4, 12.345, 0.01234, NaN].map(short), ['1,234,568', '123', '12.3', '0.0123', '–'])
})

t.test('the table is written between its marks, and the rest of the page stays', async t => {
  const page = 'Before.\n\n<!-- goals: written by WRITE_DOCS=true npm run bench -->\n\nold\n\n<!-- end of goals -->\n\nAfter.\n'
  const written = withGoals(page, '2 cores.', [{ row: 'a', goal: 1 }])
  t.equal(written, page.replace('old', `2 cores.\n\n${markdown([{ row: 'a', goal: 1 }])}`))
  t.equal(withGoals(written, '2 cores.', [{ row: 'a', goal: 1 }]), written)
  t.throws(() => withGoals('Before.', '', []), /no place for the table/)
})

t.test('the page of the figures has the marks of the table', async t => {
  t.doesNotThrow(() => withGoals(readFileSync(join(root, 'docs/operations/performance.md'), 'utf8'), '', []))
})

const sources = readdirSync(join(root, 'bench')).filter(file => file.endsWith('.ts')).map(file => readFileSync(join(root, 'bench', file), 'utf8')).join('\n')

t.test('each variant that a goal names exists in a benchmark', async t => {
  const names = [...new Set(GOALS.flatMap(({ ours, beside }) => [ours, ...beside]))]
  t.ok(names.length > 20)
  t.same(names.filter(name => !sources.includes(`'${name}'`) && !new RegExp(`^ +${name}[:,]|[{,] ${name}[,:]`, 'm').test(sources)), [])
  t.equal(new Set(GOALS.map(({ row }) => row)).size, GOALS.length, 'each row has a name of its own')
})

t.test('each benchmark takes --quick, and refuses an option that it does not know with exit 1', async t => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> }
  const files = Object.entries(scripts).filter(([name]) => /^bench(?::|$)/.test(name)).map(([, script]) => script.replace('tsx ', ''))
  t.ok(files.length > 10)
  t.same(files.filter(file => !/readOptions\(|quick: \{ type: 'boolean' \}/.test(readFileSync(join(root, file), 'utf8'))), [])
  const [exitCode, output] = await new Promise<[unknown, string]>(resolve => {
    const args = [...TYPESCRIPT, join(root, 'bench/all.ts'), '--quik']
    execFile(process.execPath, args, { cwd: root, env: { ...TYPESCRIPT_ENV, PATH: process.env['PATH'] } }, (error, stdout, stderr) => resolve([error?.code ?? 0, stdout + stderr]))
  })
  t.equal(exitCode, 1)
  t.match(output, /Unknown option '--quik'/)
})
