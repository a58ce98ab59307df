import type { FastifyInstance, RouteOptions } from 'fastify'
import type { PluginName } from '../plugin/errors.js'
import { internalOf } from './fastify-internals.js'

/** The property of a route's config, by plugin. */
const CONFIGS = {
  'rate-limit': 'rateLimit', cache: 'cache', idempotency: 'idempotency', lock: 'concurrency'
} as const
const MAX_LISTED = 10

type ReadingPlugin = keyof typeof CONFIGS
type WatchedRoute = Pick<RouteOptions, 'method' | 'url'>

/** A route after all plugins have been loaded. */
interface LoadedRoute extends WatchedRoute {
  instance: FastifyInstance
  config: object
  /** Whether the app's documentation leaves the route out, as a plugin's file or page: it needs no warning. */
  isHidden: boolean
}

/** A registration of a plugin that reads the config of routes. */
interface Registration {
  plugin: ReadingPlugin
  instance: FastifyInstance
  /** Whether the plugin serves a route that has no config for it. */
  serves: (route: WatchedRoute) => boolean
  /** The routes that the plugin's `onRoute` hook was called for. */
  routes: Set<string>
}

const watches = new WeakMap<object, RouteWatch>()

/**
 * Returns the app's watch over its routes. Each plugin of the suite calls this, so that any of them warns of a route
 * whose config is for a plugin that is not registered.
 */
export function watchRoutes (fastify: FastifyInstance): RouteWatch {
  const present = watches.get(fastify.server)
  if (present !== undefined) return present
  const watch = new RouteWatch(fastify)
  watches.set(fastify.server, watch)
  return watch
}

/** Warns, when the app is ready, of routes whose config has no effect, and of routes that precede their plugin. */
class RouteWatch {
  readonly #routes: LoadedRoute[] = []
  readonly #registrations: Registration[] = []
  /** The routes of each warning, with a condition that is checked when all routes are known. */
  readonly #notes = new Map<string, { plugin: PluginName, routes: Map<string, () => boolean> }>()

  constructor (fastify: FastifyInstance) {
    onEachRoute(fastify, route => { this.#routes.push(route) })
    fastify.addHook('onReady', async () => {
      for (const route of this.#routes.splice(0)) if (route.method !== 'HEAD') this.#check(route)
      this.#registrations.length = 0
      for (const [message, { plugin, routes }] of this.#notes) {
        const names = [...routes].filter(([, applies]) => applies()).map(([name]) => name)
        if (names.length > 0) fastify.log.warn({ plugin, routes: shortened(names) }, message)
      }
      this.#notes.clear()
    })
  }

  /** @returns a function that the plugin's `onRoute` hook calls with each route */
  add (
    plugin: ReadingPlugin, instance: FastifyInstance, serves: Registration['serves']
  ): (route: WatchedRoute) => void {
    const routes = new Set<string>()
    this.#registrations.push({ plugin, instance, serves, routes })
    return route => { routes.add(nameOf(route)) }
  }

  /**
   * Adds the route to the warning `what`.
   *
   * @param applies - the condition of the warning, called when all routes are known
   */
  note (plugin: PluginName, what: string, route: WatchedRoute, applies = (): boolean => true): void {
    const message = `${plugin}: ${what}`
    const note = this.#notes.get(message) ?? { plugin, routes: new Map() }
    note.routes.set(nameOf(route), applies)
    this.#notes.set(message, note)
  }

  #check (route: LoadedRoute): void {
    for (const plugin of Object.keys(CONFIGS) as ReadingPlugin[]) {
      const registrations = this.#registrations.filter(each => each.plugin === plugin)
      const above = registrations.filter(({ instance }) => isWithin(route.instance, instance))
      if (above.length > 0) this.#noteMisspelt(plugin, route)
      const config: unknown = Reflect.get(route.config, CONFIGS[plugin])
      if (config === false) continue
      const isConfigured = config !== undefined && config !== null
      const isLate = above.some(({ routes, serves }) =>
        !routes.has(nameOf(route)) && (isConfigured || (!route.isHidden && serves(route))))
      if (isLate) {
        this.note(
          plugin,
          'these routes do not pass this plugin, as they were defined before it was loaded: await its registration ' +
          'first, or define them in a plugin that is registered after it',
          route
        )
      }
      if (!isConfigured || above.length > 0 || isForeign(plugin, route.instance)) continue
      const why = registrations.length > 0
        ? 'registered in another context: register it in theirs, or above'
        : 'not registered: register it before them, or rename this config where other code reads it'
      this.note(plugin, `config.${CONFIGS[plugin]} of these routes has no effect, as this plugin is ${why}`, route)
    }
  }

  /** Fastify accepts any name in a route's config, so that a limit of `config.ratelimit` would not exist unnoticed. */
  #noteMisspelt (plugin: ReadingPlugin, route: LoadedRoute): void {
    const name = CONFIGS[plugin]
    if (Object.hasOwn(route.config, name)) return
    const misspelt = Object.keys(route.config).find(each => each.replace(/[-_]/g, '').toLowerCase() === name.toLowerCase())
    if (misspelt === undefined) return
    this.note(plugin, `config.${misspelt} of these routes has no effect: write config.${name}`, route)
  }
}

function nameOf ({ method, url }: WatchedRoute): string {
  return `${[method].flat().join()} ${url}`
}

function shortened (names: string[]): string[] {
  return names.length > MAX_LISTED ? [...names.slice(0, MAX_LISTED), `… and ${names.length - MAX_LISTED} more`] : names
}

function isWithin (instance: FastifyInstance, outer: FastifyInstance): boolean {
  return instance === outer || Object.prototype.isPrototypeOf.call(outer, instance)
}

/** Whether a foreign plugin may read this config, such as `@fastify/rate-limit`. */
function isForeign (plugin: ReadingPlugin, instance: FastifyInstance): boolean {
  return plugin === 'idempotency'
    ? instance.hasRequestDecorator('idempotencyKey')
    : instance.hasDecorator(CONFIGS[plugin])
}

interface Context {
  config: WatchedRoute
  schema?: unknown
}

type SetContext = (instance: FastifyInstance, context: Context) => void

/**
 * Calls `listener` with each route of the app when all plugins have been loaded, also with routes that were defined
 * before the first `onRoute` hook. Fastify has no list of its routes, but passes each of them to its 404 handler at
 * that time (see docs/internals/interop.md). If a later Fastify does not, the listener is not called.
 */
function onEachRoute (fastify: FastifyInstance, listener: (route: LoadedRoute) => void): void {
  const notFound = internalOf(fastify, 'fastify.404') as { setContext?: SetContext } | undefined
  if (typeof notFound?.setContext !== 'function') return
  const { setContext } = notFound
  notFound.setContext = function (instance, context) {
    const { config, schema } = context
    listener({ instance, config, method: config.method, url: config.url, isHidden: Object(schema).hide === true })
    Reflect.apply(setContext, this, [instance, context])
  }
}
