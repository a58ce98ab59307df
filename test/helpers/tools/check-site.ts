// Checks the built site: each link, anchor and image of its pages has a target, and its search finds what readers look for. Run by `npm run docs:check`
// after `npm run docs:build`.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { miniSearch } from '../../../docs/.vitepress/search.js'
import { root } from '../docs/doc-blocks.js'

interface Found {
  id: string
  title: string
}

interface Searchable {
  loadJSON (json: string, options: object): { search (query: string): Found[] }
}

const dist = join(root, 'docs/.vitepress/dist')
const base = process.env['DOCS_URL'] === undefined ? '/' : new URL(process.env['DOCS_URL'].replace(/\/?$/, '/')).pathname
const files = readdirSync(dist, { recursive: true, encoding: 'utf8' })
// Without the places where a long code may be broken.
const html = new Map(files.filter(name => name.endsWith('.html')).map(name => [name, readFileSync(join(dist, name), 'utf8').replaceAll(/<wbr\/?>/g, '')]))
const problems: string[] = []

checkLinks()
await checkSearch()
checkTexts()
if (problems.length > 0) throw new Error(`\n${problems.join('\n')}`)
console.log(`${html.size} pages: all links, anchors and images have targets, and the search finds each error code`)

function checkLinks (): void {
  const anchors = new Map([...html].map(([name, text]) => [name, new Set([...text.matchAll(/\sid="([^"]+)"/g)].map(([, id = '']) => decode(id)))]))
  for (const [name, text] of html) {
    for (const [, target = ''] of text.matchAll(/<(?:a|img)\b[^>]*?\s(?:href|src)="([^"]*)"/g)) {
      const { origin, pathname, hash } = new URL(decode(target), `http://site${base}${name}`)
      if (origin !== 'http://site') continue
      const path = decodeURI(pathname).slice(base.length)
      const page = [path, `${path}.html`, `${path}index.html`].find(file => html.has(file))
      if (!pathname.startsWith(base) || (page === undefined && !existsSync(join(dist, path)))) problems.push(`${name}: no target: ${target}`)
      else if (hash !== '' && page !== undefined && anchors.get(page)?.has(decodeURIComponent(hash.slice(1))) === false) problems.push(`${name}: no anchor: ${target}`)
    }
  }
}

async function checkSearch (): Promise<void> {
  const name = files.find(name => /@localSearchIndexroot\.[\w-]+\.js$/.test(name))
  if (name === undefined) throw new Error('the site has no index for its search')
  const { default: json } = await import(pathToFileURL(join(dist, name)).href) as { default: string }
  // The version of VitePress, which searches in the browser.
  const MiniSearch = createRequire(createRequire(import.meta.url).resolve('vitepress/package.json'))('minisearch') as Searchable
  const index = MiniSearch.loadJSON(json, { fields: ['title', 'titles', 'text'], storeFields: ['title', 'titles'], ...miniSearch.options, searchOptions: miniSearch.searchOptions })
  const expectFirst = (query: string, isFound: (text: string, found: Found) => boolean) => {
    const [first] = index.search(query)
    const text = first === undefined ? undefined : htmlOf(first.id)
    if (first === undefined || text === undefined || !isFound(text, first)) problems.push(`the search for "${query}" finds ${first?.id ?? 'nothing'}`)
  }
  const codes = new Set([...html.values()].flatMap(text => text.match(/FST_REDIS_SUITE_[A-Z_]*[A-Z]/g) ?? []))
  for (const code of codes) expectFirst(code, text => text.includes(code))
  for (const words of ['stampede', 'logout everywhere', '429', 'rate limit', 'X-Cache']) {
    expectFirst(words, (text, { id }) => !id.includes('/changelog') && words.toLowerCase().split(' ').every(word => text.toLowerCase().includes(word)))
  }
}

function htmlOf (id: string): string | undefined {
  const path = id.slice(base.length).replace(/#.*$/, '')
  return html.get(`${path}.html`) ?? html.get(`${path}index.html`)
}

function checkTexts (): void {
  const list = readFileSync(join(dist, 'llms.txt'), 'utf8')
  const links = [...list.matchAll(/\]\(([^)]+)\)/g)].map(([, target = '']) => new URL(target, `http://site${base}`).pathname.slice(base.length))
  if (links.length < 20) problems.push(`llms.txt lists only ${links.length} pages`)
  problems.push(...links.filter(path => !existsSync(join(dist, path))).map(path => `llms.txt: no target: ${path}`))
  if (base !== '/' && !existsSync(join(dist, 'sitemap.xml'))) problems.push('no sitemap.xml')
}

function decode (text: string): string {
  return text.replaceAll('&amp;', '&').replaceAll('&quot;', '"').replaceAll('&#39;', "'").replaceAll('&lt;', '<').replaceAll('&gt;', '>')
}
