// The parts of the pages that can be checked: blocks of code, links, headings.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { slugify } from '../../../docs/.vitepress/markdown.js'

export const root = resolve(import.meta.dirname, '../../..')

export interface DocBlock {
  /** Such as `docs/plugins/cache.md`. */
  page: string
  /** The line on which its fence begins. */
  line: number
  lang: string
  code: string
}

export interface DocLink {
  page: string
  line: number
  target: string
}

const FENCE = /^( *)```(\w*)[^`]*$/

/** README.md, CONTRIBUTING.md, SECURITY.md and all of docs/ but the generated API reference. */
export function pagesOf (): string[] {
  const pages = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.md') && !/^(?:api|\.vitepress)\//.test(name)).map(name => `docs/${name}`).sort()
  return ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', ...pages]
}

export function readPage (page: string): string {
  return readFileSync(join(root, page), 'utf8')
}

/** The fenced blocks of a page, without the indentation of a surrounding list. */
export function blocksOf (page: string): DocBlock[] {
  const blocks: DocBlock[] = []
  let open: { indent: number, line: number, lang: string, lines: string[] } | undefined
  for (const [i, text] of readPage(page).split('\n').entries()) {
    const [, indent = '', lang = ''] = FENCE.exec(text) ?? []
    const isFence = text.trimStart().startsWith('```')
    if (open !== undefined && isFence) {
      blocks.push({ page, line: open.line, lang: open.lang, code: open.lines.join('\n') })
      open = undefined
    } else if (open !== undefined) {
      open.lines.push(text.slice(open.indent))
    } else if (isFence) {
      open = { indent: indent.length, line: i + 1, lang, lines: [] }
    }
  }
  if (open !== undefined) throw new Error(`${page}:${open.line}: a block that does not end`)
  return blocks
}

/** A block as a module; of a diff, its result. Undefined if it is not TypeScript or JavaScript. */
export function moduleOf ({ lang, code }: DocBlock): string | undefined {
  if (lang === 'ts' || lang === 'js') return code
  if (lang !== 'diff') return undefined
  return code.split('\n').map(line => line.startsWith('-') ? '' : line.slice(1)).join('\n')
}

/** Whether the block is a program, and not a fragment. */
export function isProgram (code: string): boolean {
  return /^import Fastify\b/m.test(code) && /^const app = Fastify\(/m.test(code)
}

/** A page without its blocks. */
function proseOf (page: string): string[] {
  let isInBlock = false
  return readPage(page).split('\n').map(line => {
    const isFence = line.trimStart().startsWith('```')
    if (isFence) isInBlock = !isInBlock
    return isFence || isInBlock ? '' : line
  })
}

const { homepage } = JSON.parse(readPage('package.json')) as { homepage: string }
const REPOSITORY = homepage.replace(/#.*$/, '')
/** The address of a file in the repository, as pages need it that are read elsewhere. */
const FILE_ADDRESS = new RegExp(`^${REPOSITORY}/(?:blob|tree|raw)/main/`)

/** The links of a page to other pages and files of the project, relative to the page; with `isAbsolute` for those that have the repository's address. */
export function linksOf (page: string): Array<DocLink & { isAbsolute: boolean }> {
  return proseOf(page).flatMap((text, i) => [...text.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = '']) => {
      const isAbsolute = FILE_ADDRESS.test(target)
      return { page, line: i + 1, isAbsolute, target: isAbsolute ? relative(dirname(page), target.replace(FILE_ADDRESS, '')) : target }
    })
    .filter(({ target }) => !/^[a-z]+:/.test(target)))
}

/** The texts between backticks, outside of blocks. */
export function codeSpansOf (page: string): Array<{ page: string, line: number, code: string }> {
  return proseOf(page).flatMap((text, i) => [...text.matchAll(/`([^`]+)`/g)].map(([, code = '']) => ({ page, line: i + 1, code })))
}

/** The anchors of a page's headings, in GitHub's form. */
export function anchorsOf (page: string): Set<string> {
  const seen = new Map<string, number>()
  const anchors = new Set<string>()
  for (const line of proseOf(page)) {
    const [, heading] = /^#{1,6} (.+)$/.exec(line) ?? []
    if (heading === undefined) continue
    const slug = slugify(heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1'))
    const count = seen.get(slug) ?? 0
    seen.set(slug, count + 1)
    anchors.add(count === 0 ? slug : `${slug}-${count}`)
  }
  return anchors
}

/** The words of a command line: quotes hold words together, `#` begins a comment. */
export function wordsOf (line: string): { words: string[], comment: string } {
  const words: string[] = []
  let rest = line.trim()
  while (rest !== '' && !rest.startsWith('#')) {
    const [word = ''] = /^(?:'[^']*'|"[^"]*"|[^\s'"])+/.exec(rest) ?? []
    if (word === '') throw new Error(`a quote that does not end: ${line}`)
    words.push(word.replaceAll(/'([^']*)'|"([^"]*)"/g, '$1$2'))
    rest = rest.slice(word.length).trimStart()
  }
  return { words, comment: rest.replace(/^#\s*/, '') }
}
