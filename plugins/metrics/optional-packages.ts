import { MissingPackageError } from './errors.js'

/**
 * Calls `load`, which imports an optional package.
 *
 * @throws `FST_REDIS_SUITE_METRICS_MISSING_PACKAGE` if the package is not installed
 */
export async function importPackage<T> (name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    throw isMissing(error, name) ? new MissingPackageError(name, name) : error
  }
}

/** A bundler or a test runner may resolve packages as CommonJS, whose code and message differ. */
function isMissing (error: unknown, name: string): boolean {
  if (!(error instanceof Error) || !('code' in error)) return false
  return (error.code === 'ERR_MODULE_NOT_FOUND' || error.code === 'MODULE_NOT_FOUND') &&
    error.message.includes(`'${name}'`)
}
