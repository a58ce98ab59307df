import type { FastifyBaseLogger } from 'fastify'

/** Logs one line when the first partition cannot use something, and one when the last one can use it again. */
export class OutageLog {
  readonly #log: FastifyBaseLogger
  readonly #fields: object
  readonly #messages: { lost: string, restored: string }
  readonly #affected = new Set<number>()

  /** @param fields - logged with each message */
  constructor (log: FastifyBaseLogger, fields: object, messages: { lost: string, restored: string }) {
    this.#log = log
    this.#fields = fields
    this.#messages = messages
  }

  /** Notes the outcome of a use. */
  note (partition: number, error: Error | undefined): void {
    if (error !== undefined) {
      if (this.#affected.size === 0) this.#log.warn({ ...this.#fields, reason: error.message }, this.#messages.lost)
      this.#affected.add(partition)
    } else if (this.#affected.delete(partition) && this.#affected.size === 0) {
      this.#log.info(this.#fields, this.#messages.restored)
    }
  }

  /** Removes a partition that this process no longer consumes. */
  forget (partition: number): void {
    this.#affected.delete(partition)
  }
}
