import type { FastifyInstance, RouteOptions } from 'fastify'
import { pluginError, type PluginName } from '../plugin/errors.js'

type Place = 'first' | 'last'
type PinnedName = 'onRequest' | 'preHandler' | 'onSend' | 'onError'
type Hook = (...args: never[]) => unknown

/** The hooks of one name of one route. */
interface Slot {
  /** The hooks that the route and other plugins assigned, in their form. */
  others: unknown
  /** The hooks that other plugins pushed onto a list that they read after all `onRoute` hooks. */
  pushed: Hook[]
  first: Hook[]
  last: Hook[]
  /** The last list that was read; undefined while `onRoute` hooks run. */
  read: Hook[] | undefined
}

const slots = new WeakMap<RouteOptions, Map<PinnedName, Slot>>()
const pinned = new WeakSet<Hook>()

/**
 * Keeps hooks of a plugin first or last among a route's hooks, whatever other `onRoute` hooks push, assign, wrap or
 * freeze later (see docs/internals/interop.md).
 *
 * Other plugins never see a pinned hook: it is added when Fastify collects the hooks of the route. The app does not
 * start if a plugin redefines the property itself.
 */
export class PinnedHooks {
  readonly #HookReplacedError
  readonly #checks: Array<() => void> = []

  /** @throws `FST_REDIS_SUITE_<PLUGIN>_HOOK_REPLACED` at `onReady` */
  constructor (fastify: FastifyInstance, plugin: PluginName) {
    this.#HookReplacedError = pluginError(plugin, 'HOOK_REPLACED',
      'route %s: another plugin redefined or locked "%s" of the route, so that this plugin\'s hook is not the %s ' +
      'one; assign hooks in onRoute (route.preHandler = [...]) in place of Object.defineProperty, delete or ' +
      'Object.freeze')
    fastify.addHook('onReady', async () => {
      for (const check of this.#checks.splice(0)) check()
    })
  }

  /** @param instance - the route's instance, which is `this` in an `onRoute` hook */
  pin (instance: FastifyInstance, route: RouteOptions, name: PinnedName, hook: Hook, place: Place): void {
    const where = `${[route.method].flat().join()} ${route.url}`
    const fail = (): never => { throw new this.#HookReplacedError(where, name, place) }
    const slot = slots.get(route)?.get(name) ?? createSlot(instance, route, name, fail)
    slot[place].push(hook)
    pinned.add(hook)
    this.#checks.push(() => {
      // Fastify has just read the same property.
      const hooks = listOf(route[name])
      if (hooks.length === 0 || !isSame(hooks, collect(slot))) fail()
    })
  }
}

function createSlot (instance: FastifyInstance, route: RouteOptions, name: PinnedName, fail: () => never): Slot {
  const slot: Slot = { others: withoutPinned(route[name]), pushed: [], first: [], last: [], read: undefined }
  const ofRoute = slots.get(route) ?? new Map<PinnedName, Slot>()
  slots.set(route, ofRoute.set(name, slot))
  const isDefined = Reflect.defineProperty(route, name, {
    get: () => slot.read === undefined ? slot.others : readAll(slot),
    set: (hooks: unknown) => {
      slot.others = withoutPinned(hooks)
      slot.pushed = []
      if (slot.read !== undefined) slot.read = collect(slot)
    },
    enumerable: true,
    configurable: true
  })
  if (!isDefined) fail()
  // `after` follows all `onRoute` hooks of the route, and precedes the collection of its hooks. It passes errors on.
  const reveal = (error: Error | null, done: (error: Error | null) => void): void => {
    slot.read = collect(slot)
    done(error)
  }
  instance.after(reveal as (error: Error | null) => void)
  return slot
}

/** Returns a new list: a change to the previous one does not move the pinned hooks. */
function readAll (slot: Slot): Hook[] {
  const known = collect(slot)
  slot.pushed.push(...slot.read?.filter(hook => !known.includes(hook)) ?? [])
  slot.read = collect(slot)
  return slot.read
}

function collect ({ first, others, pushed, last }: Slot): Hook[] {
  return [...first, ...listOf(others), ...pushed, ...last]
}

function listOf (hooks: unknown): Hook[] {
  return hooks === undefined || hooks === null ? [] : [hooks].flat() as Hook[]
}

/** Removes pinned hooks, which a route has if it is a copy of another one: they belong to that one. */
function withoutPinned (hooks: unknown): unknown {
  return Array.isArray(hooks) && hooks.some(hook => pinned.has(hook as Hook))
    ? hooks.filter(hook => !pinned.has(hook as Hook))
    : hooks
}

function isSame (a: readonly Hook[], b: readonly Hook[]): boolean {
  return a.length === b.length && a.every((hook, i) => hook === b[i])
}
