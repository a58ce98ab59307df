import type { FastifyCacheTypes } from 'fastify'

declare module 'fastify' {
  /**
   * Declares the serializer of the cache to TypeScript. With any serializer but `'json'`, cached values keep their
   * type:
   *
   * @example
   * declare module 'fastify' { interface FastifyCacheTypes { serializer: 'structured-clone' } }
   */
  interface FastifyCacheTypes {}
}

/** The type of a cached `T`: the type of its JSON, unless `FastifyCacheTypes` names another serializer. */
export type Cached<T> = FastifyCacheTypes extends { serializer: infer S }
  ? 'json' extends S ? Jsonify<T> : T
  : Jsonify<T>

type Callable = (...args: never[]) => unknown
/** Types whose contents JSON loses: such values are refused at run time. */
type Lost = bigint | symbol | Callable | ReadonlyMap<unknown, unknown> | ReadonlySet<unknown> |
  WeakMap<WeakKey, unknown> |
  WeakSet<WeakKey> | RegExp | Error | Promise<unknown> | ArrayBufferLike | ArrayBufferView

/**
 * The type of a value after `JSON.parse(JSON.stringify(value))`: a `Date` becomes a `string`, methods are dropped,
 * `undefined` in an array becomes `null`, and types that JSON cannot represent become `never`.
 */
export type Jsonify<T> =
  0 extends 1 & T ? T // any
    : unknown extends T ? T
      : T extends string | number | boolean | null | undefined | void ? T // void: a factory without a result
        : T extends { toJSON: (...args: never[]) => infer J } ? Jsonify<J>
          : T extends Lost ? never
            : T extends readonly unknown[] ? JsonifyList<T> : JsonifyObject<T>

type JsonifyList<T extends readonly unknown[]> = { [I in keyof T]: Jsonify<Exclude<T[I], undefined>> |
  (undefined extends T[I] ? null : never) }

type JsonifyObject<T> = {
  [K in keyof T as K extends symbol ? never : NonNullable<T[K]> extends Callable ? never : K]: Jsonify<T[K]>
}
