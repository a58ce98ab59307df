import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { anchorsOf, codeSpansOf, linksOf, pagesOf, readPage, root } from '../helpers/docs/doc-blocks.js'

const pages = pagesOf()
const sources = readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts')).map(name => ({ name, text: readFileSync(join(root, 'plugins', name), 'utf8') }))

/** Of a folder of plugins/ the pages that describe it. */
const PAGES_OF: Record<string, string[]> = { cache: ['cache', 'data-cache'], events: ['events', 'streams'] }

const textOf = (plugin: string) => (PAGES_OF[plugin] ?? [plugin]).map(page => readPage(`docs/${page}.md`)).join('\n')

t.test('each link on the pages leads somewhere, also within a page', async t => {
  for (const { page, line, target } of pages.flatMap(linksOf)) {
    const [path = '', anchor] = target.split('#')
    const file = path === '' ? page : normalize(join(dirname(page), path))
    t.ok(existsSync(join(root, file)), `${page}:${line}: ${target}`)
    if (anchor !== undefined) t.ok(anchorsOf(file).has(anchor), `${page}:${line}: ${target}`)
  }
})

t.test('each page of docs is in its index', async t => {
  const listed = new Set(linksOf('docs/README.md').map(({ target }) => target))
  for (const name of readdirSync(join(root, 'docs')).filter(name => name.endsWith('.md') && name !== 'README.md')) t.ok(listed.has(name), name)
})

t.test('each file and script that the pages name is there', async t => {
  const { scripts }: { scripts: Record<string, string> } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  for (const { page, line, code } of pages.flatMap(codeSpansOf)) {
    const [, script] = /^npm run ([\w:-]+)/.exec(code) ?? []
    if (script !== undefined) t.ok(script in scripts, `${page}:${line}: ${code}`)
    if (!/^(?:docs|plugins|routes|demo|test|bench|examples)\/[\w./-]+$/.test(code)) continue
    t.ok(existsSync(join(root, code)) || existsSync(join(root, code.replace(/\.js$/, '.ts'))), `${page}:${line}: ${code}`)
  }
})

t.test('each error code that there is stands on its plugin\'s page, and no other', async t => {
  const codes = new Set<string>()
  for (const { text } of sources) {
    for (const [, plugin = '', what = ''] of text.matchAll(/pluginError\('([\w-]+)', '(\w+)'/g)) codes.add(codeOf(plugin, what))
    for (const [, plugin = ''] of text.matchAll(/(?:invalidOptionError|readOptions)\('([\w-]+)'/g)) codes.add(codeOf(plugin, 'INVALID_OPTION'))
    for (const [, plugin = ''] of text.matchAll(/alreadyRegisteredError\('([\w-]+)'/g)) codes.add(codeOf(plugin, 'ALREADY_REGISTERED'))
    const [, kinds = ''] = /type ConnectFailure = (.+)/.exec(text) ?? []
    for (const [, kind = ''] of kinds.matchAll(/'(\w+)'/g)) codes.add(codeOf('redis', `CONNECT_${kind}`))
  }
  const plugins = readdirSync(join(root, 'plugins'), { withFileTypes: true }).filter(entry => entry.isDirectory() && entry.name !== 'shared').map(({ name }) => name)
  for (const plugin of plugins) {
    for (const code of codes) if (code.startsWith(codeOf(plugin, ''))) t.ok(textOf(plugin).includes(code), code)
  }
  for (const page of pages) {
    for (const [code] of readPage(page).matchAll(/FST_REDIS_SUITE_[A-Z_]*[A-Z]/g)) t.ok(codes.has(code), `${page}: ${code}`)
  }
})

t.test('each option that a plugin or a route takes has its row on the page, and those within are named', async t => {
  for (const { name, text } of sources) {
    const [plugin = ''] = name.split('/')
    if (plugin === 'shared' || !/(?:^|\/|-)options\.ts$/.test(name)) continue
    for (const [, kind = '', members = ''] of text.matchAll(/^(?:export )?interface (?!Resolved)(\w*(?:Options|Paths))\b[^{]*\{\n(.*?)^\}/gms)) {
      const hasRows = /(?:Plugin|Policy|Route\w+)Options$/.test(kind)
      for (const [, option = ''] of members.matchAll(/^ {2}(\w+)\??: /gm)) {
        const place = hasRows ? new RegExp(`^\\|[^|]*\`${option}\``, 'm') : new RegExp(`[\`{,] ?${option}\\b`)
        t.match(textOf(plugin), place, `${plugin}: ${option}`)
      }
    }
  }
})

function codeOf (plugin: string, what: string): string {
  return `FST_REDIS_SUITE_${plugin.toUpperCase().replaceAll('-', '_')}_${what}`
}
