import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { HTTP_DURATION, METRICS, REDIS_DURATION } from '../../plugins/metrics/names.js'
import { pagesOf, readPage, root } from '../helpers/docs/doc-blocks.js'
import { proseOf, type Prose } from '../helpers/docs/prose.js'

// One language over all plugins: the table "Names" of CONTRIBUTING.md, as far as a program can check it.

const sources = readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
  .map(name => ({ name, folder: name.split('/')[0] ?? '', text: onOneLine(readFileSync(join(root, 'plugins', name), 'utf8')) }))

/** Joins the lines of each call that makes an error or a log line, and those of a text. */
function onOneLine (text: string): string {
  return text.replaceAll(/['`] \+\n\s*['`]/g, '').replaceAll(/^( *)(.*(?:pluginError|\blog\.\w+)\()\n([^]*?)\n\1\)/gm,
    (_call, indent: string, head: string, args: string) => `${indent}${head}${args.trim().replaceAll(/\n\s*/g, ' ')})`)
    .replaceAll(/^(.*(?:pluginError|\blog\.\w+)\(.*,)\n\s+(['`].*\))$/gm, '$1 $2')
}
const docs = pagesOf().filter(page => page.startsWith('docs/')).map(readPage).join('\n')

/** What code means which status, in whichever plugin. */
const STATUS = { 400: 'what the client sent', 403: 'not allowed', 409: 'not now, as something else is so', 422: 'not for this request', 423: 'locked', 500: 'a mistake of the program', 503: 'not now' }

t.test('an error code has one form, and one status in all plugins, which its page states', async t => {
  const statuses = new Map<string, string>()
  const wrong: string[] = []
  for (const { name, folder, text } of sources.filter(({ name }) => name !== 'shared/errors.ts')) {
    for (const [call, plugin = '', what = ''] of text.matchAll(/pluginError\('([\w-]+)', (['`][^'`]+['`]), .*?\)$/gm)) {
      const status = /, (\d{3})\)$/.exec(call)?.[1] ?? '500'
      const where = `${name}: ${what}`
      if (plugin !== (folder === 'shared' ? 'redis' : folder)) wrong.push(`${where} is named as of ${plugin}`)
      if (!/^(?:'[A-Z]+(?:_[A-Z]+)*'|`CONNECT_\$\{kind\}`)$/.test(what)) wrong.push(`${where} has another form`)
      if (!(status in STATUS)) wrong.push(`${where} has the unknown status ${status}`)
      if ((statuses.get(what) ?? status) !== status) wrong.push(`${where} has the status ${status}, and ${statuses.get(what)} elsewhere`)
      statuses.set(what, status)
      const code = `FST_REDIS_SUITE_${plugin.toUpperCase().replace('-', '_')}_${what.slice(1, -1)}`
      if (status !== '500' && !new RegExp(`\`${code}\`[^\\n]*\\b${status}\\b`).test(docs)) wrong.push(`the page does not state ${status} beside ${code}`)
    }
  }
  t.same(wrong, [])
  t.ok(statuses.size > 20)
  t.match([statuses.get("'STORE_UNAVAILABLE'"), statuses.get("'UNSERIALIZABLE'")], ['503', '500'])
})

/** The fields of a log line, besides those of pino. */
const LOG_FIELDS = new Set([
  'plugin', 'reason', 'route', 'store', 'address', 'namespace', 'downMs', 'errors', 'nodes', 'circuit', 'opened', 'policy', 'onStoreError',
  'channel', 'pattern', 'handlers', 'buffered', 'stream', 'group', 'id', 'attempts', 'dropped',
  'header', 'tags', 'event', 'invalidations', 'writeBehind', 'writes', 'backlog', 'deadLetters', 'resources', 'responses', 'routes'
])

