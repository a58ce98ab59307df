// The prose of the project: comments and texts of code, paragraphs and cells of Markdown, texts of HTML.
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { root } from './doc-blocks.js'

export interface Prose {
  /** `file:line`. */
  place: string
  text: string
  /** Whether it is a text of code: an error, a log line or a test's name. */
  isText: boolean
}

/** Returns the prose of files and folders, given by their paths from the root. Texts without a space are names. */
export function proseOf (paths: readonly string[]): Prose[] {
  return paths.flatMap(filesOf).flatMap(file => {
    const text = readFileSync(join(root, file), 'utf8')
    const found = /\.(?:ts|js|mjs)$/.test(file) ? proseOfCode(text) : file.endsWith('.md') ? proseOfMarkdown(text) : file.endsWith('.html') ? proseOfHtml(text) : []
    return found.map(({ line, ...prose }) => ({ place: `${file}:${line}`, ...prose })).filter(({ text }) => text.includes(' '))
  })
}

interface Found extends Omit<Prose, 'place'> {
  line: number
}

function filesOf (path: string): string[] {
  if (!statSync(join(root, path)).isDirectory()) return [path]
  return readdirSync(join(root, path), { recursive: true, encoding: 'utf8' }).map(name => join(path, name)).filter(file => statSync(join(root, file)).isFile()).sort()
}

function proseOfCode (text: string): Found[] {
  const source = ts.createSourceFile('code.ts', text, ts.ScriptTarget.Latest, true)
  const lineAt = (at: number) => source.getLineAndCharacterOfPosition(at).line + 1
  const found: Found[] = []
  const comments = new Set<number>()
  const addComments = (at: number): void => {
    for (const { pos, end } of [...ts.getLeadingCommentRanges(text, at) ?? [], ...ts.getTrailingCommentRanges(text, at) ?? []]) {
      if (comments.has(pos)) continue
      comments.add(pos)
      const content = text.slice(pos, end).replace(/^\/\*\*?|\*\/$/g, '').replaceAll(/^\s*(?:\*|\/\/) ?/gm, '')
      found.push(...content.split(/\n(?=\s*(?:@|- |\n))/).map(part => ({ line: lineAt(pos), text: joined(part), isText: false })))
    }
  }
  const visit = (node: ts.Node): void => {
    addComments(node.getFullStart())
    addComments(node.end)
    if (ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddle(node) || ts.isTemplateTail(node)) {
      found.push({ line: lineAt(node.getStart()), text: joined(node.text), isText: true })
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  addComments(source.endOfFileToken.getFullStart())
  return found
}

function proseOfMarkdown (text: string): Found[] {
  const found: Found[] = []
  let isBlock = false
  let start = 1
  let paragraph = ''
  const flush = (): void => {
    found.push(...paragraph.split(/(?<!\\)\|/).map(cell => ({ line: start, text: joined(cell), isText: false })))
    paragraph = ''
  }
  for (const [index, line] of [...text.split('\n'), ''].entries()) {
    const isFence = /^\s*```/.test(line)
    if (isFence || /^\s*(?:$|#|[-*|] ?|\d+\.)/.test(line)) flush()
    if (isFence) isBlock = !isBlock
    if (isFence || isBlock) continue
    if (paragraph === '') start = index + 1
    paragraph += ` ${line.replace(/^\s*(?:#+|[-*]|\d+\.)\s/, '')}`
  }
  flush()
  return found
}

function proseOfHtml (text: string): Found[] {
  return text.split('\n').map((line, index) => ({ line: index + 1, text: joined(line.replaceAll(/<[^>]*>/g, ' ')), isText: true }))
}

function joined (text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim()
}
