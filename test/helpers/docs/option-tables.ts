// The tables of options in docs/: types and defaults come from the tables in plugins/, texts from the TSDoc of the option types.
import { format } from '@lukeed/ms'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path/posix'
import ts from 'typescript'
import { VALUE_OPTIONS } from '../../../plugins/cache/data/value-options.js'
import { WRITE_BEHIND_OPTIONS } from '../../../plugins/cache/data/write-behind/options.js'
import { KEY_OPTIONS, ROUTE_CACHE_OPTIONS } from '../../../plugins/cache/http/route-options.js'
import { CACHE_OPTIONS } from '../../../plugins/cache/options.js'
import { EVENTS_OPTIONS } from '../../../plugins/events/options.js'
import { SSE_OPTIONS } from '../../../plugins/events/sse/options.js'
import { CONSUME_OPTIONS, STREAM_OPTIONS } from '../../../plugins/events/stream/options.js'
import { CHECK_OPTIONS } from '../../../plugins/health/checks.js'
import { HEALTH_OPTIONS } from '../../../plugins/health/options.js'
import { IDEMPOTENCY_OPTIONS, ROUTE_IDEMPOTENCY_OPTIONS } from '../../../plugins/idempotency/options.js'
import { CONCURRENCY_OPTIONS } from '../../../plugins/lock/concurrency/options.js'
import { LOCK_OPTIONS, LOCK_PLUGIN_OPTIONS, ONCE_OPTIONS } from '../../../plugins/lock/options.js'
import { PERMIT_OPTIONS, SEMAPHORE_OPTIONS } from '../../../plugins/lock/semaphore/semaphore.js'
import { HOLD_OPTIONS } from '../../../plugins/rate-limit/api/holds.js'
import { METRICS_OPTIONS } from '../../../plugins/metrics/options.js'
import { RATE_LIMIT_OPTIONS, ROUTE_RATE_LIMIT_OPTIONS } from '../../../plugins/rate-limit/options/route.js'
import { CALL_OPTIONS, SUITE_OPTIONS } from '../../../plugins/redis/options.js'
import { SESSION_OPTIONS } from '../../../plugins/session/options.js'
import type { Option } from '../../../plugins/shared/plugin/option-table.js'
import { TEST_CLOCK_OPTIONS } from '../../../plugins/testing/options.js'
import { readPage, root } from './doc-blocks.js'

type AnyOption = Option<unknown, unknown>

/** The table of each option type. */
export const OPTION_TABLES: Readonly<Record<string, Readonly<Record<string, AnyOption>>>> = {
  SuiteOptions: SUITE_OPTIONS,
  RedisCallOptions: CALL_OPTIONS,
  CachePluginOptions: CACHE_OPTIONS,
  RouteCacheOptions: ROUTE_CACHE_OPTIONS,
  KeyOptions: KEY_OPTIONS,
  ValueOptions: VALUE_OPTIONS,
  GetOrSetOptions: VALUE_OPTIONS,
  WriteBehindOptions: WRITE_BEHIND_OPTIONS,
  EventsPluginOptions: EVENTS_OPTIONS,
  SseOptions: SSE_OPTIONS,
  StreamOptions: STREAM_OPTIONS,
  ConsumeOptions: CONSUME_OPTIONS,
  SessionPluginOptions: SESSION_OPTIONS,
  LockOptions: LOCK_OPTIONS,
  OnceOptions: ONCE_OPTIONS,
  LockPluginOptions: LOCK_PLUGIN_OPTIONS,
  SemaphoreOptions: SEMAPHORE_OPTIONS,
  PermitRequest: PERMIT_OPTIONS,
  ConcurrencyOptions: CONCURRENCY_OPTIONS,
  HoldOptions: HOLD_OPTIONS,
  RouteIdempotencyOptions: ROUTE_IDEMPOTENCY_OPTIONS,
  IdempotencyPluginOptions: IDEMPOTENCY_OPTIONS,
  HealthPluginOptions: HEALTH_OPTIONS,
  CheckOptions: CHECK_OPTIONS,
  RouteRateLimitOptions: ROUTE_RATE_LIMIT_OPTIONS,
  PolicyOptions: ROUTE_RATE_LIMIT_OPTIONS,
  RateLimitPluginOptions: RATE_LIMIT_OPTIONS,
  MetricsPluginOptions: METRICS_OPTIONS,
  TestClockOptions: TEST_CLOCK_OPTIONS
}

export interface DocumentedOption {
  /** The interface that declares it. */
  type: string
  name: string
  /** The TSDoc without its tags. */
  text: string
  /** The text of `@default`; `none` without it. */
  default: string
  /** The targets of `@see`, as Markdown links from the root. */
  see: string[]
}

// A table may have the options of several types.
const START = /<!-- options: ([\w, ]+) -->\n/
const TABLE = new RegExp(`${START.source}[^]*?<!-- end of options -->`, 'g')

/** Returns the page with its tables of options as they must be. */
export function renderOptions (page: string): string {
  return readPage(page).replace(TABLE, (_table, types: string) => `<!-- options: ${types} -->\n${tableOf(types.split(', '), page)}<!-- end of options -->`)
}

/** The names of the option types that have a table on a page. */
export function tablesOn (page: string): string[] {
  return [...readPage(page).matchAll(TABLE)].flatMap(([, types = '']) => types.split(', '))
}

function tableOf (types: readonly string[], page: string): string {
  // A type that extends another one may declare an option of it once more.
  const options = types.flatMap(documentedOptions)
  const rows = options.filter(({ name }, i) => options.findIndex(other => other.name === name) === i).map(({ type, name, text, see }) => {
    const option = OPTION_TABLES[type]?.[name]
    if (option === undefined) throw new Error(`${page}: ${type}.${name} is not in OPTION_TABLES of test/helpers/docs/option-tables.ts`)
    const links = see.map(link => ` See ${link.replace(/\(docs\/([^)#]*)/, (_target, target: string) => `(${pathFrom(page, target)}`)}.`)
    return `| \`${name}\` | ${escape(typeOf(option))} | ${escape(defaultOf(option))} | ${escape(text + links.join(''))} |\n`
  })
  return `\n| option | type | default | meaning |\n|---|---|---|---|\n${rows.join('')}\n`
}

function pathFrom (page: string, target: string): string {
  return page === `docs/${target}` ? '' : relative(dirname(page), join('docs', target))
}

function escape (cell: string): string {
  return cell.replaceAll('|', '\\|')
}

function typeOf ({ type, limits }: AnyOption): string {
  if (limits === undefined) return type
  const isSize = type.startsWith('bytes')
  const show = (limit: number) => type === 'duration' ? format(limit, true) : isSize ? sizeOf(limit) : limit.toLocaleString('en')
  const min = (limits.min ?? 0) > 1 ? limits.min : undefined
  const max = isShown(type, limits.max) ? limits.max : undefined
  if (type !== 'duration' && !isSize && max !== undefined) return `${limits.min ?? 0} to ${show(max)}`
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
  if (typeof fallback === 'number') return type === 'duration' && fallback > 0 ? `${fallback} ms` : type.startsWith('bytes') ? sizeOf(fallback) : `\`${withSeparators(fallback)}\``
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
      type,
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
