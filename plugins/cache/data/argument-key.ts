import { canonicalText, NotCanonicalError } from '../../shared/plugin/canonical.js'
import { hashId } from '../../shared/plugin/keys.js'
import { InvalidArgumentError } from '../errors.js'

/**
 * Returns the key of a call of the wrapped function: different arguments have different keys.
 *
 * @param name - the option `key`
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` for an argument that is neither plain data nor of a known kind
 */
export function argumentKey (name: string, args: readonly unknown[]): string {
  if (args.every(isReadable)) return `${name}:${JSON.stringify(args)}`
  return `${name}:#${hashId(`[${args.map((arg, index) => textOf(name, arg, index)).join()}]`)}`
}

/** Whether JSON has the argument as it is. It has 0 for -0. */
function isReadable (arg: unknown): boolean {
  return arg === null || typeof arg === 'string' || typeof arg === 'boolean' || (Number.isFinite(arg) && !Object.is(arg, -0))
}

function textOf (name: string, arg: unknown, index: number): string {
  try {
    return canonicalText(arg)
  } catch (error) {
    throw error instanceof NotCanonicalError ? new InvalidArgumentError(name, index + 1, error.message) : error
  }
}
