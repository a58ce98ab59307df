import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'

type HookName = 'onRequest' | 'preHandler'
type AnyHook = (...args: never[]) => unknown

/** Refuses requests without the header `x-key`. */
export async function requireKey (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> {
  return request.headers['x-key'] === 'k' ? undefined : await reply.code(401).send('no key')
}

function present (route: RouteOptions, name: HookName): AnyHook[] {
  return [route[name] ?? []].flat() as AnyHook[]
}

function put (route: RouteOptions, name: HookName, hooks: unknown): void {
  Object.assign(route, { [name]: hooks })
}

const wrapped = (hook: AnyHook): AnyHook => function (this: unknown, ...args) { return hook.apply(this, args) }

/** The ways in which `onRoute` hooks of other packages add authentication to a route. */
export const WAYS: Record<string, (route: RouteOptions, name: HookName, instance: FastifyInstance) => void> = {
  'assigns a longer array': (route, name) => { put(route, name, [...present(route, name), requireKey]) },
  'pushes onto the array': (route, name) => {
    if (!Array.isArray(route[name])) put(route, name, present(route, name))
    ;(route[name] as unknown as AnyHook[]).push(requireKey)
  },
  'puts itself before the last hook': (route, name) => { put(route, name, present(route, name).toSpliced(-1, 0, requireKey)) },
  'splices itself onto the end of the array': (route, name) => {
    put(route, name, present(route, name))
    const hooks = route[name] as unknown as AnyHook[]
    hooks.splice(hooks.length, 0, requireKey)
  },
  'sets an element of the array': (route, name) => {
    put(route, name, present(route, name))
    const hooks = route[name] as unknown as AnyHook[]
    hooks[hooks.length] = requireKey
  },
  'unshifts onto the array': (route, name) => {
    put(route, name, present(route, name))
    ;(route[name] as unknown as AnyHook[]).unshift(requireKey)
  },
  'assigns a frozen array': (route, name) => { put(route, name, Object.freeze([...present(route, name), requireKey])) },
  'assigns one function in place of all': (route, name) => { put(route, name, requireKey) },
  'assigns concat': (route, name) => { put(route, name, present(route, name).concat(requireKey)) },
  'wraps each hook and adds its own': (route, name) => { put(route, name, [...present(route, name).map(wrapped), requireKey]) },
  'adds its own and wraps each hook': (route, name) => { put(route, name, [...present(route, name), requireKey].map(wrapped)) },
  'assigns twice': (route, name) => {
    put(route, name, [])
    put(route, name, [requireKey])
  },
  'assigns when the context is loaded': (route, name, instance) => { instance.after(() => { put(route, name, [...present(route, name), requireKey]) }) },
  'keeps the array and pushes onto it when the context is loaded': (route, name, instance) => {
    put(route, name, present(route, name))
    const hooks = route[name] as unknown as AnyHook[]
    instance.after(() => { hooks.push(requireKey) })
  },
  'pushes onto the array when the context is loaded': (route, name, instance) => {
    put(route, name, present(route, name))
    instance.after(() => {
      ;(route[name] as unknown as AnyHook[]).push(async () => {})
      ;(route[name] as unknown as AnyHook[]).push(requireKey)
    })
  }
}

/** Adds the authentication to all routes that are added from now on. */
export function addLateAuth (app: FastifyInstance, way: string, name: HookName): void {
  app.addHook('onRoute', function (route) { WAYS[way]?.(route, name, this) })
}
