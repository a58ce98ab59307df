// Runs the public tests of HTTP caches against a gateway, and counts as their authors' pages do.
// `npm run test:conformance [-- [--id <test>] [--json <file>] [<gateway>.ts]]`; the gateway receives PORT and ORIGIN.
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { Results, Suite, Test } from './cache-suite.js'
import { installSuite, runSuite, runTest, startGateway, startOrigin } from './cache-suite.js'

/**
 * The minimum of passed tests. There are 157 required and 86 optional tests; docs/plugins/cache.md lists those that fail. Nine of them have been reversed in
 * the suite's repository since this release, following RFC 9111 §5.1 about `Age`.
 */
const THRESHOLDS = { required: 144, optional: 77 }

// A W3C Note of 2001 that few follow; the suite's repository has dropped it since. Counted by itself.
const APART = 'surrogate-control'

const GATEWAY = 'examples/gateway.ts'
const KINDS = { required: 'required', optimal: 'optional', check: 'check' } as const
const PASSED = new Set(['✅', 'Y'])
const DEPENDENCY_FAILED = '⚪️'

interface Verdict {
  group: string
  id: string
  name: string
  kind: 'required' | 'optional' | 'check'
  passed: boolean
  /** As the suite's pages show it: ✅ ⛔️ ⚠️ 🔹 ⁉️ ⚪️ ↻ Y N, or `-` for a test that was not run. */
  sign: string
  reason: string
}

function judge (suite: Suite, results: Results): Verdict[] {
  const signOf = (id: string) => suite.judge(suite.groups, id, results)[2]
  return suite.groups.flatMap(({ id: group, tests }) => tests.filter(test => !test.browser_only).map(test => {
    const sign = signOf(test.id)
    const passed = PASSED.has(sign)
    const reason = passed ? '' : reasonOf(test, sign, results, id => PASSED.has(signOf(id)))
    return { group, id: test.id, name: plain(test.name), kind: KINDS[test.kind ?? 'required'], passed, sign, reason }
  }))
}

function reasonOf (test: Test, sign: string, results: Results, passes: (id: string) => boolean): string {
  const result = results[test.id]
  const own = result === undefined ? 'it was not run' : result === true ? 'it would pass' : `${result[0]}: ${result[1]}`
  if (sign !== DEPENDENCY_FAILED) return own
  return `depends on ${test.depends_on?.filter(id => !passes(id)).join(', ')}; ${own}`
}

/** The names are Markdown. */
function plain (name: string): string {
  return name.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').trim()
}

function count (verdicts: Verdict[], kind: Verdict['kind']): { passed: number, text: string } {
  const all = verdicts.filter(verdict => verdict.kind === kind)
  const passed = all.filter(verdict => verdict.passed).length
  return { passed, text: `${kind} ${passed} of ${all.length}` }
}

function report (all: Verdict[]): boolean {
  const verdicts = all.filter(({ group }) => group !== APART)
  const required = count(verdicts, 'required')
  const optional = count(verdicts, 'optional')
  const apart = all.filter(({ group }) => group === APART)
  console.log(`${required.text}, ${optional.text}`)
  console.log(`by itself, ${APART}: ${count(apart, 'required').text}, ${count(apart, 'optional').text}`)
  for (const kind of ['required', 'optional'] as const) {
    console.log(`\n${kind} tests that fail:`)
    for (const { group, id, name, sign, reason } of verdicts.filter(verdict => verdict.kind === kind && !verdict.passed)) {
      console.log(`${sign} ${group}/${id}  ${name}: ${reason}`)
    }
  }
  return required.passed >= THRESHOLDS.required && optional.passed >= THRESHOLDS.optional
}

const { values: { id, json }, positionals: [file = GATEWAY] } = parseArgs({
  allowPositionals: true,
  options: { id: { type: 'string' }, json: { type: 'string' } }
})
const suite = await installSuite()
if (id !== undefined && !suite.groups.some(({ tests }) => tests.some(test => test.id === id))) throw new Error(`the suite has no test ${id}`)
const gateway = await startGateway(file, await startOrigin(suite, id !== undefined))

if (id !== undefined) {
  runTest(suite, gateway, id)
} else {
  const verdicts = judge(suite, runSuite(suite, gateway))
  if (json !== undefined) writeFileSync(json, JSON.stringify(verdicts, null, 2) + '\n')
  if (!report(verdicts)) {
    console.error(`\nfewer than ${THRESHOLDS.required} required or ${THRESHOLDS.optional} optional tests pass`)
    process.exitCode = 1
  }
}
