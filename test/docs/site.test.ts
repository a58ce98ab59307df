import { createRequire } from 'node:module'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { llmsFullText, llmsText, sectionsOf } from '../../docs/.vitepress/llms.js'
import { homepage, resolveTarget, slugify } from '../../docs/.vitepress/markdown.js'
import { apiSidebar, MODULES, sidebar } from '../../docs/.vitepress/navigation.js'
import { boostDocument, fuzzy, miniSearch, tokenize, tokenizeQuery } from '../../docs/.vitepress/search.js'
import { anchorsOf, linksOf, pagesOf, readPage, root } from '../helpers/docs/doc-blocks.js'

const pages = pagesOf().filter(page => page.startsWith('docs/') && page !== 'docs/index.md')
const items = sidebar.flatMap(({ items = [] }) => items)
const fileOf = (link: string) => `docs${link.replace(/\/$/, '/index')}.md`

t.test('the navigation lists each page of docs/ once, and no other page', t => {
  const listed = items.map(({ link = '' }) => link).filter(link => !link.startsWith('/api/'))
  t.same(listed.map(fileOf).sort(), pages.toSorted())
  t.same(sidebar.filter(({ text }) => text === undefined), [])
  t.end()
})

t.test('each page is linked on the first page, or on the page that lists its section, for readers of the repository', t => {
  const linked = new Set(['docs/index.md', 'docs/guides/index.md', 'docs/techniques/index.md'].flatMap(linksOf)
    .map(({ page, target }) => normalize(join(dirname(page), target.replace(/#.*$/, '')))))
  // It only includes CHANGELOG.md, which is linked.
  t.same(pages.filter(page => page !== 'docs/changelog.md' && !linked.has(page)), [])
  t.end()
})

t.test('the navigation of the API reference lists each subpath of the package', t => {
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { exports: Record<string, unknown> }
  t.same(MODULES.toSorted(), Object.keys(exports).filter(path => /^\.\/[\w-]+$/.test(path)).map(path => path.slice(2)).sort())
  t.same(apiSidebar.flatMap(({ items = [] }) => items).filter(({ link = '' }) => link.startsWith('/api/')).length, MODULES.length + 1)
  t.end()
})

t.test('headings have the anchors that GitHub gives them', t => {
  t.equal(slugify('Why a page is not cached'), 'why-a-page-is-not-cached')
  t.equal(slugify('`X-Cache`, and `Cache-Status` (RFC 9211)'), 'x-cache-and-cache-status-rfc-9211')
  t.equal(slugify('What it costs: 6 ns & no more'), 'what-it-costs-6-ns--no-more')
  const anchors = pages.flatMap(page => [...anchorsOf(page)])
  t.ok(anchors.length > 200)
  t.same(anchors.filter(anchor => slugify(anchor) !== anchor), [])
  t.end()
})

t.test('a link to a file outside of docs/ leads to the repository, one of a docstring to the page, one of docs/public to the root of the site', t => {
  t.equal(resolveTarget('guides', '../../examples/cache.ts'), `${homepage}/blob/main/examples/cache.ts`)
  t.equal(resolveTarget('.', '../CHANGELOG.md'), `${homepage}/blob/main/CHANGELOG.md`)
  t.equal(resolveTarget('api/cache', 'docs/plugins/cache.md#options'), '/plugins/cache.md#options')
  t.equal(resolveTarget('plugins', '../public/grafana.json'), '/grafana.json')
  t.equal(resolveTarget('plugins', '../guides/index.md#x'), '../guides/index.md#x')
  t.end()
})

t.test('each link of a docstring to a page has a target', t => {
  const sources = readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts')).map(name => `plugins/${name}`)
  const links = sources.flatMap(file => [...readPage(file).matchAll(/\]\((docs\/[^)\s]+)\)/g)].map(([, target = '']) => ({ file, target })))
  t.ok(links.length > 20, `${links.length} links`)
  t.same(links.filter(({ target }) => {
    const [page = '', anchor] = target.split('#')
    return !existsSync(join(root, page)) || (anchor !== undefined && !anchorsOf(page).has(anchor))
  }), [])
  t.end()
})

t.test('llms.txt lists all pages with their first sentences, and llms-full.txt has their text', t => {
  const sections = sectionsOf(sidebar, file => readPage(`docs/${file}`))
  const list = llmsText(sections, 'https://docs.example/')
  const lines = list.split('\n').filter(line => line.startsWith('- '))
  t.same(lines.filter(line => !/^- \[[^\]]+\]\(https:\/\/docs\.example\/[\w/-]+\.md\): \S.*$/.test(line)), [])
  t.same(lines.map(line => /example(\/[\w/-]+\.md)/.exec(line)?.[1]).sort(), pages.filter(page => page !== 'docs/changelog.md').map(page => page.slice('docs'.length)).sort())
  t.match(list, /^# fastify-redis-suite\n\n> .+\n\n[^]*\n## Plugins\n\n- \[redis\][^]*\n## Optional\n\n/)
  const full = llmsFullText(sections)
  t.notMatch(full, /<!--/)
  for (const { text } of sections.flatMap(({ pages }) => pages)) t.ok(full.includes(text.trim()))
  t.end()
})

t.test('a name is found as a whole and by its words, and an error code not by what all codes have in common', t => {
  t.same(tokenize('the option `staleWhileRevalidate`, 429'), ['the', 'option', 'staleWhileRevalidate', 'stale', 'While', 'Revalidate', '429'])
  t.same(tokenize('FST_REDIS_SUITE_LOCK_LOST'), ['FST_REDIS_SUITE_LOCK_LOST', 'LOCK_LOST', 'LOCK', 'LOST'])
  t.same(tokenizeQuery('fst_redis_suite_lock_lost now'), ['fst_redis_suite_lock_lost', 'now'])
  t.same(tokenizeQuery('LOCK_LOST'), ['LOCK_LOST', 'LOCK', 'LOST'])
  t.same([tokenize('a Retry-After: 1 - or'), tokenizeQuery('retry-after')], [['a', 'Retry-After', 'Retry', 'After', '1', 'or'], ['retry-after', 'retry', 'after']])
  const boosts = ['/errors#x', '/plugins/cache#errors', '/api/cache', '/changelog#x'].map(boostDocument)
  t.same(boosts, boosts.toSorted((a, b) => b - a))
  t.equal(new Set(boosts).size, 4)
  t.same([fuzzy('stampeed'), fuzzy('429'), fuzzy('fst_redis_suite_lock_lost')], [0.2, false, false])
  t.end()
})

interface Found {
  id: string
}

interface Index {
  addAll (sections: object[]): void
  search (query: string): Found[]
}

// The version of VitePress, which searches in the browser.
const MiniSearch = createRequire(createRequire(import.meta.url).resolve('vitepress/package.json'))('minisearch') as new (options: object) => Index

t.test('the search finds each error code and the words of a problem', t => {
  const index = new MiniSearch({ fields: ['title', 'text'], ...miniSearch.options, searchOptions: miniSearch.searchOptions })
  const texts = new Map<string, string>()
  for (const page of pages) {
    for (const [at, section] of readPage(page).split(/^(?=#{1,3} )/m).entries()) texts.set(`${page}#${at}`, section)
  }
  index.addAll([...texts].map(([id, text]) => ({ id, text, title: /^#+ (.*)/.exec(text)?.[1] ?? '' })))
  const codes = new Set(pages.flatMap(page => [...readPage(page).matchAll(/FST_REDIS_SUITE_[A-Z_]*[A-Z]/g)].map(([code]) => code)))
  t.ok(codes.size > 30, `${codes.size} codes`)
  t.same([...codes].filter(code => !texts.get(index.search(code)[0]?.id ?? '')?.includes(code)), [])
  for (const [query, pattern] of [['stampede', /stampede/i], ['logout everywhere', /logout|everywhere/i], ['429', /429/], ['staleWhileRevalidat', /staleWhileRevalidate/]] as const) {
    t.match(texts.get(index.search(query)[0]?.id ?? ''), pattern, query)
  }
  t.end()
})
