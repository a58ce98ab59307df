// The public tests of HTTP caches (https://github.com/http-tests/cache-tests), as published on npm. They are not a dependency of the project: each
// run installs them into its own folder, whose modules run the tests and judge the results.
import type { ChildProcess } from 'node:child_process'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { freePort } from '../../../tools/servers/free-port.js'
import { notePid, scratchDir } from '../../../tools/servers/scratch.js'
import { until } from '../app/until.js'

const PACKAGE = 'http-cache-tests'
const VERSION = '0.4.5'
const START_TIMEOUT = 30_000
const RUN_TIMEOUT = 300_000

export interface Test {
  id: string
  name: string
  kind?: 'required' | 'optimal' | 'check'
  browser_only?: boolean
  depends_on?: string[]
}

export interface TestGroup {
  id: string
  tests: Test[]
}

/** True, or the failure: in the test's own steps (`Setup`) or in its assertions. */
export type Results = Record<string, true | [kind: string, reason: string]>

/** The icon, colour and sign with which the suite's own pages show a result. */
type Shown = [icon: string, colour: string, sign: string]

export interface Suite {
  folder: string
  groups: TestGroup[]
  judge: (groups: TestGroup[], id: string, results: Results) => Shown
}

export async function installSuite (): Promise<Suite> {
  const root = scratchDir()
  writeFileSync(join(root, 'package.json'), JSON.stringify({ private: true }))
  execFileSync('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--silent', `${PACKAGE}@${VERSION}`], { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] })
  const folder = join(root, 'node_modules', PACKAGE)
  const load = async (file: string) => await import(pathToFileURL(join(folder, file)).href)
  const [tests, surrogate, display] = await Promise.all(['tests/index.mjs', 'tests/surrogate-control.mjs', 'lib/display.mjs'].map(load))
  // Combined as the suite's own client and pages do.
  return { folder, groups: [...tests.default, surrogate.default], judge: display.determineTestResult }
}

/** The suite's origin server; with `talks` it prints what it receives. */
export async function startOrigin ({ folder }: Suite, talks: boolean): Promise<string> {
  const port = await freePort()
  return await start([join(folder, 'server/server.mjs')], port, folder, talks, {
    npm_config_protocol: 'http',
    npm_config_port: String(port),
    npm_config_pidfile: join(scratchDir(), 'origin.pid')
  })
}

export async function startGateway (file: string, origin: string): Promise<string> {
  const port = await freePort()
  return await start(['--import', 'tsx', resolve(file)], port, resolve(import.meta.dirname, '../../..'), false, {
    PORT: String(port),
    ORIGIN: origin,
    LOG_LEVEL: process.env['LOG_LEVEL'] ?? 'silent'
  })
}

/** Runs the suite's client against the gateway, with all its tests at once. */
export function runSuite (suite: Suite, gateway: string): Results {
  const { stdout } = client(suite, gateway, '', 'pipe')
  return JSON.parse(stdout)
}

/** Runs one test: the client prints each message of it, and the result. */
export function runTest (suite: Suite, gateway: string, id: string): void {
  client(suite, gateway, id, 'inherit')
}

// npm hands the options of `npm run cli` to the client in these variables.
function client ({ folder }: Suite, base: string, id: string, stdout: 'pipe' | 'inherit') {
  const { status, signal, ...rest } = spawnSync(process.execPath, ['--no-warnings', 'cli.mjs'], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, npm_config_base: base, npm_config_id: id, npm_package_config_id: id },
    maxBuffer: 64 * 1024 * 1024,
    stdio: ['ignore', stdout, 'inherit'],
    timeout: RUN_TIMEOUT
  })
  if (status !== 0) throw new Error(`the suite's client ended with ${signal ?? status}`)
  return rest
}

async function start (args: string[], port: number, cwd: string, talks: boolean, env: Record<string, string>): Promise<string> {
  const url = `http://localhost:${port}`
  const child = spawn(process.execPath, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', talks ? 'inherit' : 'ignore', 'inherit'] })
  // Killed with this process, however that ends.
  notePid(scratchDir(), child.pid ?? 0)
  child.unref()
  await until(`${args.at(-1)} answers at ${url}`, async () => hasEnded(child) || (await fetch(url)).status > 0, START_TIMEOUT)
  if (hasEnded(child)) throw new Error(`${args.at(-1)} did not start`)
  return url
}

function hasEnded ({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null
}
