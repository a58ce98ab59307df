// llms.txt (https://llmstxt.org): the list of the pages, and llms-full.txt: their text in one file.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { DefaultTheme } from 'vitepress'
import { sidebar } from './navigation.js'

const INTRODUCTION = `# fastify-redis-suite

> Fastify 5 plugins on Redis, in TypeScript: connection, response and data cache, sessions, sliding-window rate limits, health routes, events, streams, locks, idempotency and metrics.
`

/** Writes both files beside the pages of the built site. */
export function writeLlmsTexts (srcDir: string, outDir: string): void {
  const sections = sidebar.map(({ text = '', items = [] }) => ({ text, pages: items.filter(({ link }) => link !== undefined && !link.endsWith('/')) }))
  const list = sections.map(({ text, pages }) => `## ${text}\n\n${pages.map(lineOf).join('\n')}`).join('\n\n')
  const texts = sections.flatMap(({ pages }) => pages).map(({ link = '' }) => readFileSync(join(srcDir, `${link}.md`), 'utf8').replace(/^---\n.*?\n---\n/s, ''))
  writeFileSync(join(outDir, 'llms.txt'), `${INTRODUCTION}\n${list}\n`)
  writeFileSync(join(outDir, 'llms-full.txt'), `${INTRODUCTION}\n${texts.join('\n\n')}\n`)
}

function lineOf ({ text = '', link = '' }: DefaultTheme.SidebarItem): string {
  return `- [${text}](${link})`
}
