import { collectDefaultMetrics, Registry } from 'prom-client'

let ofProcess: Registry | undefined

/**
 * Puts the metrics of the process in a registry. They are made once: what they listen to cannot be told to stop.
 *
 * @returns a function that takes them out
 */
export function addProcessMetrics (registry: Registry): () => void {
  if (ofProcess === undefined) {
    ofProcess = new Registry()
    collectDefaultMetrics({ register: ofProcess })
  }
  const added = ofProcess.getMetricsAsArray().filter(({ name }) => registry.getSingleMetric(name) === undefined)
  for (const { name } of added) {
    const metric = ofProcess.getSingleMetric(name)
    if (metric !== undefined) registry.registerMetric(metric)
  }
  return () => { for (const { name } of added) registry.removeSingleMetric(name) }
}
