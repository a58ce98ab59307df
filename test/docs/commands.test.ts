import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import type { FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { blocksOf, pagesOf, readPage, root, wordsOf, type DocBlock } from '../helpers/docs/doc-blocks.js'
import { startRedis } from '../helpers/index.js'

interface Command {
  /** Where it stands. */
  at: string
  words: string[]
  comment: string
}

const { scripts }: { scripts: Record<string, string> } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const variables = readFileSync(join(root, '.env.example'), 'utf8')
const blocks = pagesOf().flatMap(blocksOf)
const inLang = (lang: string) => blocks.filter(block => block.lang === lang)
const commands = inLang('sh').flatMap(commandsOf)
const ofProgram = (name: string) => commands.filter(({ words }) => words[0] === name)
const server = await startRedis()

t.test('each command on the pages is one that there is', async t => {
  t.ok(commands.length > 0)
  for (const command of commands) t.ok(isKnown(command), `${command.at}: ${command.words.join(' ')}`)
})

t.test('each request to the demo on the pages is answered as they say', async t => {
  const app = await buildApp(shopConfig({ REDIS_URL: server.url }))
  t.teardown(() => app.close())
  for (const command of ofProgram('curl')) await sendAsCurl(t, app, command)
  for (const page of pagesOf()) {
    for (const [, path = ''] of readPage(page).matchAll(/`http:\/\/localhost:3000(\/[^\s`]*)`/g)) {
      t.ok((await app.inject(path)).statusCode < 400, `${page}: ${path}`)
    }
  }
})

t.test('each command and setting of Redis on the pages is taken by a server', async t => {
  const redis = new Redis(server.url)
  t.teardown(() => { redis.disconnect() })
  const settings = inLang('conf').flatMap(({ page, line, code }) => code.split('\n').map((text, i) => ({ ...wordsOf(text), at: `${page}:${line + i + 1}` })))
    .filter(({ words }) => words.length > 0)
    .map(({ words: [name = '', ...values], at }) => ({ at, words: ['redis-cli', 'CONFIG', 'SET', name, values.join(' ')] }))
  for (const { at, words: [, name = '', ...args] } of [...ofProgram('redis-cli'), ...settings]) {
    await t.resolves(redis.call(name, ...args), `${at}: ${name} ${args.join(' ')}`)
  }
})

t.test('each block of SQL on the pages is understood by PostgreSQL', async t => {
  const db = await PGlite.create()
  t.teardown(() => db.close())
  await db.exec(`CREATE TABLE products (id int PRIMARY KEY);
    CREATE TABLE orders (key text PRIMARY KEY, value text, fence bigint);
    CREATE TABLE invoices (id int PRIMARY KEY, pdf bytea, fence bigint NOT NULL DEFAULT 0)`)
  for (const { page, line, code } of inLang('sql')) {
    // What has parameters is parsed and checked only.
    await t.resolves(async () => { await (code.includes('$1') ? db.describeQuery(code) : db.exec(code)) }, `${page}:${line}`)
  }
})

/** One a line, or several with `&&` between. */
function commandsOf ({ page, line, code }: DocBlock): Command[] {
  return code.split('\n').flatMap((text, i) => {
    const { words, comment } = wordsOf(text)
    const parts = words.join('\0').split('\0&&\0').map(part => part.split('\0'))
    return words.length === 0 ? [] : parts.map(part => ({ at: `${page}:${line + i + 1}`, words: part, comment }))
  })
}

function isKnown ({ words }: Command): boolean {
  const first = words.findIndex(word => !/^[A-Z_]+=/.test(word))
  const [name = '', verb = '', ...rest] = words.slice(first)
  if (words.slice(0, first).some(word => !new RegExp(`^${word.split('=', 1)[0]}=`, 'm').test(variables))) return false
  if (name === 'npm') return verb === 'run' ? (rest[0] ?? '') in scripts : ['ci', 'install', 'uninstall'].includes(verb) || verb in scripts
  if (name === 'npx') return ['tap', 'tsx'].includes(verb) && existsSync(join(root, rest.at(-1) ?? ''))
  if (name === 'docker') return existsSync(join(root, 'docker-compose.yml'))
  return ['curl', 'redis-cli'].includes(name) || existsSync(join(root, name))
}

/** What a comment says of a header (`X-Cache: MISS, and HIT the second time`) is looked for. */
async function sendAsCurl (t: Test, app: FastifyInstance, { at, words, comment }: Command): Promise<void> {
  const url = words.find(word => word.startsWith('localhost:3000'))?.slice('localhost:3000'.length)
  t.ok(url, `${at}: a path of the demo`)
  const method = words.includes('-X') ? words[words.indexOf('-X') + 1] : 'GET'
  const [, header = '', first, second] = /^([\w-]+): (\w+)(?:, and (\w+) the second time)?/.exec(comment) ?? []
  for (const value of second === undefined ? [first] : [first, second]) {
    const response = await app.inject({ method: method as 'GET', url: url || '/' })
    t.ok(response.statusCode < 400, `${at}: ${response.statusCode}`)
    if (value !== undefined) t.equal(response.headers[header.toLowerCase()], value, at)
  }
}
