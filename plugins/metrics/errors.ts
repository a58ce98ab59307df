import { pluginError } from '../shared/plugin/errors.js'

/** A package that the options need is not installed. It is an optional peer dependency, as only this plugin uses it. */
export const MissingPackageError = pluginError(
  'metrics', 'MISSING_PACKAGE', 'the package %s is not installed: run "npm install %s"'
)
