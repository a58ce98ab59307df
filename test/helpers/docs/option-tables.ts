// The tables of options in docs/: types and defaults come from the tables in plugins/, texts from the TSDoc of the option types.
import { format } from '@lukeed/ms'
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path/posix'
import ts from 'typescript'
import { EVENTS_OPTIONS } from '../../../plugins/events/options.js'
import type { Option } from '../../../plugins/shared/plugin/option-table.js'
import { readPage, root } from './doc-blocks.js'

type AnyOption = Option<unknown, unknown>

/** The table of each option type. */
export const OPTION_TABLES: Readonly<Record<string, Readonly<Record<string, AnyOption>>>> = {
  EventsPluginOptions: EVENTS_OPTIONS
}

export interface DocumentedOption {
  name: string
  /** The TSDoc without its tags. */
  text: string
  /** What `@default` states; `none` without it. */
  default: string
  /** The targets of `@see`, as Markdown links from the root. */
  see: string[]
}

const START = /<!-- options: (\w+) -->\n/
const TABLE = new RegExp(`${START.source}[^]*?<!-- end of options -->`, 'g')

/** Returns the page with its tables of options as they must be. */
export function renderOptions (page: string): string {
  return readPage(page).replace(TABLE, (_table, type: string) => `<!-- options: ${type} -->\n${tableOf(type, page)}<!-- end of options -->`)
}

/** The names of the option types that have a table on a page. */
export function tablesOn (page: string): string[] {
  return [...readPage(page).matchAll(TABLE)].map(([, type = '']) => type)
}

function tableOf (type: string, page: string): string {
  const table = OPTION_TABLES[type]
  if (table === undefined) throw new Error(`${page}: ${type} is not in OPTION_TABLES of test/helpers/docs/option-tables.ts`)
  const rows = documentedOptions(type).map(({ name, text, see }) => {
    const option = table[name]
    if (option === undefined) throw new Error(`${type}.${name} is not in its table`)
    const links = see.map(link => ` See ${link.replace(/\(docs\/([^)#]*)/, (_target, target: string) => `(${pathFrom(page, target)}`)}.`)
    return `| \`${name}\` | ${escape(typeOf(option))} | ${escape(defaultOf(option))} | ${escape(text + links.join(''))} |\n`
  })
  return `\n| option | type | default | meaning |\n|---|---|---|---|\n${rows.join('')}\n`
}

function pathFrom (page: string, target: string): string {
  return page === `docs/${target}` ? '' : relative('docs', join('docs', target))
}

function escape (cell: string): string {
  return cell.replaceAll('|', '\\|')
}

function typeOf ({ type, limits }: AnyOption): string {
  if (limits === undefined) return type
  const show = (limit: number) => type === 'duration' ? format(limit, true) : type === 'bytes' ? sizeOf(limit) : limit.toLocaleString('en')
  const min = (limits.min ?? 0) > 1 ? limits.min : undefined
  const max = isShown(type, limits.max) ? limits.max : undefined
  if (type !== 'duration' && type !== 'bytes' && max !== undefined) return `${limits.min ?? 0} to ${show(max)}`
  if (min !== undefined && max !== undefined) return `${type}, ${show(min)} to ${show(max)}`
  if (max !== undefined) return `${type}, at most ${show(max)}`
  return min === undefined ? type : `${type}, at least ${show(min)}`
}

/** Limits that only keep a timer or an array from overflowing are not shown. */
function isShown (type: string, max: number | undefined): boolean {
  return max !== undefined && max < (type === 'duration' ? 2 ** 31 - 1 : 10_000_000)
}

/** The default, as Markdown. */
export function defaultOf ({ type, fallback, fallbackText }: AnyOption): string {
  if (fallbackText !== undefined) return fallbackText
  if (fallback === undefined) return 'none'
  if (typeof fallback === 'number') return type === 'duration' ? `${fallback} ms` : type === 'bytes' ? sizeOf(fallback) : `\`${withSeparators(fallback)}\``
  if (typeof fallback === 'string') return `\`'${fallback}'\``
  return `\`${Array.isArray(fallback) ? `[${fallback.map(entry => typeof entry === 'string' ? `'${entry}'` : String(entry)).join(', ')}]` : String(fallback)}\``
}

function withSeparators (value: number): string {
  return Number.isInteger(value) && value >= 10_000 ? value.toLocaleString('en').replaceAll(',', '_') : String(value)
}

function sizeOf (bytes: number): string {
  return bytes % 1024 ** 2 === 0 ? `${bytes / 1024 ** 2} MiB` : `${bytes / 1024} KiB`
}

/** The members that the interface declares itself, in their order. */
export function documentedOptions (type: string): DocumentedOption[] {
  const declaration = interfaces.get(type)
  if (declaration === undefined) throw new Error(`there is no interface ${type} in plugins/`)
  return declaration.members.filter(ts.isPropertySignature).map(member => {
    const name = member.name.getText()
    const comments = ts.getJSDocCommentsAndTags(member).filter(ts.isJSDoc)
    const tags = ts.getJSDocTags(member)
    const textOf = (tag: ts.JSDocTag) => toLine(ts.getTextOfJSDocComment(tag.comment))
    return {
      name,
      text: comments.map(({ comment }) => toLine(ts.getTextOfJSDocComment(comment))).join(' '),
      default: tags.filter(tag => tag.tagName.text === 'default').map(textOf)[0] ?? 'none',
      // The compiler takes the first bracket for a name.
      see: tags.filter(tag => tag.tagName.text === 'see').map(tag => toLine(tag.getText().replace(/^@see\s+/, '').replace(/\n\s*\*\s?/g, ' ')))
    }
  })
}

function toLine (comment: string | undefined): string {
  return (comment ?? '').replaceAll(/\{@link (\w+)\}/g, '`$1`').replaceAll(/\s*\n\s*/g, ' ').trim()
}

const interfaces = new Map(readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts')).flatMap(name => {
  const source = ts.createSourceFile(name, readFileSync(join(root, 'plugins', name), 'utf8'), ts.ScriptTarget.Latest, true)
  return source.statements.filter(ts.isInterfaceDeclaration).map(declaration => [declaration.name.text, declaration] as const)
}))
