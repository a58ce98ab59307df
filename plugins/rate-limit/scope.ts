import type { FastifyInstance, RouteOptions } from 'fastify'
import { safeId } from '../shared/keys.js'

const registrations = new WeakMap<object, Map<string, number>>()

/**
 * Tells the registrations of the plugin under one prefix apart by their order, which is the same on all instances.
 * The first has an empty name.
 */
export function registrationName ({ server, prefix }: Pick<FastifyInstance, 'server' | 'prefix'>): string {
  const counts = registrations.get(server) ?? new Map<string, number>()
  registrations.set(server, counts)
  const count = counts.get(prefix) ?? 0
  counts.set(prefix, count + 1)
  return count === 0 ? '' : `${count}:`
}

/** What is counted for beside the key, so that counts that must keep apart do. */
export function globalScope (prefix: string): string {
  return `global:${prefix}`
}

export function groupScope (groupId: string): string {
  return `group:${groupId}`
}

/** Limiters made by `fastify.rateLimit(options)` are told apart by their order, which is the same on all instances. */
export function handlerScope (prefix: string, number: number): string {
  return `handler:${prefix}:${number}`
}

/** HEAD is answered by what answers GET, so it has no count of its own. */
export function routeScope ({ method, url }: Pick<RouteOptions, 'method' | 'url'>): string {
  const methods = [method].flat().map(name => name.toUpperCase() === 'HEAD' ? 'GET' : name.toUpperCase())
  return `route:${[...new Set(methods)].sort().join()}:${url}`
}

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
