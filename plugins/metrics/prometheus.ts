// The modules that need prom-client. They are imported when the plugin is registered, as the package is optional.
import { collectDefaultMetrics, Registry } from 'prom-client'

export { Registry } from 'prom-client'
export { MetricRegistry } from './metric-registry.js'

let processRegistry: Registry | undefined

/** Adds the metrics of the process, which are created once. @returns a function that removes them */
export function addProcessMetrics (registry: Registry): () => void {
  if (processRegistry === undefined) {
    processRegistry = new Registry()
    collectDefaultMetrics({ register: processRegistry })
  }
  const added = processRegistry.getMetricsAsArray().filter(({ name }) => registry.getSingleMetric(name) === undefined)
  for (const { name } of added) {
    const metric = processRegistry.getSingleMetric(name)
    if (metric !== undefined) registry.registerMetric(metric)
  }
  return () => { for (const { name } of added) registry.removeSingleMetric(name) }
}
