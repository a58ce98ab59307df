// Modules keep the URLs of their sources, so import.meta and stack traces are those of the .ts files.
import { existsSync, readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const ROOT = new URL('../../../', import.meta.url).href
const PACKAGES = `${ROOT}node_modules/`
const isOurs = url => url?.startsWith(ROOT) && !url.startsWith(PACKAGES)

/** The compiled module of the source at this URL. */
const compiledOf = url => `${process.env.TEST_COMPILED}/${decodeURI(url.slice(ROOT.length, -3))}.js`

/** The module of another Fastify in place of the installed one. */
const FASTIFY = process.env.TEST_FASTIFY && pathToFileURL(`${process.env.TEST_FASTIFY}/fastify.js`).href

export function resolve (specifier, context, next) {
  if (FASTIFY !== undefined && specifier === 'fastify') return { url: FASTIFY, format: 'commonjs', shortCircuit: true }
  if (specifier.startsWith('.') && specifier.endsWith('.js') && isOurs(context.parentURL)) {
    const url = new URL(specifier, context.parentURL).href.replace(/js$/, 'ts')
    if (existsSync(compiledOf(url))) return { url, format: 'module', shortCircuit: true }
  }
  return next(specifier, context)
}

export function load (url, context, next) {
  if (url.endsWith('.ts') && isOurs(url)) return { source: readFileSync(compiledOf(url), 'utf8'), format: 'module', shortCircuit: true }
  return next(url, context)
}
