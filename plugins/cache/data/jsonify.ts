import type { FastifyCacheTypes } from 'fastify'

declare module 'fastify' {
  /**
   * Declares to TypeScript how the cache is configured. With a `serializer` other than `'json'` values come back with the type they were given:
   *
   * @example
   * declare module 'fastify' { interface FastifyCacheTypes { serializer: 'structured-clone' } }
   */
  interface FastifyCacheTypes {}
}

/** The type of a value that was stored as a `T`: that of its JSON, unless `FastifyCacheTypes` names another serializer. */
export type Cached<T> = FastifyCacheTypes extends { serializer: infer S } ? 'json' extends S ? Jsonify<T> : T : Jsonify<T>

type Callable = (...args: never[]) => unknown
/** Refused at run time, as JSON loses their contents. */
type Lost = bigint | symbol | Callable | ReadonlyMap<unknown, unknown> | ReadonlySet<unknown> | WeakMap<WeakKey, unknown> | WeakSet<WeakKey> | RegExp | Error | Promise<unknown> | ArrayBufferLike | ArrayBufferView

/**
 * The type of a value after it has been JSON: a `Date` is a `string`, methods are gone, `undefined` in a list is `null`, and what JSON cannot
 * represent is `never`.
 */
export type Jsonify<T> =
  0 extends 1 & T ? T // any
    : unknown extends T ? T
      : T extends string | number | boolean | null | undefined | void ? T // void: of a factory that returns nothing
        : T extends { toJSON: (...args: never[]) => infer J } ? Jsonify<J>
          : T extends Lost ? never
            : T extends readonly unknown[] ? JsonifyList<T> : JsonifyObject<T>

type JsonifyList<T extends readonly unknown[]> = { [I in keyof T]: Jsonify<Exclude<T[I], undefined>> | (undefined extends T[I] ? null : never) }

type JsonifyObject<T> = { [K in keyof T as K extends symbol ? never : NonNullable<T[K]> extends Callable ? never : K]: Jsonify<T[K]> }
