// Changes of Markdown that let the same pages work in the repository and on the site.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import type { MarkdownRenderer } from 'vitepress'

const { homepage: page } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
) as { homepage: string }

/** The address of the repository. */
export const homepage = page.replace(/#.*$/, '')

/** Returns the anchor that GitHub gives a heading, so that a link works in both places. */
export function slugify (heading: string): string {
  return heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, '').trim().replaceAll(' ', '-')
}

/** Links to files outside of docs/ lead to the repository, and links into docs/public to the root of the site. */
export function linkToRepository (md: MarkdownRenderer): void {
  md.core.ruler.push('link-to-repository', ({ tokens, env }) => {
    const { relativePath } = env as { relativePath?: string }
    // A title alone is rendered without a page.
    if (relativePath === undefined) return
    const folder = dirname(relativePath)
    for (const token of tokens.flatMap(({ children }) => children ?? [])) {
      const name = token.type === 'image' ? 'src' : 'href'
      const target = token.attrGet(name)
      if (target !== null && /^(?:\.{1,2}|docs)\//.test(target)) token.attrSet(name, resolveTarget(folder, target))
    }
  })
}

/** Returns where a link leads on the site. @param folder - the page's folder in docs/ */
export function resolveTarget (folder: string, target: string): string {
  // Docstrings, and the API reference that is made of them, name a page by its path from the root.
  if (target.startsWith('docs/')) return target.slice('docs'.length)
  const path = join('docs', folder, target)
  if (path.startsWith('docs/public/')) return path.slice('docs/public'.length)
  if (!path.startsWith('docs/')) return `${homepage}/blob/main/${path}`
  return target
}

/** A fence of the language `mermaid` becomes the component that draws it. */
export function mermaidFences (md: MarkdownRenderer): void {
  const renderFence = md.renderer.rules.fence
  md.renderer.rules.fence = (tokens, index, ...rest) => {
    const token = tokens[index]
    if (token?.info.trim() === 'mermaid') return `<MermaidDiagram source="${encodeURIComponent(token.content)}" />`
    return renderFence?.(tokens, index, ...rest) ?? ''
  }
}

/** The longest code of a table that stays on one line. Longer ones would make the table scroll. */
const MAX_UNBROKEN = 28

/**
 * A long code in a table gets the class `long`, and can be broken after each part of a name, as in
 * `FST_REDIS_SUITE_LOCK_LOST` and `{prefix}:lock:held`. `<wbr>` is neither copied nor in the index of the search.
 */
export function breakLongCodes (md: MarkdownRenderer): void {
  md.core.ruler.push('break-long-codes', ({ tokens }) => {
    let isCell = false
    for (const { type, children } of tokens) {
      if (type === 'td_open') isCell = true
      if (type === 'td_close') isCell = false
      if (!isCell || children === null) continue
      for (const child of children) {
        if (child.type === 'code_inline' && child.content.length > MAX_UNBROKEN) child.attrJoin('class', 'long')
      }
    }
  })
  const renderCode = md.renderer.rules.code_inline
  md.renderer.rules.code_inline = (tokens, index, ...rest) => {
    const token = tokens[index]
    if (token?.attrGet('class') !== 'long') return renderCode?.(tokens, index, ...rest) ?? ''
    return `<code class="long">${md.utils.escapeHtml(token.content).replaceAll(/[_:/](?=[\w{])/g, '$&<wbr>')}</code>`
  }
}
