import { execFile, spawn } from 'node:child_process'
import { symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { blocksOf, root } from '../helpers/docs/doc-blocks.js'
import { freePort } from '../../tools/servers/free-port.js'
import { forgetPid, notePid, scratchDir } from '../../tools/servers/scratch.js'
import { startRedis, until } from '../helpers/index.js'

// The page as its reader uses it: the app is started by its commands, and each further command is run and must have the output that the page shows.

const blocks = blocksOf('docs/getting-started.md')
const sessions = blocks.filter(({ lang }) => lang === 'console').flatMap(({ line, code }) => code.split(/^\$ /m).slice(1).map(text => {
  const [command = '', ...output] = text.trim().split('\n')
  return { line, command, output: output.join('\n') }
}))
const dir = scratchDir()

writeFileSync(join(dir, 'app.mjs'), blocks.find(({ lang }) => lang === 'js')?.code ?? '')
writeFileSync(join(dir, 'package.json'), '{ "type": "module" }')
/** How long a process may take to load the plugins on a busy machine. */
const START_MS = 60_000

symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({
  extends: join(root, 'tsconfig.json'),
  compilerOptions: {
    allowJs: true,
    paths: { 'fastify-redis-suite': [join(root, 'plugins/index.ts')], 'fastify-redis-suite/*': [join(root, 'plugins/*/index.ts')] }
  }
}))

t.test('each command of Getting started has the output that the page shows', { timeout: 120_000 }, async t => {
  const redis = await startRedis()
  /** The ports of the page, and those of this run. */
  const ports = new Map([['6379', String(redis.port)], ['3000', String(await freePort())], ['3001', String(await freePort())]])
  const here = (text: string): string => text.replaceAll(/\b(?:6379|3000|3001)\b/g, port => ports.get(port) ?? port)
  let running: Array<() => Promise<void>> = []
  t.teardown(async () => { for (const stop of running) await stop() })

  let wasOnRedis = false
  for (const { line, command, output } of sessions) {
    const at = `docs/getting-started.md:${line}: ${command}`
    const isOnRedis = command.startsWith('REDIS_URL=')
    if (isOnRedis || command.startsWith('node ')) {
      // The page has the app in memory stopped before.
      if (isOnRedis && !wasOnRedis) for (const stop of running.splice(0)) await stop()
      wasOnRedis ||= isOnRedis
      running = [...running, await start(here(command), here(output), at)]
      continue
    }
    // The last commands follow "Stop Redis".
    if (command.includes('/products/2')) await redis.kill()
    t.equal((await run(here(command))).trim(), here(output), at)
  }
  t.ok(sessions.length > 15)
  t.ok(wasOnRedis)
})

/** Starts an instance, and waits until its log has all lines of the page. @returns a function that stops it */
async function start (command: string, output: string, at: string): Promise<() => Promise<void>> {
  const { NODE_OPTIONS: _ofTap, REDIS_URL: _redis, PORT: _port, ...env } = process.env
  const folder = scratchDir()
  const [variables = '', args = ''] = [/^(?:[A-Z_]+=\S+ )*/.exec(command)?.[0] ?? '', command.replace(/^.*?\bnode /, '')]
  const given = Object.fromEntries(variables.trim().split(' ').filter(text => text !== '').map(text => text.split('=', 2) as [string, string]))
  const port = given['PORT'] ?? /:(\d+)"\}$/.exec(output)?.[1] ?? ''
  const app = spawn(process.execPath, ['--import', 'tsx', ...args.split(' ')], {
    cwd: dir, env: { ...env, PORT: port, ...given, TSX_TSCONFIG_PATH: join(dir, 'tsconfig.json') }, stdio: ['ignore', 'pipe', 'inherit']
  })
  if (app.pid !== undefined) notePid(folder, app.pid)
  const ended = new Promise<void>(resolve => { app.once('exit', () => resolve()) })
  let log = ''
  app.stdout.setEncoding('utf8').on('data', (text: string) => { log += text })
  const expected = output.split('\n').map(line => line.split('…'))
  await until(`${at} has logged ${output}`, () => expected.every(parts => log.split('\n').some(line => containsInOrder(line, parts))), START_MS)
  return async () => {
    app.kill('SIGKILL')
    await ended
    forgetPid(folder)
  }
}

function containsInOrder (line: string, parts: readonly string[]): boolean {
  let from = 0
  return parts.every(part => {
    const at = line.indexOf(part, from)
    from = at + part.length
    return at >= 0
  })
}

async function run (command: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    execFile('bash', ['-c', command], { cwd: dir, timeout: 60_000 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout.replaceAll('\r', ''))
      else reject(new Error(`${command}: ${error.message} ${stderr}`))
    })
  })
}
