/**
 * Returns what Fastify stores on an instance, or on one of its prototypes, under a symbol that it does not export (see
 * docs/internals/interop.md). Returns undefined where this version of Fastify has no such symbol.
 *
 * @param description - the symbol's description, such as `'fastify.404'`
 */
export function internalOf (instance: object, description: string): unknown {
  for (let object: object | null = instance; object !== null; object = Reflect.getPrototypeOf(object)) {
    const symbol = Object.getOwnPropertySymbols(object).find(each => each.description === description)
    if (symbol !== undefined) return Reflect.get(object, symbol)
  }
  return undefined
}
