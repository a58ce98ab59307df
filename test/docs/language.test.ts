import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { HTTP_DURATION, METRICS, REDIS_DURATION } from '../../plugins/metrics/names.js'
import { readPage, root } from '../helpers/docs/doc-blocks.js'

// One language over all plugins: the table "Names" of CONTRIBUTING.md, as far as a program can check it.

const sources = readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
  .map(name => ({ name, folder: name.split('/')[0] ?? '', text: readFileSync(join(root, 'plugins', name), 'utf8') }))
const docs = readdirSync(join(root, 'docs')).filter(name => name.endsWith('.md')).map(name => readPage(`docs/${name}`)).join('\n')

/** What code means which status, in whichever plugin. */
const STATUS = { 400: 'what the client sent', 403: 'not allowed', 409: 'not now, as something else is so', 422: 'not for this request', 423: 'locked', 500: 'a mistake of the program', 503: 'not now' }

t.test('an error code is written one way, and has one status in all plugins, which its page tells', async t => {
  const statuses = new Map<string, string>()
  for (const { name, folder, text } of sources.filter(({ name }) => name !== 'shared/errors.ts')) {
    for (const [call, plugin = '', what = ''] of text.matchAll(/pluginError\('([\w-]+)', (['`][^'`]+['`]), .*?\)$/gm)) {
      const status = /, (\d{3})\)$/.exec(call)?.[1] ?? '500'
      t.equal(plugin, folder === 'shared' ? 'redis' : folder, `${name}: ${what}`)
      t.match(what, /^(?:'[A-Z]+(?:_[A-Z]+)*'|`CONNECT_\$\{kind\}`)$/)
      t.ok(status in STATUS, `${what}: ${status}`)
      t.equal(statuses.get(what) ?? status, status, `${what} of ${plugin} has the status that it has elsewhere`)
      statuses.set(what, status)
      const code = `FST_REDIS_SUITE_${plugin.toUpperCase().replace('-', '_')}_${what.slice(1, -1)}`
      if (status !== '500') t.match(docs, new RegExp(`\`${code}\`[^\\n]*\\b${status}\\b`), `the page tells ${status} beside ${code}`)
    }
  }
  t.ok(statuses.size > 20)
  t.match([statuses.get("'STORE_UNAVAILABLE'"), statuses.get("'UNSERIALIZABLE'")], ['503', '500'])
})

/** What a line of the log may tell beside pino's own fields. */
const LOG_FIELDS = new Set([
  'plugin', 'reason', 'route', 'store', 'address', 'namespace', 'downMs', 'errors', 'nodes', 'circuit', 'opened', 'policy', 'onStoreError',
  'channel', 'pattern', 'handlers', 'buffered', 'stream', 'group', 'id', 'attempts', 'dropped',
  'header', 'tags', 'event', 'invalidations', 'writeBehind', 'writes', 'backlog', 'deadLetters', 'resources'
])

