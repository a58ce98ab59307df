import type { FastifyBaseLogger } from 'fastify'
import { reasonOf } from '../plugin/errors.js'

export interface OutageLog {
  /** Notes the outcome of a use by a partition. */
  note (partition: number, error: Error | undefined): void
  /** Removes a partition that this process no longer consumes. */
  forget (partition: number): void
}

/**
 * Logs `lost` when the first partition cannot use something, and `restored` when the last one can use it again.
 *
 * @param fields - logged with each message
 */
export function createOutageLog (log: FastifyBaseLogger, fields: object, lost: string, restored: string): OutageLog {
  const affected = new Set<number>()
  return {
    note (partition, error) {
      if (error !== undefined) {
        if (affected.size === 0) log.warn({ ...fields, reason: reasonOf(error) }, lost)
        affected.add(partition)
      } else if (affected.delete(partition) && affected.size === 0) {
        log.info({ ...fields }, restored)
      }
    },
    forget (partition) { affected.delete(partition) }
  }
}
