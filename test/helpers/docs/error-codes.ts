// The coded errors of plugins/, read from the source, for the page docs/errors.md.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './doc-blocks.js'

export interface CodedError {
  code: string
  status: number
  /** With `%s` for each part that differs. */
  messages: string[]
}

const LITERAL = "'(?:[^'\\\\]|\\\\.)*'"
const CALL = new RegExp(`pluginError\\(\\s*(?:'([\\w-]+)'|(?:this\\.#)?plugin),\\s*(?:'(\\w+)'|\`CONNECT_\\$\\{kind\\}\`),\\s*(${LITERAL}(?:\\s*\\+\\s*${LITERAL})*)(?:,\\s*(\\d{3}))?\\s*\\)`, 'g')

/** What the error of a call of a shared function is, and which names of plugins its calls have. */
const SHARED: ReadonlyArray<readonly [what: string, call: RegExp]> = [
  ['INVALID_OPTION', /(?:invalidOptionError|invalidArgumentError|unknownOptionError|(?:read|resolve)Options?)\(\s*'([\w-]+)'/g],
  ['ALREADY_REGISTERED', /alreadyRegisteredError\(\s*'([\w-]+)'/g],
  ['HOOK_REPLACED', /new PinnedHooks\(\w+, '([\w-]+)'/g],
  ['MISSING_PACKAGE', /importPackage\(\s*'([\w-]+)'/g]
]

/** Returns all coded errors, by code. */
export function codedErrors (): CodedError[] {
  const sources = readdirSync(join(root, 'plugins'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
    .map(name => readFileSync(join(root, 'plugins', name), 'utf8'))
  const errors = new Map<string, CodedError>()
  const add = (plugin: string, what: string, message: string, status: number): void => {
    const code = `FST_REDIS_SUITE_${plugin.toUpperCase().replaceAll('-', '_')}_${what}`
    const { messages } = errors.get(code) ?? errors.set(code, { code, status, messages: [] }).get(code) as CodedError
    if (!messages.includes(message)) messages.push(message)
  }
  const calls = sources.flatMap(text => [...text.matchAll(CALL)]).map(([, plugin, what, literals = '', status = '500']) =>
    ({ plugin, what, message: textOf(literals), status: Number(status) }))
  const kinds = sources.flatMap(text => /type ConnectFailure = (.+?)\n\n/s.exec(text)?.[1] ?? []).join('')
  for (const { plugin, what, message, status } of calls) {
    if (plugin !== undefined && what !== undefined) add(plugin, what, message, status)
    if (what === undefined) for (const [, kind = ''] of kinds.matchAll(/'(\w+)'/g)) add('redis', `CONNECT_${kind}`, message, status)
  }
  for (const [what, call] of SHARED) {
    const shared = calls.filter(each => each.plugin === undefined && each.what === what)
    const plugins = new Set(sources.flatMap(text => [...text.matchAll(call)].map(([, plugin = '']) => plugin)))
    for (const plugin of plugins) for (const { message, status } of shared) add(plugin, what, message, status)
  }
  return [...errors.values()].sort((a, b) => a.code < b.code ? -1 : 1)
}

function textOf (literals: string): string {
  return [...literals.matchAll(new RegExp(LITERAL, 'g'))].map(([literal]) => literal.slice(1, -1).replaceAll(/\\(.)/g, '$1')).join('')
}
