import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { sharedDatabase, startShop } from '../helpers/demo/start-shop.js'
import { anchorsOf, blocksOf, codeSpansOf, isProgram, linksOf, pagesOf, readPage, root, wordsOf, type DocBlock } from '../helpers/docs/doc-blocks.js'
import { codedErrors } from '../helpers/docs/error-codes.js'
import { sharedRedis, startRedis } from '../helpers/index.js'

interface Command {
  /** Page and line. */
  at: string
  words: string[]
  comment: string
}

const { scripts }: { scripts: Record<string, string> } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const pages = pagesOf()
const sources = readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts')).map(name => ({ name, text: readFileSync(join(root, 'plugins', name), 'utf8') }))

/** The pages that describe a folder of plugins/, where they are not named like it. */
const PAGES_OF: Record<string, string[]> = { cache: ['cache', 'data-cache'], events: ['events', 'streams'], upstash: ['../clients'] }

const texts = new Map<string, string>()

function textOf (plugin: string): string {
  const text = texts.get(plugin) ?? (PAGES_OF[plugin] ?? [plugin]).map(page => readPage(`docs/plugins/${page}.md`)).join('\n')
  texts.set(plugin, text)
  return text
}

/** The environment variables of the demo and of the examples, as lines `NAME=`. */
const variables = [
  readFileSync(join(root, '.env.example'), 'utf8'),
  ...readdirSync(join(root, 'examples'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
    .flatMap(name => [...readFileSync(join(root, 'examples', name), 'utf8').matchAll(/process\.env\['(\w+)'\]/g)].map(([, name]) => `${name}=`))
].join('\n')
const blocks = pages.flatMap(blocksOf)
const inLang = (lang: string) => blocks.filter(block => block.lang === lang)
const commands = inLang('sh').flatMap(commandsOf)
const ofProgram = (name: string) => commands.filter(({ words }) => words[0] === name)
t.test('each link of the pages has a target, also within a page', async t => {
  const anchors = new Map<string, Set<string>>()
  const broken = pages.flatMap(linksOf).filter(({ page, target }) => {
    const [path = '', anchor] = target.split('#')
    const file = path === '' ? page : normalize(join(dirname(page), path))
    if (!existsSync(join(root, file))) return true
    if (anchor === undefined) return false
    const known = anchors.get(file) ?? anchorsOf(file)
    anchors.set(file, known)
    return !known.has(anchor)
  })
  t.same(broken, [])
})

t.test('links of the README have the repository\'s address, as npm shows it too, and those of other pages are relative', async t => {
  const wrong = pages.flatMap(linksOf).filter(({ page, target, isAbsolute }) => !target.startsWith('#') && isAbsolute !== (page === 'README.md'))
  t.ok(linksOf('README.md').filter(({ isAbsolute }) => isAbsolute).length > 20)
  t.same(wrong, [])
})

/** The sections that each page of a plugin has, in this order; others may be in between. */
const SECTIONS = ['Example', 'How it works', 'Options', 'Decorators and methods', 'Errors', 'Keys', 'Guarantees', 'Limits', 'See also']

t.test('each page of a plugin has the same sections in the same order, begins with a whole program, and shows with a diagram how it works', async t => {
  const wrong: string[] = []
  for (const page of pages.filter(page => page.startsWith('docs/plugins/'))) {
    const sections = readPage(page).split(/^## /m).slice(1)
    const headings = sections.map(section => section.split('\n', 1)[0] ?? '')
    const found = headings.filter(heading => SECTIONS.includes(heading))
    if (found.join() !== SECTIONS.join()) wrong.push(`${page}: ${found.join(', ')}`)
    const lineOf = (heading: string): number => readPage(page).split('\n').indexOf(`## ${heading}`) + 1
    const example = blocksOf(page).find(({ lang, line }) => lang === 'ts' && line > lineOf('Example') && line < lineOf('How it works'))
    if (example === undefined || !isProgram(example.code)) wrong.push(`${page}: the example is not a whole program`)
    if (!blocksOf(page).some(({ lang, line }) => lang === 'mermaid' && line > lineOf('How it works') && line < lineOf('Options'))) wrong.push(`${page}: no diagram`)
  }
  t.same(wrong, [])
})

/** The types of the decorators, with the page that describes their methods and properties. */
const DECORATORS: Record<string, string> = {
  DataCache: 'data-cache',
  WriteBehind: 'data-cache',
  Sessions: 'session',
  Logins: 'session',
  LoginDecorators: 'session',
  RateLimiter: 'rate-limit',
  Health: 'health',
  Events: 'events',
  EventStream: 'streams',
  HeldLock: 'lock',
  LockHandle: 'lock',
  TestClock: 'testing'
}

t.test('each method and property of a decorator is on the page of its plugin', async t => {
  const missing = Object.entries(DECORATORS).flatMap(([type, page]) => {
    const source = sources.find(({ text }) => new RegExp(`^export interface ${type}\\b`, 'm').test(text))
    const [, body = ''] = new RegExp(`^export interface ${type}\\b[^{]*\\{\\n(.*?)^\\}`, 'ms').exec(source?.text ?? '') ?? []
    const members = [...body.matchAll(/^ {2}(?:readonly )?(\w+)(?: ?[<(]|: )/gm)].map(([, name = '']) => name)
    t.ok(members.length > 0, type)
    return [...new Set(members)].filter(name => !new RegExp(`[\`.]${name}\\b`).test(readPage(`docs/plugins/${page}.md`))).map(name => `${page}: ${type}.${name}`)
  })
  t.same(missing, [])
})

t.test('each ratio of Why is a figure of Performance', async t => {
  const performance = readPage('docs/operations/performance.md')
  const ratios = [...readPage('docs/why.md').matchAll(/\d+\.\d+ ×/g)].map(([ratio]) => ratio)
  t.ok(ratios.length > 5)
  t.same(ratios.filter(ratio => !performance.includes(ratio)), [])
})

t.test('each file and script that the pages name exists', async t => {
  const missing = pages.flatMap(codeSpansOf).filter(({ code }) => {
    const [, script] = /^npm run ([\w:-]+)/.exec(code) ?? []
    if (script !== undefined && !(script in scripts)) return true
    if (!/^(?:docs|plugins|routes|demo|test|bench|examples)\/[\w./-]+$/.test(code)) return false
    return !existsSync(join(root, code)) && !existsSync(join(root, code.replace(/\.js$/, '.ts')))
  })
  t.same(missing, [])
})

t.test('each error code is on the page of its plugin, and no page has another one', async t => {
  const codes = new Set(codedErrors().map(({ code }) => code))
  const plugins = readdirSync(join(root, 'plugins'), { withFileTypes: true }).filter(entry => entry.isDirectory() && entry.name !== 'shared').map(({ name }) => name)
  t.ok(codes.size > 20, `${codes.size} codes`)
  t.same(plugins.flatMap(plugin => {
    const text = textOf(plugin)
    return [...codes].filter(code => code.startsWith(codeOf(plugin, '')) && !text.includes(code))
  }), [], 'codes that are not on the page')
  t.same(pages.flatMap(page => [...readPage(page).matchAll(/FST_REDIS_SUITE_[A-Z_]*[A-Z]/g)].filter(([code]) => !codes.has(code)).map(([code]) => `${page}: ${code}`)), [], 'codes that do not exist')
})

t.test('each option of a plugin or a route has a row on the page, and each nested option is named', async t => {
  const missing: string[] = []
  let options = 0
  for (const { name, text } of sources) {
    const [plugin = ''] = name.split('/')
    if (plugin === 'shared' || !/(?:^|\/|-)options\.ts$/.test(name)) continue
    for (const [, kind = '', members = ''] of text.matchAll(/^(?:export )?interface (?!Resolved)(\w*(?:Options|Paths))\b[^{]*\{\n(.*?)^\}/gms)) {
      const hasRows = /(?:Plugin|Policy|Route\w+)Options$/.test(kind)
      for (const [, option = ''] of members.matchAll(/^ {2}(\w+)\??: /gm)) {
        const place = hasRows ? new RegExp(`^\\|[^|]*\`${option}\``, 'm') : new RegExp(`[\`{,] ?${option}\\b`)
        options++
        if (!place.test(textOf(plugin))) missing.push(`${plugin}: ${kind}.${option}`)
      }
    }
  }
  t.ok(options > 120, `${options} options`)
  t.same(missing, [])
})

t.test('each package that an app of test/compose composes has a row in docs/guides/compositions.md', async t => {
  const rows = readPage('docs/guides/compositions.md').split('\n').filter(line => line.startsWith('| ')).map(line => line.split(' | ', 1)[0] ?? '')
  const sources = readdirSync(join(root, 'test/compose')).map(name => readFileSync(join(root, 'test/compose', name), 'utf8'))
  const packages = new Set(sources.flatMap(text => [...text.matchAll(/from '(@fastify\/[\w-]+|mercurius)'/g)].map(([, name = '']) => name)))
  t.ok(packages.size > 10, `${packages.size} packages`)
  t.same([...packages].filter(name => !rows.some(row => row.includes(`\`${name}\``))), [])
})

t.test('each command of the pages exists', async t => {
  t.ok(commands.length > 0)
  t.same(commands.filter(command => !isKnown(command)), [])
})

t.test('each request to the demo on the pages gets the response that they state', async t => {
  // Its clock stands still, so that no deadline passes on a busy machine.
  const [app] = await startShop(t, { env: { REDIS_URL: (await sharedRedis()).url }, clock: createTestClock() })
  const wrong: string[] = []
  for (const command of ofProgram('curl')) wrong.push(...await sendAsCurl(app, command))
  for (const page of pages) {
    for (const [, path = ''] of readPage(page).matchAll(/`http:\/\/localhost:3000(\/[^\s`]*)`/g)) {
      const { statusCode } = await app.inject(path)
      if (statusCode >= 400) wrong.push(`${page}: ${path}: ${statusCode}`)
    }
  }
  t.ok(ofProgram('curl').length > 0)
  t.same(wrong, [])
})

t.test('a Redis server accepts each of its commands and settings on the pages', async t => {
  // Settings change the server.
  const redis = (await startRedis()).client()
  const settings = inLang('conf').flatMap(({ page, line, code }) => code.split('\n').map((text, i) => ({ ...wordsOf(text), at: `${page}:${line + i + 1}` })))
    .filter(({ words }) => words.length > 0)
    .map(({ words: [name = '', ...values], at }) => ({ at, words: ['redis-cli', 'CONFIG', 'SET', name, values.join(' ')] }))
  const refused: string[] = []
  for (const { at, words: [, name = '', ...args] } of [...ofProgram('redis-cli'), ...settings]) {
    await redis.call(name, ...args).catch((error: Error) => refused.push(`${at}: ${name} ${args.join(' ')}: ${error.message}`))
  }
  t.ok(settings.length > 0)
  t.same(refused, [])
})

t.test('PostgreSQL accepts each block of SQL on the pages', async t => {
  const db = await sharedDatabase()
  const isDone = new Error('the tables of the pages are not kept')
  const work = db.transaction(async query => {
    for (const statement of ['CREATE SCHEMA pages', 'SET LOCAL search_path TO pages', 'CREATE TABLE products (id int PRIMARY KEY)', 'CREATE TABLE orders (key text PRIMARY KEY, value text, fence bigint)',
      'CREATE TABLE invoices (id int PRIMARY KEY, pdf bytea, fence bigint NOT NULL DEFAULT 0)']) await query(statement)
    for (const [i, { page, line, code }] of inLang('sql').entries()) {
      // A statement with parameters is parsed and planned only; a block may have several statements.
      const statement = code.includes('$1') ? `PREPARE block_${i} AS ${code}` : `DO $block$ BEGIN EXECUTE $code$${code}$code$; END $block$`
      await query(statement).catch((error: Error) => { throw new Error(`${page}:${line}: ${error.message}`) })
    }
    throw isDone
  })
  await t.rejects(work, isDone)
})

function codeOf (plugin: string, what: string): string {
  return `FST_REDIS_SUITE_${plugin.toUpperCase().replaceAll('-', '_')}_${what}`
}

/** A line is one command, or several with `&&` between. */
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
  if (name === 'npx') return ['tap', 'tsx'].includes(verb) && rest.some(word => /\.ts$/.test(word)) && rest.filter(word => /\.ts$/.test(word)).every(file => existsSync(join(root, file)))
  if (name === 'docker') return existsSync(join(root, 'docker-compose.yml'))
  return ['curl', 'redis-cli'].includes(name) || existsSync(join(root, name))
}

/** Also compares a header that the comment states (`X-Cache: MISS, and HIT the second time`). @returns what is wrong */
async function sendAsCurl (app: FastifyInstance, { at, words, comment }: Command): Promise<string[]> {
  const url = words.find(word => word.startsWith('localhost:3000'))?.slice('localhost:3000'.length)
  if (url === undefined) return [`${at}: no path of the demo`]
  const method = words.includes('-X') ? words[words.indexOf('-X') + 1] : 'GET'
  const [, header = '', first, second] = /^([\w-]+): (\w+)(?:, and (\w+) the second time)?/.exec(comment) ?? []
  const wrong: string[] = []
  for (const value of second === undefined ? [first] : [first, second]) {
    const response = await app.inject({ method: method as 'GET', url: url || '/' })
    const found = response.headers[header.toLowerCase()]
    if (response.statusCode >= 400) wrong.push(`${at}: ${response.statusCode}`)
    else if (value !== undefined && found !== value) wrong.push(`${at}: ${header} is ${found}`)
  }
  return wrong
}
