import type { FastifyInstance, RouteOptions } from 'fastify'
import { canonicalText } from '../../shared/plugin/canonical.js'
import { invalidOptionError } from '../../shared/plugin/errors.js'
import { safeId } from '../../shared/plugin/keys.js'
import { TooLateError } from '../errors.js'
import type { Algorithm } from '../policy.js'

const registrations = new WeakMap<object, Map<string, number>>()

/**
 * Tells the registrations of the plugin in one app apart by prefix and order, which are the same on all instances. The
 * first one of the app itself has an empty name. All its scopes but those of named policies begin with it.
 */
export function registrationName ({ server, prefix }: Pick<FastifyInstance, 'server' | 'prefix'>): string {
  const counts = registrations.get(server) ?? new Map<string, number>()
  registrations.set(server, counts)
  const count = counts.get(prefix) ?? 0
  counts.set(prefix, count + 1)
  return count === 0 && prefix === '' ? '' : `${count}${prefix}:`
}

/** What one registration counts for beside the key, so that counts that must keep apart do. */
export class Scopes {
  readonly #registration: string
  /** By method and URL, then by constraints: a route may have several methods. */
  readonly #routes = new Map<string, Map<string, string>>()
  readonly #algorithms = new Map<string, Algorithm>()
  #handlers = 0
  #closed = false

  /** @param registration - see {@link registrationName} */
  constructor (registration: string) {
    this.#registration = registration
  }

  get global (): string { return `${this.#registration}global` }

  /** HEAD is answered by what answers GET, so it has no count of its own. Routes that differ by constraints, such as a version, do. */
  route ({ method, url, constraints }: Place): string {
    const methods = [...new Set([method].flat().map(countedAs))].sort()
    const which = textOf(constraints)
    const present = this.#routes.get(`${methods[0]} ${url}`)?.get(which)
    if (present !== undefined) return present
    const scope = `${this.#registration}route:${methods.join()}${which}:${url}`
    for (const name of methods) {
      const byConstraints = this.#routes.get(`${name} ${url}`) ?? new Map<string, string>()
      this.#routes.set(`${name} ${url}`, byConstraints.set(which, scope))
    }
    return scope
  }

  /** Returns the scopes of all routes of a method and URL, or of the one with these constraints. */
  routes ({ method, url, constraints }: Place & { method: string }): string[] {
    const known = constraints === undefined ? [...this.#routes.get(`${countedAs(method)} ${url}`)?.values() ?? []] : []
    return known.length > 0 ? known : [this.route({ method, url, constraints })]
  }

  group (groupId: string): string {
    return `${this.#registration}group:${groupId}`
  }

  /** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` */
  ofRoute (options: Grouped, route: Place): string {
    return options.groupId === undefined ? this.route(route) : this.#join(options.groupId, options.algorithm)
  }

  /**
   * Limiters made by `fastify.rateLimit(options)` are told apart by their order, which is the same on all instances.
   *
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_TOO_LATE`
   */
  ofHandler (options: Grouped): string {
    if (options.groupId !== undefined) return this.#join(options.groupId, options.algorithm)
    // Made for each request, each would count from nothing.
    if (this.#closed) throw new TooLateError()
    return `${this.#registration}handler:${this.#handlers++}`
  }

  /** From now on the order is fixed. */
  close (): void {
    this.#closed = true
  }

  /** What two algorithms keep cannot be one count. */
  #join (groupId: string, algorithm: Algorithm): string {
    const present = this.#algorithms.get(groupId) ?? algorithm
    if (present !== algorithm) throw invalidOptionError('rate-limit', 'algorithm', algorithm, `${present}, as the others of the group '${groupId}'`)
    this.#algorithms.set(groupId, algorithm)
    return this.group(groupId)
  }
}

/** Where a route is. */
type Place = Pick<RouteOptions, 'method' | 'url'> & { constraints?: RouteOptions['constraints'] | undefined }

function countedAs (method: string): string {
  const name = method.toUpperCase()
  return name === 'HEAD' ? 'GET' : name
}

/** Constraints that have no text of their own, such as instances of a class, tell no limits apart. */
function textOf (constraints: Place['constraints']): string {
  try {
    return constraints === undefined || Object.keys(constraints).length === 0 ? '' : canonicalText(constraints)
  } catch {
    return ''
  }
}

interface Grouped {
  groupId: string | undefined
  algorithm: Algorithm
}

/** Shared by all registrations: a policy has a name so that it is one wherever it is asked. */
export function policyScope (name: string): string {
  return `policy:${name}`
}

/**
 * The id of a key within a scope, safe as a part of a Redis key. No key can reach another scope, whatever is in it:
 * neither half can hold the `~` between them.
 */
export function idWithin (scope: string): (key: string) => string {
  const prefix = `${safeId(scope)}~`
  return key => prefix + safeId(`${key}`)
}
