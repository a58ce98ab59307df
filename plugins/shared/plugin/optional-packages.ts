import { pluginError, type PluginName } from './errors.js'

/**
 * Calls `load`, which imports an optional package.
 *
 * @throws `FST_REDIS_SUITE_<PLUGIN>_MISSING_PACKAGE` if the package is not installed
 */
export async function importPackage<T> (plugin: PluginName, name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    throw isMissing(error, name) ? missingPackageError(plugin, name) : error
  }
}

function missingPackageError (plugin: PluginName, name: string): Error {
  const MissingPackageError = pluginError(
    plugin, 'MISSING_PACKAGE', 'the package %s is not installed: run "npm install %s"'
  )
  return new MissingPackageError(name, name)
}

/** A bundler or a test runner may resolve packages as CommonJS, whose code and message differ. */
function isMissing (error: unknown, name: string): boolean {
  if (!(error instanceof Error) || !('code' in error)) return false
  return (error.code === 'ERR_MODULE_NOT_FOUND' || error.code === 'MODULE_NOT_FOUND') &&
    error.message.includes(`'${name}'`)
}
