// How long each subpath of the package takes to import, beside its dependencies: `npm run bench:import`. A process of
// its own for each measurement.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { QUICK_NOTE } from './frame/report.js'

const { values: { quick = false } } = parseArgs({ options: { quick: { type: 'boolean' } } })
const ROUNDS = quick ? 2 : 9

interface Manifest {
  exports: Record<string, string | { default: string }>
  dependencies: Record<string, string>
  peerDependencies: Record<string, string>
}

const root = resolve(import.meta.dirname, '..')
const {
  exports, dependencies, peerDependencies
} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest
const subpaths = Object.entries(exports).flatMap(([subpath, target]) =>
  typeof target === 'string' ? [] : [[subpath, join(root, target.default)] as const])
const packages = [
  'fastify', ...Object.keys({ ...dependencies, ...peerDependencies }).filter(name => name !== 'fastify')
]

const LOAD = `
  const specifier = process.argv[1]
  const before = performance.now()
  await import(specifier)
  console.log(performance.now() - before)`

/** An app imports Fastify anyway, so a subpath is measured after it. */
const AFTER_FASTIFY = `await import('fastify')\n${LOAD}`

/** The fastest of several rounds, as everything else that a machine does only adds time. */
function measure (script: string, specifier: string): number {
  const times = Array.from({ length: ROUNDS }, () =>
    Number(
      execFileSync(process.execPath, ['--input-type=module', '-e', script, specifier], { cwd: root, encoding: 'utf8' })
    ))
  return Math.min(...times)
}

function print (title: string, rows: Array<readonly [string, number]>): void {
  console.log(`\n| ${title} | ms |\n|---|---|`)
  for (const [name, ms] of rows) console.log(`| \`${name}\` | ${ms.toFixed(ms < 10 ? 1 : 0)} |`)
}

print('subpath, after Fastify', subpaths.map(([name, file]) => [name, measure(AFTER_FASTIFY, file)]))
print('package, alone', packages.map(name => [name, measure(LOAD, name)]))
if (quick) console.log(`\n${QUICK_NOTE}`)
