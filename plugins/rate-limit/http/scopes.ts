import type { FastifyInstance, RouteOptions } from 'fastify'
import { constraintsText } from '../../shared/data/constraints-text.js'
import { invalidOptionError } from '../../shared/plugin/errors.js'
import { TooLateError } from '../errors.js'
import type { Algorithm } from '../policy.js'

const registrations = new WeakMap<object, Map<string, number>>()

/**
 * Returns a name for a registration of the plugin, made of its prefix and order, which are the same on all instances.
 * All its scopes begin with it, except those of named policies. The first registration of the app has an empty name.
 */
export function registrationName ({ server, prefix }: Pick<FastifyInstance, 'server' | 'prefix'>): string {
  const counts = registrations.get(server) ?? new Map<string, number>()
  registrations.set(server, counts)
  const count = counts.get(prefix) ?? 0
  counts.set(prefix, count + 1)
  return count === 0 && prefix === '' ? '' : `${count}${prefix}:`
}

type RouteRef = Pick<RouteOptions, 'method' | 'url'> & { constraints?: RouteOptions['constraints'] | undefined }

interface GroupOptions {
  groupId: string | undefined
  algorithm: Algorithm
}

/** Names the scopes of one registration: keys of different scopes are counted separately. */
export class Scopes {
  readonly #registration: string
  /** By method, URL and constraints: a route may have several methods. */
  readonly #routes = new Map<string, string>()
  readonly #algorithms = new Map<string, Algorithm>()
  #handlers = 0
  #closed = false

  /** The scope of the routes without options of their own, and of the plugin's group where it has one. */
  readonly global: string

  /**
   * @param registration - see {@link registrationName}
   * @param plugin - the options of the plugin
   */
  constructor (registration: string, plugin: GroupOptions) {
    this.#registration = registration
    this.global = plugin.groupId === undefined ? `${registration}global` : this.#join(plugin.groupId, plugin.algorithm)
  }

  group (groupId: string): string {
    return `${this.#registration}group:${groupId}`
  }

  /** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` where the group has another algorithm */
  ofRoute (options: GroupOptions, route: RouteRef): string {
    return options.groupId === undefined ? this.#route(route) : this.#join(options.groupId, options.algorithm)
  }

  /**
   * Limiters of `fastify.rateLimit(options)` are numbered in their order, which is the same on all instances.
   *
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_TOO_LATE`, `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` as `ofRoute`
   */
  ofHandler (options: GroupOptions): string {
    if (options.groupId !== undefined) return this.#join(options.groupId, options.algorithm)
    // A limiter created by each request would count from zero each time.
    if (this.#closed) throw new TooLateError()
    return `${this.#registration}handler:${this.#handlers++}`
  }

  /** Fixes the order of the limiters: no more can be added. */
  close (): void {
    this.#closed = true
  }

  /** Returns the scopes of all routes of a method and URL, or of the one with these constraints. */
  ofRoutes (route: RouteRef & { method: string }): string[] {
    const place = placeOf(route.method, route.url)
    const present = route.constraints === undefined ? [...this.#routes].filter(([name]) => name.startsWith(place)) : []
    return present.length > 0 ? present.map(([, scope]) => scope) : [this.#route(route)]
  }

  /** A HEAD route shares the count of its GET route. Routes with different constraints share none. */
  #route ({ method, url, constraints }: RouteRef): string {
    const methods = [...new Set([method].flat().map(countedMethod))].sort()
    const text = constraintsText(constraints)
    const places = methods.map(name => placeOf(name, url) + text)
    const present = this.#routes.get(places[0] ?? '')
    if (present !== undefined) return present
    const scope = `${this.#registration}route:${methods.join()}${text}:${url}`
    for (const place of places) this.#routes.set(place, scope)
    return scope
  }

  /** Counts of two algorithms cannot be shared. */
  #join (groupId: string, algorithm: Algorithm): string {
    const present = this.#algorithms.get(groupId) ?? algorithm
    if (present !== algorithm) {
      const allowed = `${present}, as the others of the group '${groupId}'`
      throw invalidOptionError('rate-limit', 'algorithm', algorithm, allowed)
    }
    this.#algorithms.set(groupId, algorithm)
    return this.group(groupId)
  }
}

function placeOf (method: string, url: string): string {
  return `${countedMethod(method)} ${url}\0`
}

function countedMethod (method: string): string {
  const name = method.toUpperCase()
  return name === 'HEAD' ? 'GET' : name
}

/** Named policies are shared by all registrations. */
export function policyScope (name: string): string {
  return `policy:${name}`
}
