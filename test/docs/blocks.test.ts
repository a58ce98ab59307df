import { execFile } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { blocksOf, isProgram, moduleOf, pagesOf, root, type DocBlock } from '../helpers/docs/doc-blocks.js'
import { startRedis } from '../helpers/index.js'
import { startUpstashRest } from '../helpers/servers/upstash-rest.js'
import { scratchDir } from '../../tools/servers/scratch.js'

const PRELUDE = 'test/fixtures/doc-blocks.d.ts'
const COMPILER = 'node_modules/@typescript/native/bin/tsc'

const dir = scratchDir()
const blocks = pagesOf().flatMap(blocksOf)
const modules = blocks.flatMap(block => {
  const code = moduleOf(block)
  return code === undefined ? [] : [{ block, code, file: join(dir, `${nameOf(block)}.${block.lang === 'js' ? 'js' : 'ts'}`) }]
})

writeModules()

t.test('each block of TypeScript and JavaScript on the pages compiles, by the strict rules of this project', async t => {
  t.ok(modules.length > 0)
  // Each further thread checks the types that all blocks share again.
  const { output, exitCode } = await run([join(root, COMPILER), '--project', dir, '--singleThreaded'])
  t.same(output.split('\n').filter(line => line !== '').map(onPage), [])
  t.equal(exitCode, 0)
})

t.test('each whole program on the pages runs to its end', async t => {
  const programs = modules.filter(({ code }) => isProgram(code))
  t.ok(programs.length > 0)
  const server = await startRedis()
  const rest = await startUpstashRest(server.url)
  const env = { ...process.env, PORT: '0', REDIS_URL: server.url, UPSTASH_REDIS_REST_URL: rest.url, UPSTASH_REDIS_REST_TOKEN: rest.token, CACHE_REDIS_URL: server.url, SESSION_SECRET: 'of the pages, 32 characters or more', TSX_TSCONFIG_PATH: join(dir, 'tsconfig.json') }
  // One process for all of them, as each would load the plugins again; a program that leaves something running keeps it from its end.
  const runner = join(dir, 'run', 'all.ts')
  writeFileSync(runner, programs.map(({ block, file }) => `console.log('runs ${block.page}:${block.line}')\nawait import('./${file.slice(dir.length + 1)}')\n`).join(''))
  const { output, exitCode } = await run(['--import', 'tsx', runner], env)
  t.equal(exitCode, 0, output)
  t.same([...output.matchAll(/^runs (.*)$/gm)].map(([, at]) => at), programs.map(({ block }) => `${block.page}:${block.line}`), output)
})

/** Writes each block as a module, as a user of the package would; programs get an end. */
function writeModules (): void {
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
  mkdirSync(join(dir, 'run'))
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }')
  for (const { code, file } of modules) {
    writeFileSync(file, `${code}\nexport {}\n`)
    if (isProgram(code)) writeFileSync(join(dir, 'run', file.slice(dir.length + 1)), `${code.replaceAll(/\bport: \d+/g, 'port: 0')}\nawait app.close()\n`)
  }
  writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({
    extends: join(root, 'tsconfig.json'),
    compilerOptions: {
      rootDir: '/',
      // A file of an example that a page includes may import another one.
      rootDirs: [dir, join(root, 'examples/guides')],
      allowJs: true,
      // A block shows something, and need not use it.
      noUnusedLocals: false,
      noUnusedParameters: false,
      typeRoots: [join(root, 'node_modules/@types')],
      paths: { 'fastify-redis-suite': [join(root, 'plugins/index.ts')], 'fastify-redis-suite/*': [join(root, 'plugins/*/index.ts')] }
    },
    files: [...modules.map(({ file }) => file), join(root, PRELUDE)],
    include: [join(root, 'plugins/shared/*.d.ts')]
  }))
}

/** As a file's name: `docs__plugins__cache@12`. */
function nameOf ({ page, line }: DocBlock): string {
  return `${page.replaceAll('/', '__').replace(/\.md$/, '')}@${line}`
}

/** Returns where a line of the compiler's output is on the page. */
function onPage (line: string): string {
  return line.replace(/^.*?([\w-]+)@(\d+)\.[jt]s\((\d+),/, (_, page: string, from: string, at: string) => `${page.replaceAll('__', '/')}.md:${Number(from) + Number(at)} (`)
}

/** Node.js as it is: without what tap would have it load. */
async function run (args: string[], env = process.env): Promise<{ output: string, exitCode: unknown }> {
  return await new Promise(resolve => execFile('env', ['-u', 'NODE_OPTIONS', process.execPath, ...args], { cwd: root, env, timeout: 200_000 }, (error, stdout, stderr) => {
    resolve({ output: `${stdout}${stderr}`, exitCode: error === null ? 0 : error.code ?? error.signal })
  }))
}
