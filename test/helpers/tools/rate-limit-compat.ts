// Runs the test suite of @fastify/rate-limit with our plugin in its place. Run by `npm run test:compat`, after a build.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { startRedis } from '../servers/redis-server.js'

// Differences that docs/migrating/rate-limit.md explains. A test that is skipped would leave its simulated clock running.
const DIFFERENT: ReadonlyArray<[test: string, why: string]> = [
  ['When passing NaN to the timeWindow property then the timeWindow should be the default value - 60 seconds', 'wrong options are errors'],
  ['when passing NaN to max variable then it should use the default max - 1000', 'wrong options are errors'],
  ['With NaN in subroute config', 'wrong options are errors'],
  ['wrong timewindow', 'wrong options are errors'],
  ['invalid ipv6Subnet values fall back to /64', 'wrong options are errors'],
  ['Invalid groupId type', 'the text of the error'],
  ['no rate limit with bad rate-limit parameters', 'the text of the error'],
  ['per route rate limit', 'HEAD counts with GET'],
  ['With { increment: false } and exponentialBackoff the peek reports the base window without escalating it', 'it reports the real wait'],
  ['Throw on redis error', 'a client that was closed is a coded 503'],
  ['Skip on redis error', 'no headers are invented'],
  ['With { increment: false } it throws on redis error', 'without skipOnError the process decides']
]

const root = resolve(import.meta.dirname, '../../..')
const peer = dirname(createRequire(import.meta.url).resolve('@fastify/rate-limit'))
const folder = mkdtempSync(join(tmpdir(), 'compat-'))
const server = await startRedis()

try {
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  cpSync(join(peer, 'test'), join(folder, 'test'), { recursive: true })
  // Whether or not a parent folder has a package.json of type module.
  writeFileSync(join(folder, 'package.json'), '{ "type": "commonjs" }')
  writeFileSync(join(folder, 'index.js'), `
    const { rateLimit, normalizeIP } = require(${JSON.stringify(join(root, 'dist/plugins/rate-limit/index.js'))})
    module.exports = Object.assign(rateLimit, { default: rateLimit, fastifyRateLimit: rateLimit, normalizeIP })`)

  const files = [join(folder, 'test'), join(folder, 'test/github-issues')]
    .flatMap(dir => readdirSync(dir).filter(name => name.endsWith('.test.js')).map(name => join(dir, name)))
  for (const file of files) {
    let text = readFileSync(file, 'utf8').replaceAll('REDIS_HOST }', `REDIS_HOST, port: ${server.port} }`).replaceAll('host: REDIS_HOST,', `host: REDIS_HOST, port: ${server.port},`)
    for (const [test] of DIFFERENT) text = text.replaceAll(`test('${test}'`, `test.skip('${test}'`)
    writeFileSync(file, text)
  }

  const { status, stdout } = spawnSync(process.execPath, ['--test', '--test-concurrency=1', '--test-timeout=60000', ...files], { encoding: 'utf8', timeout: 240_000 })
  console.log(stdout.split('\n').filter(line => /^# (tests|pass|fail|skipped|cancelled)/.test(line) || /^\s*not ok/.test(line)).join('\n'))
  console.log(`\nskipped, as they differ on purpose (docs/migrating/rate-limit.md):\n${DIFFERENT.map(([test, why]) => `- ${test}: ${why}`).join('\n')}`)
  process.exitCode = status ?? 1
} finally {
  await server.stop()
  rmSync(folder, { recursive: true, force: true })
}