t.test('each line of the log names its plugin, as field and in front of the message, and tells what it tells by the known fields', async t => {
  let lines = 0
  for (const { name, folder, text } of sources) {
    const plugin = folder === 'shared' ? 'redis' : folder
    for (const [call, fields = '', message = ''] of text.matchAll(/\b#?log\.(?:trace|debug|info|warn|error|fatal)\(((?:\{.*?\}|\w+)), (.*)$/gm)) {
      lines++
      const where = `${name}: ${call}`
      // Where it is not written down here it is what a caller or a constant of the file says.
      if (/^['`]/.test(message)) t.match(message, new RegExp(`^['\`](?:${plugin}|\\$\\{plugin\\}): [a-z\`$]`), where)
      if (!fields.startsWith('{ ...')) t.match(fields.startsWith('{') ? fields : text, new RegExp(`\\bplugin(?:: '${plugin}'|[ ,])`), where)
      const named = fields.startsWith('{') ? fields.slice(1, -1).replaceAll(/\([^()]*\)|\[[^\]]*\]|\.\.\.\w+(?: > 0 && \{ (\w+) \})?/g, '$1').split(',') : []
      for (const field of named.map(part => part.split(':')[0]?.trim() ?? '').filter(Boolean)) t.ok(LOG_FIELDS.has(field), `${where}: ${field}`)
    }
    t.notMatch(text, /\blog\.\w+\((?:['`]|err)/, `${name}: a line without a field, or of a whole error, which may carry a command's arguments`)
    for (const [, about = ''] of text.matchAll(/\bconst about = \{(.*)\}/g)) {
      t.match(about, `plugin: '${plugin}'`)
      for (const part of about.split(',')) t.ok(LOG_FIELDS.has(part.split(':')[0]?.trim() ?? ''), `${name}: ${part}`)
    }
  }
  t.ok(lines > 30, `${lines} calls`)
})

const LABELS = new Set(['name', 'result', 'tier', 'scope', 'client', 'command', 'stream', 'group', 'check', 'source'])
const SPACES: Record<string, string> = { scrape: 'metrics_', writeBehind: 'cache_write_behind_', rateLimit: 'rate_limit_' }

t.test('a metric begins with its plugin, ends in its unit and in _total if it is a counter, and has labels of the known names', async t => {
  for (const [kind, metrics] of Object.entries(METRICS)) {
    for (const [name, { type, labels }] of Object.entries(metrics)) {
      t.ok(name.startsWith(SPACES[kind] ?? `${kind}_`), name)
      t.match(name, /^[a-z]+(?:_[a-z0-9]+)+$/)
      t.equal(name.endsWith('_total'), type === 'counter', name)
      t.notMatch(name, /_(?:ms|millis|kb|mb|count)(?:_|$)/, 'base units: seconds and bytes')
      for (const label of labels) t.ok(LABELS.has(label), `${name}: ${label}`)
    }
  }
  for (const name of [HTTP_DURATION, REDIS_DURATION]) t.match(name, /_duration_seconds$/)
})

/** Of the files that hold options the members of each interface of options, by name and type. */
function optionsOf (): Array<{ where: string, option: string, type: string }> {
  return sources.filter(({ name }) => /(?:options|types|backoff|dead-letters)\.ts$/.test(name)).flatMap(({ name, text }) =>
    [...text.matchAll(/^export interface (?!Resolved)(\w*(?:Options|Paths|Page))\b[^{]*\{\n(.*?)^\}/gms)].flatMap(([, kind = '', members = '']) =>
      [...members.matchAll(/^ {2}(\w+)\?: (.+)$/gm)].map(([, option = '', type = '']) => ({ where: `${name}: ${kind}.${option}`, option, type }))))
}

t.test('an option that is optional may be undefined, and one name has one type, but where a route or a value says it', async t => {
  const options = optionsOf()
  t.ok(options.length > 120)
  const types = new Map<string, string>()
  for (const { where, option, type } of options) {
    t.match(type, / \| undefined$/, where)
    // Of backoff it is a time; a function of one's own says more than a plain value.
    if (where.includes('BackoffOptions') || where.includes('HealthPaths') || type.includes('=>') || ['onStoreError', 'hook', 'ttl', 'tags', 'invalidates'].includes(option)) continue
    t.equal(types.get(option) ?? type, type, where)
    types.set(option, type)
  }
  t.match(types.get('timeout'), /^Duration/)
})

t.test('what becomes of a request while the store cannot be asked has one word in all plugins', async t => {
  const words = new Set(['closed', 'open', 'local', 'anonymous'])
  const allowed = sources.flatMap(({ text }) => [...text.matchAll(/oneOf\('onStoreError', '(\w+)', \[(.*?)\]/g)]
    .flatMap(([, fallback = '', rest = '']) => [fallback, ...rest.replaceAll('\'', '').split(', ')]))
  t.ok(allowed.length > 10)
  for (const word of allowed) t.ok(words.has(word), word)
})

t.test('an option that is a duration has no unit in its name', async t => {
  for (const { name, text } of sources) {
    for (const [, option = ''] of text.matchAll(/^ {2}(\w+)\?: Duration/gm)) t.notMatch(option, /(?:Ms|Seconds|Millis)$/, name)
    for (const [, option = ''] of text.matchAll(/\.duration\('(\w+)'/g)) t.notMatch(option, /(?:Ms|Seconds|Millis)$/, name)
  }
})
