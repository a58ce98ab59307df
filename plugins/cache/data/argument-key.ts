import { canonicalText, NotCanonicalError } from '../../shared/data/canonical.js'
import { hashId } from '../../shared/plugin/keys.js'
import { InvalidArgumentError } from '../errors.js'

/**
 * Returns the key for a call of a wrapped function: different arguments have different keys.
 *
 * @param name - the option `key`, which the key begins with
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` for an argument that is not plain data, such as an instance of a class
 */
export function argumentKey (name: string, args: readonly unknown[]): string {
  if (args.every(isReadable)) return `${name}:${JSON.stringify(args)}`
  return `${name}:#${hashId(`[${args.map((arg, index) => textOf(name, arg, index)).join()}]`)}`
}

/** Returns whether JSON represents the argument exactly. It writes -0 as 0. */
function isReadable (arg: unknown): boolean {
  return arg === null || typeof arg === 'string' || typeof arg === 'boolean' ||
    (Number.isFinite(arg) && !Object.is(arg, -0))
}

function textOf (name: string, arg: unknown, index: number): string {
  try {
    return canonicalText(arg)
  } catch (error) {
    throw error instanceof NotCanonicalError ? new InvalidArgumentError(name, index + 1, error.message) : error
  }
}