t.test('each log line names its plugin, as a field and at the start of the message, and has known fields only', async t => {
  let lines = 0
  const wrong: string[] = []
  for (const { name, folder, text } of sources) {
    const plugin = folder === 'shared' ? 'redis' : folder
    for (const [call, fields = '', message = ''] of text.matchAll(/\b#?log\.(?:trace|debug|info|warn|error|fatal)\(((?:\{.*?\}|\w+)), (.*)$/gm)) {
      lines++
      const where = `${name}: ${call}`
      // Where it is not written down here it is what a caller or a constant of the file says.
      if (/^['`]/.test(message) && !new RegExp(`^['\`](?:${plugin}|\\$\\{plugin\\}): (?:[a-z\`$]|Redis )`).test(message)) wrong.push(`${where}: the message does not begin with the plugin`)
      if (!fields.startsWith('{ ...') && !new RegExp(`\\bplugin(?:: '${plugin}'|[ ,])`).test(fields.startsWith('{') ? fields : text)) wrong.push(`${where}: no field of the plugin`)
      const named = fields.startsWith('{') ? fields.slice(1, -1).replaceAll(/\([^()]*\)|\[[^\]]*\]|\.\.\.(?:this\.#)?\w+(?: > 0 && \{ (\w+) \})?/g, '$1').split(',') : []
      wrong.push(...named.map(part => part.split(':')[0]?.trim() ?? '').filter(field => field !== '' && !field.startsWith('...') && !LOG_FIELDS.has(field)).map(field => `${where}: ${field}`))
    }
    if (/\blog\.\w+\((?:['`]|err)/.test(text)) wrong.push(`${name}: a line without a field, or of a whole error, which may carry a command's arguments`)
    for (const [, about = ''] of text.matchAll(/\bconst about = \{(.*)\}/g)) {
      if (!about.includes(`plugin: '${plugin}'`)) wrong.push(`${name}: no field of the plugin in ${about}`)
      wrong.push(...about.split(',').filter(part => !LOG_FIELDS.has(part.split(':')[0]?.trim() ?? '')).map(part => `${name}: ${part}`))
    }
  }
  t.same(wrong, [])
  t.ok(lines > 30, `${lines} calls`)
})

const LABELS = new Set(['name', 'result', 'tier', 'scope', 'client', 'command', 'stream', 'group', 'check', 'source'])
const SPACES: Record<string, string> = { scrape: 'metrics_', writeBehind: 'cache_write_behind_', rateLimit: 'rate_limit_' }

t.test('a metric starts with its plugin, ends with its unit, and with _total if it is a counter, and has known labels only', async t => {
  const metrics = Object.entries(METRICS).flatMap(([kind, all]) => Object.entries(all).map(([name, { type, labels }]) => ({ kind, name, type, labels })))
  t.ok(metrics.length > 20, `${metrics.length} metrics`)
  t.same(metrics.filter(({ kind, name }) => !name.startsWith(SPACES[kind] ?? `${kind}_`) || !/^[a-z]+(?:_[a-z0-9]+)+$/.test(name)), [])
  t.same(metrics.filter(({ name, type }) => name.endsWith('_total') !== (type === 'counter')), [])
  t.same(metrics.filter(({ name }) => /_(?:ms|millis|kb|mb|count)(?:_|$)/.test(name)), [], 'base units: seconds and bytes')
  t.same(metrics.filter(({ labels }) => labels.some(label => !LABELS.has(label))), [])
  t.same([HTTP_DURATION, REDIS_DURATION].filter(name => !name.endsWith('_duration_seconds')), [])
})

/** The members of each interface of options, by name and type. */
function optionsOf (): Array<{ where: string, option: string, type: string }> {
  return sources.filter(({ name }) => /(?:options|types|backoff|dead-letter-admin)\.ts$/.test(name)).flatMap(({ name, text }) =>
    [...text.matchAll(/^export interface (?!Resolved|DeadLetters)(\w*(?:Options|Paths|Page))\b[^{]*\{\n(.*?)^\}/gms)].flatMap(([, kind = '', members = '']) =>
      [...members.matchAll(/^ {2}(\w+)\?: (.+)$/gm)].map(([, option = '', type = '']) => ({ where: `${name}: ${kind}.${option}`, option, type }))))
}

t.test('each optional option accepts undefined, and one name has one type in all plugins', async t => {
  const options = optionsOf()
  t.ok(options.length > 120)
  const types = new Map<string, string>()
  t.same(options.filter(({ type }) => !type.endsWith(' | undefined')), [])
  const wrong: string[] = []
  for (const { where, option, type } of options) {
    // A back-off has times of these names; a function may have arguments of its own plugin; `cache` of rate-limit is named by @fastify/rate-limit;
    // the limits of a route may be a function; `count` is a number of items on a page.
    if (where.includes('BackoffOptions') || where.includes('HealthPaths') || type.includes('=>') || ['onStoreError', 'hook', 'ttl', 'tags', 'invalidates', 'cache', 'limits', 'count'].includes(option)) continue
    if ((types.get(option) ?? type) !== type) wrong.push(`${where}: ${type}, and ${types.get(option)} elsewhere`)
    types.set(option, type)
  }
  t.same(wrong, [])
  t.match(types.get('timeout'), /^Duration/)
})

t.test('onStoreError has the same values in all plugins', async t => {
  const words = new Set(['closed', 'open', 'local', 'anonymous'])
  const allowed = sources.flatMap(({ text }) => [...text.matchAll(/onStoreError(?:: oneOf\(|', )'(\w+)', \[(.*?)\]/g)]
    .flatMap(([, fallback = '', rest = '']) => [fallback, ...rest.replaceAll('\'', '').split(', ')]))
  t.ok(allowed.length > 10)
  t.same(allowed.filter(word => !words.has(word)), [])
})

t.test('an option that is a duration has no unit in its name', async t => {
  const durations = sources.flatMap(({ name, text }) => [...text.matchAll(/^ {2}(\w+)\?: Duration|^ {2}(\w+): duration\(/gm)].map(([, option = '', read = '']) => ({ name, option: option + read })))
  t.ok(durations.length > 30, `${durations.length} durations`)
  t.same(durations.filter(({ option }) => /(?:Ms|Seconds|Millis)$/.test(option)), [])
})

const AREAS = ['plugins', 'demo', 'routes', 'public', 'app.ts', 'server.ts', 'bench', 'examples', 'test', ...pagesOf()]
const prose = proseOf(AREAS).filter(({ place }) => !place.startsWith('test/docs/language.test.ts'))

/** Expressions for which the field has a term: response, cached, refreshed, L1, caller, returns, unavailable, own, pending. */
const PRIVATE_WORDS = new RegExp(`\\b(?:${[
  'whoever', 'whomever', 'whosever', 'somebody', 'nobody', 'anew', 'first tiers?', "one's own", "one another's", 'tells?', 'told',
  'owed', 'owes', '(?:is|are|was|were) away', 'made new', 'those who', 'who (?:asks?|comes?|waits?)'
].join('|')})\\b`, 'i')

/** The text without code, which has names of its own. */
function withoutCode ({ text }: Prose): string {
  return text.replaceAll(/`[^`]*`/g, 'x').replaceAll(/\{@link [^}]*\}/g, 'x')
}

t.test('code, messages and docs have no private words in place of the terms of the field', async t => {
  t.ok(prose.length > 10_000, `${prose.length} texts`)
  const found = prose.map(each => ({ place: each.place, word: PRIVATE_WORDS.exec(withoutCode(each))?.[0], text: each.text })).filter(({ word }) => word !== undefined)
  t.same(found, [])
})

t.test('sentences of comments and docs begin with their subject', async t => {
  const sentences = prose.filter(({ isText }) => !isText).flatMap(each => withoutCode(each).split(/(?<=[.:;!?]) +/).map(sentence => ({ place: each.place, sentence })))
  t.same(sentences.filter(({ sentence }) => /^(?:Of|Who|Whoever|Whose|Nor|That it) /.test(sentence.replace(/^@\w+ (?:[\w.]+ - )?/, ''))), [])
})
