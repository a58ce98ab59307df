import { invalidArgumentError } from '../shared/plugin/errors.js'

const ALLOWED = 'a string that is not empty, or several, each once'

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
export function checkResources (given: unknown): readonly string[] {
  const resources: unknown[] = Array.isArray(given) ? given : [given]
  const isFit = resources.length > 0 && new Set(resources).size === resources.length
  if (!isFit || !resources.every(name => typeof name === 'string' && name !== '')) throw invalidArgumentError('lock', 'resource', given, ALLOWED)
  return resources as string[]
}
