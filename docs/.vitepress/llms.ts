// llms.txt (https://llmstxt.org): a list of the pages for language models; llms-full.txt: their text in one file. Each
// page is beside its HTML as Markdown.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { DefaultTheme } from 'vitepress'
import { sidebar } from './navigation.js'

const INTRODUCTION = `# fastify-redis-suite

> Fastify 5 plugins on Redis, in TypeScript: connection, response and data cache, sessions, sliding-window rate limits, health routes, events, streams, locks, idempotency and metrics.

Each plugin is registered alone or with the others, on one Redis, Sentinel, a Cluster or Valkey, or in memory.
`

/** Sections that a reader with little room may skip, as the format calls them. */
const OPTIONAL = new Set(['Internals', 'Migrating from'])

interface Page {
  /** As in the navigation: `/plugins/cache`, `/guides/`. */
  link: string
  title: string
  /** The Markdown without front matter and comments. */
  text: string
}

interface Section {
  text: string
  pages: Page[]
}

/**
 * Writes both files, and the pages as Markdown, beside the built site.
 *
 * @param site - its address, which ends in `/`; `/` if it is not known
 */
export function writeLlmsTexts (srcDir: string, outDir: string, site: string): void {
  const sections = sectionsOf(sidebar, file => readFileSync(join(srcDir, file), 'utf8'))
  writeFileSync(join(outDir, 'llms.txt'), llmsText(sections, site))
  writeFileSync(join(outDir, 'llms-full.txt'), llmsFullText(sections))
  for (const { link, text } of sections.flatMap(({ pages }) => pages)) {
    const file = join(outDir, fileOf(link))
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, text)
  }
}

/**
 * Returns the pages of the navigation by its sections, without the generated reference and the changelog.
 *
 * @param read - returns the source of a page
 */
export function sectionsOf (items: readonly DefaultTheme.SidebarItem[], read: (file: string) => string): Section[] {
  return items.map(({ text = '', items = [] }) => ({
    text,
    pages: items.flatMap(({ text: title = '', link }) =>
      link === undefined || link.startsWith('/api/') || link === '/changelog'
        ? []
        : [{ link, title, text: plainText(read(fileOf(link))) }])
  })).filter(({ pages }) => pages.length > 0)
}

/** The list of the pages, each with its first sentences. */
export function llmsText (sections: readonly Section[], site: string): string {
  const lines = ({ pages }: Section) =>
    pages.map(({ link, title, text }) => `- [${title}](${site}${fileOf(link)}): ${descriptionOf(text)}`).join('\n')
  const required = sections.filter(({ text }) => !OPTIONAL.has(text)).map(section =>
    `## ${section.text}\n\n${lines(section)}`)
  const optional = sections.filter(({ text }) => OPTIONAL.has(text)).map(lines).join('\n')
  return `${INTRODUCTION}\n${required.join('\n\n')}\n\n## Optional\n\n${optional}\n`
}

/** The text of all pages. */
export function llmsFullText (sections: readonly Section[]): string {
  return `${INTRODUCTION}\n${sections.flatMap(({ pages }) => pages).map(({ text }) => text.trim()).join('\n\n')}\n`
}

/** Returns the file of a page in docs/, and of its Markdown in the site. */
function fileOf (link: string): string {
  return `${link.slice(1).replace(/(^|\/)$/, '$1index')}.md`
}

function plainText (markdown: string): string {
  return markdown.replace(/^---\n.*?\n---\n/s, '').replaceAll(/^<!--.*?-->\n+/gms, '')
}

const MIN_DESCRIPTION = 80

/** Returns the first sentences of the first paragraph, as many as describe the page. */
function descriptionOf (text: string): string {
  const paragraph = text.replaceAll(/```.*?```/gs, '').split(/\n{2,}/).find(part => /^[A-Z`[*]/.test(part)) ?? ''
  const plain = paragraph.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll(/\s+/g, ' ').trim().replace(/:$/, '.')
  let description = ''
  for (const sentence of plain.split(/(?<=[.:]) /)) {
    if (description.length >= MIN_DESCRIPTION) break
    description += ` ${sentence}`
  }
  return description.trim().replace(/:$/, '.')
}
